"""The prepared dataset: one folder on disk.

Layout: ``manifest.json`` (the commit mark), ``table.parquet`` (a row per product photo that was kept),
``pixels-HASH.bin`` (uint8, ``(images, px, px, 3)``; the manifest has their order), ``images.parquet`` (a
row per image that was looked at: what it was and where its pixels lie), ``rejects.csv``, ``duplicates.csv``,
``report.html``, and where attributes do not apply to every product ``contradictions.csv``. Rows whose ``path`` is
the same share an image.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmtl.dataset.pixel_store import PixelStore
from fmtl.dataset.splits import SPLITS
from fmtl.errors import DataError
from fmtl.storage import durable
from fmtl.storage.cache import DAMAGE
from fmtl.storage.records import SEAL, checked, read_json, sealed
from fmtl.tasks import DOES_NOT_APPLY, IGNORE_INDEX, Task, Tasks

FORMAT, VERSION = "fmtl-dataset", 3
READABLE = (2, VERSION)  # 2: an image per row, shards by number
MANIFEST, TABLE, IMAGES = "manifest.json", "table.parquet", "images.parquet"
PART = "part.json"  # of a part of a dataset, in place of a manifest
REJECTS, DUPLICATES, REPORT = "rejects.csv", "duplicates.csv", "report.html"
CONTRADICTIONS = "contradictions.csv"  # only where an attribute does not apply to every product
_FIELDS = {"format": str, "version": int, "digest": str, "tasks": list, "image": dict, "files": dict}
_FACTS = {"shards": list, "counts": dict, "source": dict, "settings": dict, "notes": list, SEAL: str}
GROUP = "duplicate group"  # a column name that no task's slug can be


def shard_name(sha256: str) -> str:
    return f"pixels-{sha256[:32]}.bin"


def shard_names(manifest: Mapping) -> list[str]:
    """File names of a dataset's shards, in order; the same again where two hold the same pixels."""
    return manifest.get("shards") or [name for name in manifest["files"] if name.startswith("pixels-")]


def describe(
    folder: Path,
    table: pd.DataFrame,
    *,
    tasks: Tasks,
    image: Mapping,
    pixels: Sequence[str],
    **facts: Mapping | Sequence,
) -> "PreparedDataset":
    """The dataset that the files of ``folder`` make up, before its manifest is written by ``seal``.

    Args:
        table: Content of ``table.parquet``.
        image: ``px``, ``fit`` and ``background`` of the stored pixels, and what else decides them.
        pixels: Hash of each shard, in order.
        facts: What else the manifest says: ``counts``, ``source``, ``settings``, ``notes``.
    """
    names = [shard_name(sha) for sha in pixels]
    files = {name: file_entry(folder / name, sha) for name, sha in zip(names, pixels, strict=True)}
    content = {
        "tasks": tasks.to_json(),
        "image": {name: image[name] for name in ("px", "fit", "background")},
        # Not the Parquet file's own hash: that changes with the version of its writer.
        "table": hashlib.sha256(table.to_csv(index=False).encode()).hexdigest(),
        "pixels": list(pixels),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]  # MLflow takes 36
    manifest = {"format": FORMAT, "version": VERSION, "digest": digest, "tasks": content["tasks"], **facts}
    manifest |= {"image": dict(image), "shards": names, "files": files}
    return PreparedDataset(folder, manifest, tasks, table)


def seal(dataset: "PreparedDataset") -> None:
    """Write the manifest, which names every file with its hash; files added since ``describe`` are hashed now."""
    files = dataset.manifest["files"]
    files |= {p.name: file_entry(p) for p in sorted(dataset.folder.iterdir()) if p.name not in files}
    durable.write_json(dataset.folder / MANIFEST, sealed(dataset.manifest))


