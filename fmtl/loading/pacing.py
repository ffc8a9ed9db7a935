"""Loaders as a training sees them, and how fast they are."""

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Protocol

from fmtl.loading.batches import Batch


class Loader(Sized, Protocol):
    """An epoch of ``(images, targets)``.

    One that has ``set_epoch`` is told which. One that has ``after(n)``, the same epoch without its first n batches, can
    go on in the middle of an epoch. One that has ``paths(first, last)`` can name the photos of batches [first, last).
    One of ``Batches`` gives a process its share of each batch: its ``images_in(first, last)`` counts those of all.
    """

    def __iter__(self) -> Iterator[Batch]: ...


Watch = Callable[["Paced", str], Iterable[Batch]]  # wraps a loader to show progress


class Paced:
    """A loader that knows how many images it gave, and how long they took to come.

    Attributes:
        num_images: Given so far.
        data_seconds: Waited for them.
    """

    def __init__(self, loader: Iterable[Batch]):
        self._loader = loader
        self.num_images, self.data_seconds, self._started = 0, 0.0, time.monotonic()

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]  # asked only of loaders that have one

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        self._started = time.monotonic()
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self.data_seconds += time.monotonic() - asked
            if batch is None:
                return
            self.num_images += len(batch[0])
            yield batch

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self._started, 1e-9)

    @property
    def images_per_second(self) -> float:
        return self.num_images / self.seconds

    @property
    def data_share(self) -> float:
        """Of the time so far, in [0, 1]."""
        return self.data_seconds / self.seconds


def unwatched(loader: Paced, _: str) -> Paced:
    return loader
