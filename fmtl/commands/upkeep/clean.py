"""``clean``: what runs, caches and models take, and away with what a store provably has."""

from collections.abc import Iterable
from pathlib import Path

from tqdm.auto import tqdm

from fmtl.errors import DataError
from fmtl.settings.schema import CleanSettings
from fmtl.storage import durable
from fmtl.storage.cache import cache_dir
from fmtl.tracking import earlier
from fmtl.tracking.delivery import state, verifying
from fmtl.tracking.record import folder as folders
from fmtl.tracking.record.folder import RunFolder


def clean(settings: CleanSettings) -> None:
    """Run the whole command; prints what there is, and what was removed."""
    durable.sweep()
    if settings.run is None:
        _list()
        return
    chosen = folders.known() if settings.run == "all" else [_deliverable(settings.run)]
    freed = 0
    for folder in tqdm(chosen, desc="clean", unit=" runs", disable=None, leave=False):
        size = _bytes([folder.root])
        try:
            with folder.held(), folder.delivering() as free:
                why_not = verifying.why_kept(folder) if free else "it is being delivered"
                if not (why_not or settings.dry_run):
                    folder.remove()
        except DataError as error:  # somebody works on it
            why_not = error.message
        done = f"kept: {why_not}:" if why_not else "would be removed:" if settings.dry_run else "removed:"
        print(f"{done} {folder.root} ({_megabytes(size)})")
        freed += 0 if why_not else size
    print(f"{_megabytes(freed)} {'could be' if settings.dry_run else 'are'} free")


def _list() -> None:
    total = 0
    for folder in folders.known():
        size = _bytes([folder.root])
        total += size
        stores = [found.store for found in state.all_of(folder.record) if found.ended and not found.refused]
        where = f"delivered to {', '.join(stores)}" if stores else "not delivered: fmtl sync --run " + folder.root.name
        print(f"run {folder.root}: {_megabytes(size)}, {where}")
    local = _bytes(earlier.STORES_HERE.glob("*/*"))
    print(f"runs to be delivered: {_megabytes(total)}; runs and models of a store here ({earlier.STORES_HERE}): "
          f"{_megabytes(local)}, which 'mlflow gc' looks after")  # fmt: skip
    print(f"caches ({cache_dir()}): {_megabytes(_bytes([cache_dir()]))}, kept within bounds")
    if total:
        print("fmtl clean --run all removes the runs that their store has, after looking at every file there")


def _deliverable(run: str) -> RunFolder:
    folder = earlier.require_here(run)
    if folder.files != folder.root:
        raise DataError(f"{folder.root}: lies in the store itself; 'mlflow runs delete' removes it", where="run")
    return folder


def _bytes(places: Iterable[Path]) -> int:
    files = {path for place in places for path in (place.rglob("*") if place.is_dir() else [place])}
    return sum(path.lstat().st_size for path in files if path.is_file() and not path.is_symlink())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
