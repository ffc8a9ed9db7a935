"""Progress as people see it: bars that go away, and durations in words."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from fmtl.loading.batches import Batch
from fmtl.loading.pacing import Paced
from fmtl.together import ranks

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


@contextlib.contextmanager
def one_bar() -> Iterator[None]:
    """Within it all bars take turns on one line of a notebook's output, with ipywidgets or without."""
    display = notebook_display()
    if display is None:
        yield
        return
    before, _Line.current = _Line.current, _Line(display)
    started = time.monotonic()
    try:
        yield
    finally:
        _Line.current.write(f"{duration(time.monotonic() - started)} in all")
        _Line.current = before


class _Line:
    """A file whose last line stands in one place of a notebook's output."""

    current: "_Line | None" = None

    def __init__(self, display: Callable[..., Any]):
        self._handle = display({"text/plain": ""}, raw=True, display_id=True)
        self._shown = ""

    def write(self, text: str) -> None:
        line = text.rpartition("\r")[2].strip()
        if line and line != self._shown:  # it stays as it was last, rather than become blank
            self._shown = line
            self._handle.update({"text/plain": line}, raw=True)

    def flush(self) -> None:
        pass


def notebook_display() -> Callable[..., Any] | None:
    """IPython's ``display``, where a notebook's kernel runs."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return display


def bar(*args: Any, **kwargs: Any) -> Any:
    """A progress bar that goes away: a line in a notebook or a terminal, nothing in a file."""
    make: Any = tqdm
    if _Line.current is not None:
        return make(*args, **kwargs, leave=False, file=_Line.current, ncols=100, ascii=False)
    # None: unless it is a terminal. Of processes that train together the first one shows them.
    return make(*args, **kwargs, leave=False, disable=None if ranks.here().is_first else True)


def time_left(seconds: float) -> str:
    """``3 min left``; empty where nothing is known or left."""
    return "" if math.isnan(seconds) or not seconds else f"{duration(seconds)} left"


def duration(seconds: float) -> str:
    """``59 s``, ``3 min``, ``2.5 h``."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
