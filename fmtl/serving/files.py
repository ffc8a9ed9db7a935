"""An exported file as what is served, also when another takes its place."""

from collections.abc import Callable
from pathlib import Path

from fmtl.catalogue.photos.folder import signature
from fmtl.model import exported
from fmtl.serving.served import Served


def served_of(model: exported.ExportedModel, name: str) -> Served:
    said = model.description
    return Served(model, name, model.sha256, version=said.version or None, data=said.data)


def followed(path: Path, num_threads: int | None = None) -> tuple[Served, Callable[[Served], Served | None]]:
    """The file as it is now, and what finds another in its place."""
    seen = signature(path.stat()) if path.is_file() else None
    first = served_of(exported.load(path, num_threads=num_threads), path.name)

    def changed(served: Served) -> Served | None:
        nonlocal seen
        now = signature(path.stat()) if path.is_file() else None
        if now is None or now == seen:
            return None
        seen = now
        found = served_of(exported.load(path, num_threads=num_threads), path.name)
        return None if found.digest == served.digest else found

    return first, changed
