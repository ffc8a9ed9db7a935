"""Batches that a user's own loaders bring, checked one by one. N images, K classes of a task."""

from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fmtl.errors import DataError
from fmtl.loading.batches import Batch
from fmtl.tasks import IGNORE_INDEX, Task, Tasks


class GivenLoader(Sized, Protocol):
    """What a user brings: batches of anything, and how many there are."""

    def __iter__(self) -> Iterator[object]: ...


class Checked:
    """A loader whose batches are what training takes, or else an error that names the batch.

    Batches become images ``(N, 3, px, px)`` float32 and targets ``(N,)`` int64 by task name, whatever kind of float
    and integer they came in.

    Args:
        split: For messages: ``train``, ``val`` or ``test``.
        loader: Of ``(images, dict of targets)``; with a length.
        tasks: Those whose targets are needed.

    Raises:
        DataError: It has no length; or, of its batches while they come, one that can't be used.
    """

    def __init__(self, split: str, loader: GivenLoader, tasks: Tasks):
        self._name, self._loader, self._tasks = f"{split}_loader", loader, tasks
        try:
            len(loader)
        except TypeError as error:
            raise DataError(
                f"{self._name}: it has no length, and schedule and progress need the batches' number"
            ) from error

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(self._loader, 1):
            yield self._checked(number, batch)

    def set_epoch(self, epoch: int) -> None:
        """Passed on to a loader that wants to know."""
        if hasattr(self._loader, "set_epoch"):
            self._loader.set_epoch(epoch)

    def first_shape(self) -> tuple[int, ...]:
        """Of the first batch's images."""
        batch = next(iter(self), None)
        if batch is None:
            raise DataError(f"{self._name}: it gives no batch")
        return tuple(batch[0].shape)

    def _checked(self, number: int, batch: object) -> Batch:
        where = f"{self._name}, batch {number}"
        if not isinstance(batch, Sequence) or len(batch) != 2 or not isinstance(batch[1], Mapping):
            raise DataError(f"{where}: expected (images, dict of targets), got {type(batch).__name__}")
        images, targets = batch
        images = self._images(where, images)
        return images, {task.name: self._targets(where, task, targets, len(images)) for task in self._tasks}

    def _images(self, where: str, images: object) -> Tensor:
        if not isinstance(images, Tensor | np.ndarray):
            raise DataError(f"{where}: expected a tensor of images, got {type(images).__name__}")
        images = torch.as_tensor(images)
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise DataError(
                f"{where}: expected images (N, 3, px, px) of floats, got {tuple(images.shape)} {images.dtype}"
            )
        return images.float()

    def _targets(self, where: str, task: Task, targets: Mapping, num_images: int) -> Tensor:
        if task.name not in targets:
            raise DataError(f"{where}: no targets of '{task.name}'; it gives {', '.join(map(str, targets))}")
        try:
            found = torch.as_tensor(targets[task.name])
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(targets[task.name]).__name__
            raise DataError(f"{where}: {task.name}: expected ({num_images},) class indices, got {kind}") from error
        if found.shape != (num_images,) or found.is_floating_point() or found.is_complex():
            raise DataError(
                f"{where}: {task.name}: expected ({num_images},) class indices, got {tuple(found.shape)} {found.dtype}"
            )
        found = found.long()
        if found.device.type == "cpu":  # elsewhere a look would wait for the device
            self._check_range(where, task, found)
        return found

    def _check_range(self, where: str, task: Task, found: Tensor) -> None:
        wrong = (found != IGNORE_INDEX) & ((found < 0) | (found >= task.num_classes))
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise DataError(
                f"{where}, image {row + 1}: {task.name}: target {int(found[row])}, expected 0 to "
                f"{task.num_classes - 1}, or {IGNORE_INDEX} where unknown"
            )
