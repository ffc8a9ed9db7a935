"""What a network is given for some rows of a prepared dataset: their photos, or features that were computed before."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fmtl import hardware
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.dataset.prepared import PreparedDataset
from fmtl.loading import augment
from fmtl.loading.augment import Augmentation
from fmtl.loading.preprocess import as_images, prepare_for_network

RESIDENT_SHARE = 0.4  # of a GPU's free memory that stored pixels may take
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
            return prepare_for_network(images, self.preprocess)
        draws = self._draws(epoch)[torch.from_numpy(rows)].to(images.device, non_blocking=True)
        return augment.augment(images, draws, self.augmentation, self.preprocess)

    def _stored(self, rows: np.ndarray) -> Tensor:
        """uint8 ``(N, 3, H, H)`` on the device."""
        if self.device.type == "cpu":
            return as_images(self._dataset.pixels(rows))
        resident = resident_pixels(self._dataset, self.device)
        if resident is None:
            return as_images(self._dataset.pixels(rows)).pin_memory().to(self.device, non_blocking=True)
        images = torch.from_numpy(self._dataset.image_of[rows]).to(self.device, non_blocking=True)
        return resident[images].permute(0, 3, 1, 2)

    def _draws(self, epoch: int) -> Tensor:
        if self._drawn is None or self._drawn[0] != epoch:
            num = len(self._dataset.table)
            # One generator for what was drawn first, another for what came to it: the first draws stay as they were.
            drawn = [np.random.default_rng([self.seed, epoch, kind + 1]).random((num, size), dtype=np.float32)
                     for kind, size in enumerate(augment.DRAWS)]  # fmt: skip
            self._drawn = (epoch, torch.from_numpy(np.concatenate(drawn, axis=1)))
        return self._drawn[1]


_resident: dict[tuple[str, torch.device], Tensor | None] = {}


def resident_pixels(dataset: PreparedDataset, device: torch.device) -> Tensor | None:
    """All stored images on the device, ``(images, H, H, 3)`` uint8, loaded once for all splits; None if too many."""
    key = (dataset.digest, device)
    if key not in _resident:
        _resident.clear()  # of the dataset before
        size = dataset.num_images * dataset.px**2 * 3
        fits = size < RESIDENT_SHARE * hardware.free_bytes(device)
        _resident[key] = _load(dataset, device) if fits else None
    return _resident[key]


def _load(dataset: PreparedDataset, device: torch.device) -> Tensor:
    """All stored images, a part at a time, so that the host never holds them all."""
    pixels = torch.empty((dataset.num_images, dataset.px, dataset.px, 3), dtype=torch.uint8, device=device)
    for start in range(0, len(pixels), LOADED_AT_ONCE):
        numbers = np.arange(start, min(start + LOADED_AT_ONCE, len(pixels)))
        pixels[start : start + len(numbers)] = torch.from_numpy(dataset.images(numbers)).to(device)
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
