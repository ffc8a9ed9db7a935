"""Whether photos and table are still what they were: by what the disk shows of them, then by their hashes."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fmtl.catalogue.photos.cells import Cell
from fmtl.catalogue.photos.folder import ImageError, ImageFolder, signature
from fmtl.catalogue.reading import fingerprint
from fmtl.dataset.prepared import IMAGES, PreparedDataset
from fmtl.dataset.shards import Source
from fmtl.errors import DataError, first_ten


def check_sources(dataset: PreparedDataset) -> None:
    """Raise DataError if the table or photos are there and not what the dataset was made from."""
    source, folder = dataset.manifest["source"], dataset.folder.resolve()
    root = folder / source["images_path"]
    problems = []
    for kind in ("", "test_"):
        table, before = folder / source.get(f"{kind}table_path", ""), source.get(f"{kind}sha256")
        if before and table.exists() and (found := fingerprint(table)) != before:
            problems.append(f"the table {table.resolve()} has changed (sha256 was {before[:8]}, is {found[:8]})")
    if root.is_dir():
        links = dataset.manifest["settings"].get("follow_links", False)
        changed = changed_photos(folder, root, follow_links=links)
        problems += [f"the photo {path} has changed" for path in changed]
    if problems:
        raise DataError(
            "no longer what its sources say; run 'fmtl prepare' again, or train on it as it is with "
            "--allow-stale true:\n" + first_ten(problems),
            where=str(dataset.folder),
        )


def changed_photos(folder: Path, root: Path, *, follow_links: bool = False) -> list[str]:
    """Paths of photos whose content is no longer that of the dataset in ``folder``; those that are gone have none."""
    before = pd.read_parquet(folder / IMAGES, columns=["path", "size", "mtime_ns", "sha256", "cell"])
    before = before[before["cell"] == ""]
    files = ImageFolder(root, follow_links=follow_links)
    now = scan(before["path"].tolist(), files)
    changed = []
    for source, size, mtime_ns, sha256 in zip(now, before["size"], before["mtime_ns"], before["sha256"], strict=True):
        if source.size >= 0 and (source.size, source.mtime_ns) != (size, mtime_ns):
            try:
                content, _ = files.read(source.path)
            except ImageError:
                continue
            if hashlib.sha256(content).hexdigest() != sha256:
                changed.append(source.path)
    return changed


def scan(
    paths: Sequence[str],
    folder: ImageFolder,
    *,
    checksums: Sequence[str] | None = None,
    cells: Sequence[Cell | None] | None = None,
) -> list[Source]:
    """What the disk shows of each image, without opening it.

    Args:
        checksums: That the images' bytes must have.
        cells: Where an image is a table's cell, which cell.
    """
    checksums, cells = checksums or [""] * len(paths), cells or [None] * len(paths)
    changed = {file: Path(file).stat().st_mtime_ns for file in {cell.file for cell in cells if cell}}
    seen: dict[str, tuple[int, int]] = {}  # many rows may share a photo
    found = []
    for path, checksum, cell in zip(paths, checksums, cells, strict=True):
        if cell:
            found.append(Source(path, 0, changed[cell.file], checksum, cell))
            continue
        if path not in seen:
            try:
                seen[path] = signature(folder.find(path)[1])
            except ImageError:
                seen[path] = -1, -1
        found.append(Source(path, *seen[path], checksum))
    return found
