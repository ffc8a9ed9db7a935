"""Batches of images and targets from a prepared dataset, the same whatever came before them."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fmtl import transforms
from fmtl.dataset import PreparedDataset
from fmtl.transforms import Preprocess


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
