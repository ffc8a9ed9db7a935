"""What of a run folder a store has already, kept in the folder itself: one file per store."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fmtl.errors import redacted
from fmtl.storage import durable
from fmtl.storage.cache import DAMAGE


@dataclass
class Delivered:
    """What a store has of a run folder.

    Attributes:
        store: Its address, for people.
        run_id: Of the run there.
        lines: Bytes of the journal whose lines it has.
        files: By path below the folder: ``size``, ``mtime_ns``, ``sha256`` of what it has, and ``at``.
        refused: By path, or ``model``, why it did not take a file or the model.
        model: ``id`` of the logged model there, and ``is_whole``.
        ended: Whether the run's end is recorded there.
        scores: Of a run that was brought from there: ``values`` and ``at`` of what it had said of its end.
    """

    path: Path
    store: str
    run_id: str | None = None
    experiment_id: str | None = None
    artifact_uri: str | None = None
    lines: int = 0
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    ended: bool = False
    scores: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def to(cls, store: str, record: Path) -> "Delivered":
        """What the store at an address has, by what was noted last."""
        name = hashlib.sha256(redacted(store).encode()).hexdigest()[:8]
        path = record / f"delivered-{name}.json"
        try:
            return cls(path=path, **json.loads(path.read_text(encoding="utf-8")))
        except DAMAGE:  # none yet, or torn: what is there is found by the folder's id
            return cls(path=path, store=redacted(store))

    def has_all(self, journal: Path) -> bool:
        """Whether the store took everything that the journal says, and every file."""
        return self.ended and not self.refused and self.lines == journal.stat().st_size

    def save(self) -> None:
        """Not waiting for the disk: what is lost by a power cut is delivered again, to the same effect."""
        content = {name: value for name, value in asdict(self).items() if name != "path"}
        with durable.replacing(self.path, sync=False) as temporary:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def all_of(record: Path) -> list[Delivered]:
    """Of every store that a run folder was delivered to."""
    found = []
    for path in sorted(record.glob("delivered-*.json")):
        try:
            found.append(Delivered(path=path, **json.loads(path.read_text(encoding="utf-8"))))
        except DAMAGE:
            continue
    return found