def file_entry(path: Path, sha256: str = "") -> dict:
    """What a manifest says of a file, whose hash may be known already."""
    return {"bytes": path.stat().st_size, "sha256": sha256 or durable.sha256(path)}


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared dataset, opened for reading.

    Attributes:
        folder: Where it lies.
        manifest: Content of ``manifest.json``.
        tasks: One per attribute.
        table: A row per product photo: id, path, split, duplicate group, and the columns of targets of each task.
    """

    folder: Path
    manifest: dict
    tasks: Tasks
    table: pd.DataFrame

    @property
    def digest(self) -> str:
        return self.manifest["digest"]

    @property
    def px(self) -> int:
        return self.manifest["image"]["px"]

    @cached_property
    def source_px(self) -> int:
        """Longer side of the photos as they came, pixels; the median."""
        images = pd.read_parquet(self.folder / IMAGES, columns=["reason", "side"])
        return int(images.loc[images["reason"] == "", "side"].median())

    @cached_property
    def sources(self) -> pd.DataFrame:
        """What each image was made from: a row per image of the columns ``path`` and ``cell``."""
        images = pd.read_parquet(self.folder / IMAGES, columns=["path", "cell", "reason"])
        return images[images["reason"] == ""].reset_index(drop=True)

    @cached_property
    def photo_hashes(self) -> np.ndarray:
        """sha256 of the photo that each row shows, ``(N,)`` text."""
        images = pd.read_parquet(self.folder / IMAGES, columns=["sha256", "reason"])
        return images.loc[images["reason"] == "", "sha256"].to_numpy()[self.image_of]

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split, ``(n,)`` int64."""
        return np.flatnonzero((self.table["split"] == split).to_numpy())

    @cached_property
    def targets(self) -> np.ndarray:
        """``(N, columns)`` int64 in the order of ``tasks``, ``IGNORE_INDEX`` where unknown."""
        return self.table[self.tasks.columns].to_numpy(dtype=np.int64, copy=True)

    @cached_property
    def _pixels(self) -> PixelStore:
        return PixelStore([self.folder / name for name in shard_names(self.manifest)], self.px)

    @property
    def num_images(self) -> int:
        """Stored; rows may share one."""
        return len(self._pixels)

    @cached_property
    def image_of(self) -> np.ndarray:
        """Number of the stored image of each row, ``(N,)`` int64."""
        if self.num_images == len(self.table):
            return np.arange(len(self.table))
        number = {path: i for i, path in reversed(list(enumerate(self.sources["path"])))}
        return self.table["path"].map(number).to_numpy(dtype=np.int64, copy=True)

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """Stored images of some rows, ``(n, px, px, 3)`` uint8."""
        return self._pixels.read(self.image_of[rows])

    def images(self, numbers: np.ndarray) -> np.ndarray:
        """Stored images by their own numbers, ``(n, px, px, 3)`` uint8."""
        return self._pixels.read(numbers)


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds a prepared dataset of any version, whole or damaged."""
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["format"] == FORMAT
    except DAMAGE:
        return False


def open_dataset(folder: Path | str, *, verify: bool = True) -> PreparedDataset:
    """Open a prepared dataset.

    Args:
        verify: Compare every file with its hash.

    Raises:
        DataError: Nothing is there, it is of another version, or a file was changed.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if (folder / PART).is_file():
        raise DataError(f"{folder}: a part of a dataset; fmtl join makes one dataset of all parts")
    if not path.is_file():
        raise DataError(f"{folder}: no prepared dataset there (no {MANIFEST}); run 'fmtl prepare' with out={folder}")
    manifest = read_manifest(path)
    for name, item in manifest["files"].items() if verify else ():
        file = folder / name
        if not file.is_file() or file_entry(file) != item:
            raise DataError(
                f"{file}: missing or changed since prepare (sha256 differs); run 'fmtl prepare --reuse false' again"
            )
    tasks = Tasks.from_json(manifest["tasks"], where=str(path))
    dataset = PreparedDataset(folder, manifest, tasks, pd.read_parquet(folder / TABLE))
    _check_targets(dataset)
    dataset.images(np.arange(0))  # now, or files of a dataset that takes this one's place might be read later
    return dataset


def _check_targets(dataset: PreparedDataset) -> None:
    """Raises DataError where the table has not the tasks that the manifest names, or other classes."""
    where, again = str(dataset.folder / TABLE), "run 'fmtl prepare' again"
    absent = [column for column in dataset.tasks.columns if column not in dataset.table]
    if absent:
        raise DataError(f"has no column '{absent[0]}', which {MANIFEST} names; {again}", where=where)
    for task, place in dataset.tasks.places():
        columns, most = dataset.targets[:, place], 2 if task.is_set else task.num_classes
        bad, at = np.nonzero((columns != IGNORE_INDEX) & ((columns < 0) | (columns >= most)))
        if len(bad):
            told = f"row {bad[0]}, '{task.columns[at[0]]}': class number {columns[bad[0], at[0]]}, of {most} classes"
            raise DataError(f"{told}; {again}", where=where)


def read_manifest(path: Path) -> dict[str, Any]:
    """Raises DataError where it is not one, of another version, or altered."""
    again = "run 'fmtl prepare' again"
    try:
        manifest = read_json(path)
    except DataError as error:
        raise DataError(f"not a readable manifest: {error.message}; {again}", where=str(path)) from error
    known = isinstance(manifest, dict) and manifest.get("format") == FORMAT and manifest.get("version") in READABLE
    if not known:
        raise DataError(f"{path}: expected {FORMAT} version {VERSION}; {again}")
    checked(manifest, _FIELDS, optional=_FACTS, where=str(path))
    for name, item in manifest["files"].items():
        checked(item, {"bytes": int, "sha256": str}, where=f"{path}, file {str(name)[:80]!r}")
    names = [*manifest["files"], *shard_names(manifest)]
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise DataError("names files outside of its folder", where=str(path))
    unknown = [name for name in (TABLE, *shard_names(manifest)) if name not in manifest["files"]]
    if unknown:
        raise DataError(f"says nothing of the file {unknown[0][:80]!r}", where=str(path))
    return manifest


def class_counts(dataset: PreparedDataset) -> dict[str, pd.DataFrame]:
    """Per task: a row per class, a column per split with the number of images that are of it, or have it."""
    tables = {}
    for task, place in dataset.tasks.places():
        columns = {split: dataset.targets[dataset.rows(split), place] for split in SPLITS}
        counts = {
            split: (c == 1).sum(axis=0) if task.is_set else np.bincount(c[c >= 0], minlength=task.num_classes)
            for split, c in columns.items()
        }
        tables[task.name] = pd.DataFrame(counts, index=list(task.classes))
    return tables


def unlabelled(dataset: PreparedDataset, task: Task) -> tuple[int, int]:
    """Rows whose label is not known, and rows to which the attribute does not apply."""
    targets = dataset.tasks.by_name(dataset.targets)
    blank = (targets[task.name].reshape(len(dataset.table), -1) == IGNORE_INDEX).all(axis=1)
    applies = dataset.tasks.applicability.get(task.name)
    not_applicable = targets[applies.name] == applies.classes.index(DOES_NOT_APPLY) if applies else np.zeros_like(blank)
    return int((blank & ~not_applicable).sum()), int(not_applicable.sum())
