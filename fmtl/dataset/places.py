"""Where a dataset is made from, and where it goes: found, and checked before any work."""

import json
import os
from pathlib import Path
from typing import Any

from fmtl.catalogue.reading import fingerprint
from fmtl.dataset.prepared import MANIFEST, is_dataset
from fmtl.errors import DataError, UsageError


def check_out(out: Path, *, table: str, images: str | None) -> None:
    """Raise UsageError where publishing the dataset would cost the user something."""
    if out.exists() and not is_dataset(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"out: {out} exists and is no prepared dataset; choose another folder or remove it")
    for name, source in (("table", table), ("images", images)):
        if source and Path(source).resolve().is_relative_to(out.resolve()):
            raise UsageError(f"out: {out} holds {name} {source} and would be replaced; choose another folder")
    if Path(table).is_dir() and out.resolve().is_relative_to(Path(table).resolve()):
        raise UsageError(
            f"out: {out} lies in the table's folder and would be read as a part of it; choose another folder"
        )
    if out.exists():
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8")) if is_dataset(out) else {"files": ()}
        ours = {MANIFEST, *manifest["files"]}
        strange = sorted(path.name for path in out.iterdir() if path.name not in ours and path.name[0] != ".")
        if strange:
            raise UsageError(f"out: {out} also holds {', '.join(strange[:5])}, which would be lost; move it elsewhere")


def image_root(table: str, images: str | None) -> Path:
    """The image folder: the one named, else ``images`` beside the table, else the table's own."""
    path = Path(table)
    beside = path if path.is_dir() else path.parent
    root = Path(images) if images else beside / "images" if (beside / "images").is_dir() else beside
    if not root.is_dir():
        raise DataError(f"{root} is not a folder", where="images")
    return root


def source(table: str, root: Path, out: Path) -> dict[str, Any]:
    """What the dataset is made from; paths are relative to the dataset's folder, which may move with them."""
    path, out = Path(table), out.resolve()
    if not path.exists():
        told = "no such table; expected a CSV or Parquet file, a folder of them, or 'sample'"
        raise DataError(told, where=str(path))
    return {
        "table": path.name,
        "table_path": os.path.relpath(path.resolve(), out),
        "sha256": fingerprint(path),
        "images_path": os.path.relpath(root.resolve(), out),
    }
