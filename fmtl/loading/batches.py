"""Batches of images or features and targets from a prepared dataset, the same whatever came before them."""

from collections.abc import Iterator, Sequence
from copy import copy
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fmtl.loading.prefetch import prefetched
from fmtl.loading.sources import Source
from fmtl.tasks import Tasks
from fmtl.together.ranks import ALONE, Place

PREFETCHED = 3  # batches
Batch = tuple[Tensor, dict[str, Tensor]]  # images, and targets by task name


class Batches:
    """An epoch of ``(images, targets)``, or of features instead of images.

    ``targets`` is a dict of ``(N,)`` int64 by task name, of a set ``(N, values)``. With ``shuffle`` the order is drawn
    from (seed, epoch), so that an epoch repeats whatever came before it. Of processes that train together each has its
    share of every batch: the batches are those of one process alone, but for a last one of fewer than two images each.

    Args:
        source: What is loaded for the rows of a batch.
        targets: ``(rows of the dataset, columns of targets)`` int64, in the order of ``tasks``.
        rows: Rows of the dataset to go through.
        prefetch: Load the next batches in a thread while a GPU computes. A CPU has nothing to spare for it.
        names: Of the dataset's rows, for messages.
        place: Of this process among those that train together; there are rows for all of them.
    """

    def __init__(
        self,
        source: Source,
        targets: np.ndarray,
        rows: np.ndarray,
        *,
        tasks: Tasks,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        prefetch: bool = False,
        names: Sequence[str] = (),
        place: Place = ALONE,
    ):
        self.source, self.rows, self.tasks, self.batch_size = source, rows, tasks, batch_size
        self.shuffle, self.seed, self.prefetch = shuffle, seed, prefetch
        self._targets, self._names, self.place = torch.from_numpy(targets), names, place
        self.epoch = self._start = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def after(self, num_batches: int) -> "Batches":
        """The same epoch without its first batches."""
        rest = copy(self)
        rest._start = num_batches
        return rest

    def paths(self, first: int, last: int) -> list[str]:
        """Names of the rows in batches [first, last) of this epoch."""
        bounds = self._bounds()
        return [self._names[row] for row in self._order()[bounds[first] : bounds[last]]] if self._names else []

    def images_in(self, first: int, last: int) -> int:
        """Images in batches [first, last), of all processes together."""
        bounds = self._bounds()
        return bounds[last] - bounds[first]

    def positions(self) -> Tensor:
        """Of this process's rows in the order of all, ``(N,)``."""
        numbers = np.arange(len(self.rows))
        return torch.from_numpy(np.concatenate([numbers[self.place.share(*pair)] for pair in pairwise(self._bounds())]))

    def __len__(self) -> int:
        return max(len(self._bounds()) - 1 - self._start, 0)  # of more processes than it was begun with

    def _bounds(self) -> list[int]:
        """Where batches start; a last batch that is too small for all processes joins the one before."""
        bounds = [*range(0, len(self.rows), self.batch_size), len(self.rows)]
        if len(bounds) > 2 and bounds[-1] - bounds[-2] < self.place.least(is_training=self.shuffle):
            del bounds[-2]
        return bounds

    def __iter__(self) -> Iterator[Batch]:
        return prefetched(self._batches(), PREFETCHED) if self.prefetch else self._batches()

    def _order(self) -> np.ndarray:
        return np.random.default_rng([self.seed, self.epoch]).permutation(self.rows) if self.shuffle else self.rows

    def _batches(self) -> Iterator[Batch]:
        rows = self._order()
        for start, stop in pairwise(self._bounds()[self._start :]):
            chosen = rows[self.place.share(start, stop)]
            targets = self._targets[torch.from_numpy(chosen)]
            yield self.source.load(chosen, self.epoch), self.tasks.by_name(targets)
