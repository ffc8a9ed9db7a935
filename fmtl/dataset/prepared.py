"""The prepared dataset: one folder on disk.

Layout: ``manifest.json`` (the commit mark), ``table.parquet`` (a row per product photo that was kept),
``pixels-HASH.bin`` (uint8, ``(images, px, px, 3)``; the manifest has their order), ``images.parquet`` (a
row per image that was looked at: what it was and where its pixels lie), ``rejects.csv``, ``duplicates.csv``,
``report.html``. Rows whose ``path`` is the same share an image.
"""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmtl.dataset.splits import SPLITS
from fmtl.errors import DataError
from fmtl.storage import durable
from fmtl.storage.records import SEAL, checked, read_json, sealed
from fmtl.tasks import Tasks

FORMAT, VERSION = "fmtl-dataset", 3
READABLE = (2, VERSION)  # 2: an image per row, shards by number
MANIFEST, TABLE, IMAGES = "manifest.json", "table.parquet", "images.parquet"
REJECTS, DUPLICATES, REPORT = "rejects.csv", "duplicates.csv", "report.html"
_FIELDS = {"format": str, "version": int, "digest": str, "tasks": list, "image": dict, "files": dict}
_FACTS = {"shards": list, "counts": dict, "source": dict, "settings": dict, "notes": list, SEAL: str}
MOST_OPEN = 256  # shards; each holds a file descriptor, of which many systems give a process 1,024
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
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha} for name, sha in zip(names, pixels, strict=True)
    }
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
    files |= {p.name: _file_entry(p) for p in sorted(dataset.folder.iterdir()) if p.name not in files}
    durable.write_json(dataset.folder / MANIFEST, sealed(dataset.manifest))


def _file_entry(path: Path) -> dict:
    return {"bytes": path.stat().st_size, "sha256": durable.sha256(path)}


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared dataset, opened for reading.

    Attributes:
        folder: Where it lies.
        manifest: Content of ``manifest.json``.
        tasks: One per attribute.
        table: A row per product photo: id, path, split, duplicate group, and a target column per task slug.
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

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split, ``(n,)`` int64."""
        return np.flatnonzero((self.table["split"] == split).to_numpy())

    @cached_property
    def targets(self) -> np.ndarray:
        """``(N, T)`` int64 in the order of ``tasks``, ``IGNORE_INDEX`` where unknown."""
        return self.table[[task.slug for task in self.tasks]].to_numpy(dtype=np.int64, copy=True)

    @cached_property
    def _pixels(self) -> "PixelStore":
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


class PixelStore:
    """Shard files read as one long array of images.

    They are read rather than mapped: a look at a mapped file that was cut short meanwhile would end the process.
    """

    def __init__(self, files: Sequence[Path], px: int):
        self._open: dict[int, int] = {}  # descriptors, the least recently used first
        self._reading = threading.Lock()
        self._files, self._px = files, px
        self._states = [file.stat() for file in files]
        self._starts = np.cumsum([0, *[state.st_size // (px * px * 3) for state in self._states]])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, rows: np.ndarray) -> np.ndarray:
        """``(n, px, px, 3)`` uint8.

        Raises:
            DataError: A file was replaced, changed or cut short since the dataset was opened.
        """
        out = np.empty((len(rows), self._px, self._px, 3), np.uint8)
        with self._reading:  # a descriptor that another thread closes may be another file's by then
            self._read(rows, out)
        return out

    def _read(self, rows: np.ndarray, out: np.ndarray) -> None:
        size = self._px * self._px * 3
        looked_at = set()
        for i, (row, s) in enumerate(zip(rows, np.searchsorted(self._starts, rows, side="right") - 1, strict=True)):
            shard = self._shard(s)
            if s not in looked_at:
                looked_at.add(s)
                self._check(s, os.fstat(shard))
            left, start = out[i].reshape(-1).data, int(row - self._starts[s]) * size
            while left:
                num = os.preadv(shard, [left], start)  # may be fewer on a network's file system
                if not num:
                    raise self._changed(s)
                left, start = left[num:], start + num

    def _shard(self, number: int) -> int:
        shard = self._open.pop(number, None)
        if shard is None:
            try:
                shard = os.open(self._files[number], os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise self._changed(number) from error
            if len(self._open) >= MOST_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
        self._open[number] = shard
        return shard

    def _check(self, number: int, now: os.stat_result) -> None:
        was = self._states[number]
        same = os.path.samestat(now, was) and (now.st_size, now.st_mtime_ns) == (was.st_size, was.st_mtime_ns)
        if not same:
            raise self._changed(number)

    def _changed(self, number: int) -> DataError:
        file = self._files[number]
        return DataError(
            f"{file.parent}: the dataset was replaced, changed or removed while it was in use ({file.name}); run again"
        )

    def __getstate__(self) -> dict[str, Any]:
        """In another process the descriptors mean nothing."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_open", "_reading")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _open={}, _reading=threading.Lock())

    def __del__(self) -> None:
        for shard in self._open.values():
            with contextlib.suppress(OSError):
                os.close(shard)


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds a prepared dataset of any version, whole or damaged."""
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
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
    if not path.is_file():
        raise DataError(f"{folder}: no prepared dataset there (no {MANIFEST}); run 'fmtl prepare' with out={folder}")
    manifest = _manifest(path)
    for name, item in manifest["files"].items() if verify else ():
        file = folder / name
        if not file.is_file() or _file_entry(file) != item:
            raise DataError(
                f"{file}: missing or changed since prepare (sha256 differs); run 'fmtl prepare --reuse false' again"
            )
    tasks = Tasks.from_json(manifest["tasks"], where=str(path))
    dataset = PreparedDataset(folder, manifest, tasks, pd.read_parquet(folder / TABLE))
    dataset.images(np.arange(0))  # now, or files of a dataset that takes this one's place might be read later
    return dataset


def _manifest(path: Path) -> dict[str, Any]:
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
    names = [*manifest["files"], *shard_names(manifest)]
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise DataError("names files outside of its folder", where=str(path))
    return manifest


def class_counts(dataset: PreparedDataset) -> dict[str, pd.DataFrame]:
    """Per task: a row per class, a column per split with the number of images."""
    tables = {}
    for t, task in enumerate(dataset.tasks):
        columns = {split: dataset.targets[dataset.rows(split), t] for split in SPLITS}
        counts = {split: np.bincount(c[c >= 0], minlength=task.num_classes) for split, c in columns.items()}
        tables[task.name] = pd.DataFrame(counts, index=list(task.classes))
    return tables
