"""Progress as people see it: bars that go away, and durations in words."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm.auto import tqdm
from tqdm.notebook import tqdm_notebook

from fmtl.loading.batches import Batch
from fmtl.training.engine import Paced

T = TypeVar("T")
Watch = Callable[[Paced, str, str], Iterable[Batch]]  # a loader under a heading, with a note behind


def watch(loader: Paced, what: str, note: str = "") -> Iterator[Batch]:
    """The loader's batches under a ``bar`` with images per second and the share of time spent waiting for them.

    Args:
        note: Shown behind.
    """
    with bar(total=len(loader), desc=what, unit=" batches") as shown:
        for batch in loader:
            yield batch
            pace = f"{loader.images_per_second:.0f} images/s, data {loader.data_share:.0%}"
            shown.set_postfix_str(", ".join(filter(None, (pace, note))), refresh=False)
            shown.update()


def unwatched(loader: Paced, what: str, note: str = "") -> Paced:
    """The loader as it is, for training without bars."""
    return loader


def watch_batches(batches: Iterable[Batch], what: str) -> Iterable[Batch]:
    """``watch`` for batches that are not paced yet."""
    return watch(Paced(batches), what)


def watch_folds(folds: Iterable[T], what: str) -> Iterable[T]:
    return bar(folds, desc=what, unit=" folds")


def bar(*args: Any, **kwargs: Any) -> Any:
    """A progress bar that goes away: a widget in a notebook, a line in a terminal, nothing in a file."""
    off = False if issubclass(tqdm, tqdm_notebook) else None  # None: unless it is a terminal
    make: Any = tqdm
    return make(*args, **kwargs, leave=False, disable=off)


def time_left(seconds: float) -> str:
    """``3 min left``; empty where nothing is known or left."""
    return "" if math.isnan(seconds) or not seconds else f"{duration(seconds)} left"


def duration(seconds: float) -> str:
    """``59 s``, ``3 min``, ``2.5 h``."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
