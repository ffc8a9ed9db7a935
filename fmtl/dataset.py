"""The prepared dataset: one folder on disk, and batches from it.

Layout: ``manifest.json`` (the commit mark), ``table.parquet`` (a row per kept image), ``pixels-NNNNN.bin``
(memory-mapped uint8, ``(rows, px, px, 3)``), ``rejects.csv``, ``report.html``.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fmtl import durable, transforms
from fmtl.errors import DataError
from fmtl.splits import SPLITS
from fmtl.tasks import Task, tasks_from_json, tasks_to_json
from fmtl.transforms import Preprocess

FORMAT, VERSION = "fmtl-dataset", 1
MANIFEST, TABLE, REJECTS, REPORT = "manifest.json", "table.parquet", "rejects.csv", "report.html"
GROUP = "duplicate group"  # a column name that no task's slug can be
SHARD_BYTES = 512 * 2**20


class PixelWriter:
    """Appends decoded images to shards, in constant memory."""

    def __init__(self, folder: Path, px: int):
        self.folder, self.px = folder, px
        self.rows_per_shard = max(1, SHARD_BYTES // (px * px * 3))
        self.num_rows = 0
        self._file = None

    def append(self, pixels: np.ndarray) -> None:
        """Add one image, ``(px, px, 3)`` uint8."""
        if self.num_rows % self.rows_per_shard == 0:
            self.close()
            self._file = (self.folder / f"pixels-{self.num_rows // self.rows_per_shard:05d}.bin").open("wb")
        self._file.write(np.ascontiguousarray(pixels).data)
        self.num_rows += 1

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


def describe(
    folder: Path, table: pd.DataFrame, *, tasks: Sequence[Task], image: Mapping, **facts: Mapping
) -> "PreparedDataset":
    """The dataset that the files of ``folder`` make up, before its manifest is written by ``seal``.

    Args:
        table: Content of ``table.parquet``.
        image: ``px``, ``fit`` and ``background`` of the stored pixels.
        facts: What else the manifest says: ``counts``, ``source``, ``settings``.
    """
    files = {path.name: _file_entry(path) for path in sorted(folder.iterdir())}
    content = {
        "tasks": tasks_to_json(tasks),
        "image": dict(image),
        # Not the Parquet file's own hash: that changes with the version of its writer.
        "table": hashlib.sha256(table.to_csv(index=False).encode()).hexdigest(),
        "pixels": [item["sha256"] for name, item in files.items() if name.startswith("pixels-")],
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]  # MLflow takes 36
    manifest = {"format": FORMAT, "version": VERSION, "digest": digest, "tasks": content["tasks"], **facts}
    return PreparedDataset(folder, manifest | {"image": content["image"], "files": files}, list(tasks), table)


def seal(dataset: "PreparedDataset") -> None:
    """Write the manifest, which names every file with its hash; files added since ``describe`` are hashed now."""
    files = dataset.manifest["files"]
    files |= {p.name: _file_entry(p) for p in sorted(dataset.folder.iterdir()) if p.name not in files}
    durable.write_json(dataset.folder / MANIFEST, dataset.manifest)


def _file_entry(path: Path) -> dict:
    return {"bytes": path.stat().st_size, "sha256": durable.sha256(path)}


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared dataset, opened for reading.

    Attributes:
        folder: Where it lies.
        manifest: Content of ``manifest.json``.
        tasks: One per attribute.
        table: A row per image: id, path, split, duplicate group, and a target column per task slug.
    """

    folder: Path
    manifest: dict
    tasks: list[Task]
    table: pd.DataFrame

    @property
    def digest(self) -> str:
        return self.manifest["digest"]

    @property
    def px(self) -> int:
        return self.manifest["image"]["px"]

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split, ``(n,)`` int64."""
        return np.flatnonzero((self.table["split"] == split).to_numpy())

    @cached_property
    def targets(self) -> np.ndarray:
        """``(N, T)`` int64 in the order of ``tasks``, ``IGNORE_INDEX`` where unknown."""
        return self.table[[task.slug for task in self.tasks]].to_numpy(dtype=np.int64)

    @cached_property
    def _shards(self) -> list[np.memmap]:
        names = sorted(name for name in self.manifest["files"] if name.startswith("pixels-"))
        shape = (-1, self.px, self.px, 3)
        return [np.memmap(self.folder / name, np.uint8, mode="r").reshape(shape) for name in names]

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """Stored images of some rows, ``(n, px, px, 3)`` uint8."""
        per_shard = len(self._shards[0])
        out = np.empty((len(rows), self.px, self.px, 3), np.uint8)
        for i, row in enumerate(rows):
            out[i] = self._shards[row // per_shard][row % per_shard]
        return out


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds a prepared dataset of any version, whole or damaged."""
    try:
        return json.loads((folder / MANIFEST).read_text())["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def open_dataset(folder: Path) -> PreparedDataset:
    """Open and verify every file against its hash.

    Raises:
        DataError: Nothing is there, it is of another version, or a file was changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder}: no prepared dataset there (no {MANIFEST}); run 'fmtl prepare' with out={folder}")
    try:
        manifest = json.loads(path.read_text())
        known = manifest["format"] == FORMAT and manifest["version"] == VERSION
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a readable manifest ({error}); run 'fmtl prepare' again") from error
    if not known:
        raise DataError(f"{path}: expected {FORMAT} version {VERSION}; run 'fmtl prepare' again")
    for name, item in manifest["files"].items():
        file = folder / name
        if not file.is_file() or _file_entry(file) != item:
            raise DataError(f"{file}: missing or changed since prepare (sha256 differs); run 'fmtl prepare' again")
    return PreparedDataset(folder, manifest, tasks_from_json(manifest["tasks"]), pd.read_parquet(folder / TABLE))


def class_counts(dataset: PreparedDataset) -> dict[str, pd.DataFrame]:
    """Per task: a row per class, a column per split with the number of images."""
    tables = {}
    for t, task in enumerate(dataset.tasks):
        columns = {split: dataset.targets[dataset.rows(split), t] for split in SPLITS}
        counts = {split: np.bincount(c[c >= 0], minlength=task.num_classes) for split, c in columns.items()}
        tables[task.name] = pd.DataFrame(counts, index=list(task.classes))
    return tables


class Batches:
    """An epoch of ``(images, targets)`` from a prepared dataset.

    ``images`` is ``(N, 3, px, px)`` float32, channels last, normalised; ``targets`` a dict of ``(N,)`` int64
    by task name. For training the order is drawn from (seed, epoch) and each image's augmentation from (seed,
    epoch, row), so that an epoch repeats whatever came before it.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        rows: np.ndarray,
        *,
        preprocess: Preprocess,
        batch_size: int,
        shuffle: bool = False,
        augment: bool = False,
        seed: int = 0,
    ):
        self.dataset, self.rows, self.preprocess = dataset, rows, preprocess
        self.batch_size, self.shuffle, self.augment, self.seed = batch_size, shuffle, augment, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._bounds()) - 1

    def _bounds(self) -> list[int]:
        """Where batches start; a last batch of one joins the one before, since BatchNorm can't train on it."""
        bounds = [*range(0, len(self.rows), self.batch_size), len(self.rows)]
        if self.shuffle and len(bounds) > 2 and bounds[-1] - bounds[-2] == 1:
            del bounds[-2]
        return bounds

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        rows = rng.permutation(self.rows) if self.shuffle else self.rows
        draws = rng.random((len(self.dataset.table), 4)) if self.augment else None
        bounds = self._bounds()
        for start, stop in pairwise(bounds):
            chosen = rows[start:stop]
            images = transforms.as_images(self.dataset.pixels(chosen))
            if draws is not None:
                images = transforms.augment(images, draws[chosen], self.preprocess.px)
            targets = torch.from_numpy(self.dataset.targets[chosen])
            yield (
                transforms.prepare_for_network(images, self.preprocess),
                {task.name: targets[:, t] for t, task in enumerate(self.dataset.tasks)},
            )
