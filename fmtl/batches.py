"""Batches of images or features and targets from a prepared dataset, the same whatever came before them."""

import queue
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fmtl import hardware, transforms
from fmtl.dataset import PreparedDataset
from fmtl.tasks import Task
from fmtl.transforms import Augmentation, Preprocess

RESIDENT_SHARE = 0.4  # of a GPU's free memory that stored pixels may take
PREFETCHED = 3  # batches
LOADED_AT_ONCE = 1024  # images


class Source(Protocol):
    """What a network is given for some rows of the dataset in an epoch, on the device where it will be used."""

    def load(self, rows: np.ndarray, epoch: int) -> Tensor: ...


class Photos:
    """Stored pixels as network input: ``(N, 3, px, px)`` float32, channels last, normalised.

    On a GPU the pixels lie in its memory where they fit, and are cropped, turned and normalised there.

    Args:
        augmentation: How training varies its images, each by (seed, epoch, row); None for evaluation.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        *,
        preprocess: Preprocess,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        device: torch.device | None = None,
    ):
        self.preprocess, self.augmentation, self.seed = preprocess, augmentation, seed
        self.device = device or torch.device("cpu")
        self._dataset = dataset
        self._drawn: tuple[int, Tensor] | None = None

    def load(self, rows: np.ndarray, epoch: int) -> Tensor:
        images = self._stored(rows)
        if self.augmentation is None:
            return transforms.prepare_for_network(images, self.preprocess)
        draws = self._draws(epoch)[torch.from_numpy(rows)].to(images.device, non_blocking=True)
        return transforms.augment(images, draws, self.augmentation, self.preprocess)

    def _stored(self, rows: np.ndarray) -> Tensor:
        """uint8 ``(N, 3, H, H)`` on the device."""
        if self.device.type == "cpu":
            return transforms.as_images(self._dataset.pixels(rows))
        resident = resident_pixels(self._dataset, self.device)
        if resident is None:
            return transforms.as_images(self._dataset.pixels(rows)).pin_memory().to(self.device, non_blocking=True)
        return resident[torch.from_numpy(rows).to(self.device, non_blocking=True)].permute(0, 3, 1, 2)

    def _draws(self, epoch: int) -> Tensor:
        if self._drawn is None or self._drawn[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch, 1])
            drawn = rng.random((len(self._dataset.table), transforms.NUM_DRAWS), dtype=np.float32)
            self._drawn = (epoch, torch.from_numpy(drawn))
        return self._drawn[1]


_resident: dict[tuple[str, torch.device], Tensor | None] = {}


def resident_pixels(dataset: PreparedDataset, device: torch.device) -> Tensor | None:
    """All stored pixels on the device, ``(N, H, H, 3)`` uint8, loaded once for all splits; None if they don't fit."""
    key = (dataset.digest, device)
    if key not in _resident:
        _resident.clear()  # of the dataset before
        size = len(dataset.table) * dataset.px**2 * 3
        fits = size < RESIDENT_SHARE * hardware.free_bytes(device)
        _resident[key] = _load(dataset, device) if fits else None
    return _resident[key]


def _load(dataset: PreparedDataset, device: torch.device) -> Tensor:
    """All stored pixels, a part at a time, so that the host never holds them all."""
    pixels = torch.empty((len(dataset.table), dataset.px, dataset.px, 3), dtype=torch.uint8, device=device)
    for start in range(0, len(pixels), LOADED_AT_ONCE):
        rows = np.arange(start, min(start + LOADED_AT_ONCE, len(pixels)))
        pixels[start : start + len(rows)] = torch.from_numpy(dataset.pixels(rows)).to(device)
    return pixels


class Features:
    """Features that were computed before, one row per row of the dataset.

    Args:
        features: ``(rows, D)`` float32.
    """

    def __init__(self, features: Tensor):
        self._features = features

    def load(self, rows: np.ndarray, epoch: int) -> Tensor:
        return self._features[torch.from_numpy(rows).to(self._features.device, non_blocking=True)]


class Batches:
    """An epoch of ``(images, targets)``, or of features instead of images.

    ``targets`` is a dict of ``(N,)`` int64 by task name. With ``shuffle`` the order is drawn from (seed, epoch), so
    that an epoch repeats whatever came before it.

    Args:
        source: What is loaded for the rows of a batch.
        targets: ``(rows of the dataset, T)`` int64, in the order of ``tasks``.
        rows: Rows of the dataset to go through.
        prefetch: Load the next batches in a thread while a GPU computes. A CPU has nothing to spare for it.
    """

    def __init__(
        self,
        source: Source,
        targets: np.ndarray,
        rows: np.ndarray,
        *,
        tasks: Sequence[Task],
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        prefetch: bool = False,
    ):
        self.source, self.rows, self.tasks, self.batch_size = source, rows, tasks, batch_size
        self.shuffle, self.seed, self.prefetch = shuffle, seed, prefetch
        self._targets = torch.from_numpy(targets)
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
        return prefetched(self._batches(), PREFETCHED) if self.prefetch else self._batches()

    def _batches(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        rows = np.random.default_rng([self.seed, self.epoch]).permutation(self.rows) if self.shuffle else self.rows
        for start, stop in pairwise(self._bounds()):
            chosen = rows[start:stop]
            targets = self._targets[torch.from_numpy(chosen)]
            yield self.source.load(chosen, self.epoch), {task.name: targets[:, t] for t, task in enumerate(self.tasks)}


def prefetched(batches: Iterator, ahead: int) -> Iterator:
    """The same items, made in a thread up to ``ahead`` before they are asked for; its error is raised here."""
    made: queue.Queue = queue.Queue(ahead)
    stopped = threading.Event()

    def put(kind: str, item: object) -> bool:
        while not stopped.is_set():
            try:
                made.put((kind, item), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in batches:
                if not put("item", item):
                    return
            put("end", None)
        except Exception as error:  # whatever it is, it belongs to the caller
            put("error", error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (found := made.get())[0] == "item":
            yield found[1]
        if found[0] == "error":
            raise found[1]
    finally:
        stopped.set()
        thread.join()
