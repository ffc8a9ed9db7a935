"""Batches that a user's own loaders bring, checked one by one. N images, K classes of a task."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fmtl.errors import DataError
from fmtl.loading.batches import Batch
from fmtl.tasks import IGNORE_INDEX, Task, Tasks

_BRIGHTEST = 30.0  # of normalised pixels; beyond, they are probably 0 to 255


class GivenLoader(Protocol):
    """What a user brings: batches of anything."""

    def __iter__(self) -> Iterator[object]: ...


class Checked:
    """A loader whose batches are what training takes, or else an error that names the batch.

    Batches become images ``(N, 3, H, W)`` float32 and targets ``(N,)`` int64 by task name, of a set ``(N, values)``,
    whatever kind of float and integer they came in; those without an image are passed over.

    Args:
        split: For messages: ``train``, ``val`` or ``test``.
        loader: Of ``(images, dict of targets)``. Without a length its batches are counted, in one pass.
        tasks: Those whose targets are needed.
        say: Told what is odd and can be trained on all the same, once each.

    Attributes:
        shape: Of the first batch's images.
        other_shape: The last batch whose images are of another size, in words; empty if there was none.

    Raises:
        DataError: It gives no batch, or, of its batches while they come, one that can't be used.
    """

    def __init__(self, split: str, loader: GivenLoader, tasks: Tasks, say: Callable[[str], object] = lambda line: None):
        self.name, self._loader, self._tasks, self._say = f"{split}_loader", loader, tasks, say
        self._said: set[str] = set()
        self._ahead: Iterator[object] | None = None
        self._passes = 0
        self.other_shape = ""
        self.shape: tuple[int, ...] = ()
        self.shape = self._look()
        self._length = self._find_length()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        given, self._ahead = self._ahead or iter(self._loader), None
        num = 0
        for number, batch in enumerate(given, 1):
            checked = self._checked(number, batch)
            if len(checked[0]) == 0:
                self._once("a batch without an image is passed over")
                continue
            num += 1
            yield checked
        if num == 0:
            again = " any more: it can be gone through only once, and epochs need one that begins anew"
            raise DataError(f"{self.name}: it gives no batch{again if self._passes else ''}")
        if num != self._length:
            self._once(
                f"it says that it has {self._length} batches and gives {num}; the learning rates follow the first"
            )
        self._passes += 1

    def set_epoch(self, epoch: int) -> None:
        """Passed on to a loader that wants to know."""
        if hasattr(self._loader, "set_epoch"):
            self._loader.set_epoch(epoch)

    @property
    def last_size(self) -> int | None:
        """Images in the last batch, where a DataLoader tells."""
        loader: Any = self._loader
        with contextlib.suppress(AttributeError, TypeError, NotImplementedError):
            num, size = len(loader.dataset), loader.batch_size
            return size if loader.drop_last else num % size or size
        return None

    def _look(self) -> tuple[int, ...]:
        """Shape of the first batch with an image. A loader that is its own iterator gives it again afterwards."""
        try:
            batches = iter(self._loader)
        except TypeError as error:
            kind = type(self._loader).__name__
            raise DataError(f"{self.name}: expected a loader of (images, dict of targets), got {kind}") from error
        seen = []
        for batch in batches:
            seen.append(batch)
            images, _ = self._checked(len(seen), batch)
            if len(images):
                break
        else:
            raise DataError(f"{self.name}: it gives no batch")
        if batches is self._loader:
            self._ahead = chain(seen, batches)
        if images.device.type == "cpu" and (most := images.max().item()) > _BRIGHTEST:
            self._once(
                f"its pixels go up to {most:.0f}, and networks expect them normalised, to about -3 to 3: divide by 255 "
                "and apply the weights' mean and std"
            )
        return tuple(images.shape)

    def _find_length(self) -> int:
        try:
            return len(self._loader)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError, AttributeError) as error:
            if self._ahead is not None:
                raise DataError(
                    f"{self.name}: it has no length and can be gone through only once; schedule and progress need the "
                    "batches' number, so give it a __len__"
                ) from error
        self._say(f"{self.name}: it has no length; counting its batches, which takes one pass")
        state = torch.random.get_rng_state()
        num = sum(1 for _ in self._loader)
        torch.random.set_rng_state(state)
        return num

    def _once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(f"warning: {self.name}: {text}")

    def _checked(self, number: int, batch: object) -> Batch:
        where = f"{self.name}, batch {number}"
        if not isinstance(batch, Sequence) or isinstance(batch, str) or len(batch) != 2:
            kind = type(batch).__name__
            kind += f" of {len(batch)}" if isinstance(batch, Sequence) else ""
            raise DataError(f"{where}: expected a pair (images, dict of targets), got {kind}")
        images, targets = batch
        if not isinstance(targets, Mapping):
            raise DataError(
                f"{where}: its second part must be a dict of targets by attribute, such as "
                f"{{'{self._tasks[0].name}': targets}}; it is of type {type(targets).__name__}"
            )
        images = self._images(where, images)
        return images, {task.name: self._targets(where, task, targets, len(images)) for task in self._tasks}

    def _images(self, where: str, images: object) -> Tensor:
        if not isinstance(images, Tensor | np.ndarray):
            raise DataError(f"{where}: expected a tensor of images, got {type(images).__name__}")
        images = torch.as_tensor(images)
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise DataError(
                f"{where}: expected images (N, 3, height, width) of floats, got {tuple(images.shape)} {images.dtype}"
            )
        if self.shape and images.shape[2:] != self.shape[2:]:
            first = " x ".join(map(str, self.shape[2:]))
            self.other_shape = f"{where}: images of {' x '.join(map(str, images.shape[2:]))}, the first were {first}"
        images = images.float()
        if images.device.type == "cpu" and not images.sum().isfinite():  # elsewhere a look would wait for the device
            row = int((~images.flatten(1).isfinite().all(dim=1)).nonzero()[0])
            raise DataError(f"{where}, image {row + 1}: a pixel is not a finite number")
        return images

    def _targets(self, where: str, task: Task, targets: Mapping, num_images: int) -> Tensor:
        if task.name not in targets:
            raise DataError(f"{where}: no targets of '{task.name}'; it gives {', '.join(map(str, targets))}")
        shape = (num_images, task.num_classes) if task.is_set else (num_images,)
        expected = f"expected {shape} {'zeros and ones of a set' if task.is_set else 'class indices'}"
        try:
            found = torch.as_tensor(targets[task.name])
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(targets[task.name]).__name__
            raise DataError(f"{where}: {task.name}: {expected}, got {kind}") from error
        if found.shape != shape or (found.is_floating_point() and not task.is_set) or found.is_complex():
            several = found.shape == (num_images, task.num_classes) and not task.is_set
            hint = f"; set_cols=['{task.name}'] takes it for a set" if several else ""
            raise DataError(f"{where}: {task.name}: {expected}, got {tuple(found.shape)} {found.dtype}{hint}")
        if task.is_set and found.is_floating_point():
            found = torch.where(found.isnan(), float(IGNORE_INDEX), found)
        whole, given = found.long(), found
        found = whole
        if found.device.type == "cpu":
            if task.is_set and (whole != given).any():
                raise DataError(f"{where}: {task.name}: {expected}, got numbers between")
            self._check_range(where, task, found)
        return found

    def _check_range(self, where: str, task: Task, found: Tensor) -> None:
        most = 1 if task.is_set else task.num_classes - 1
        wrong = (found != IGNORE_INDEX) & ((found < 0) | (found > most))
        if wrong.any():
            row = int(wrong.nonzero()[0, 0])
            raise DataError(
                f"{where}, image {row + 1}: {task.name}: target {int(found[wrong][0])}, expected 0 to {most}, or "
                f"{IGNORE_INDEX} where unknown"
            )
