"""Signals that ask this process to end: SIGTERM, SIGINT, and SIGUSR1, which SLURM can send ahead of a time limit.

The first one raises ``Terminated`` or ``KeyboardInterrupt`` where the main thread stands; within ``deferred`` it waits
for the next ``check``, so that nothing is cut off in the middle. An error that a callback swallowed is raised again by
the next ``check``. A second signal ends the process at once.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TypeVar

from fmtl.errors import Terminated

T = TypeVar("T")
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
# One wish may arrive several times: `timeout` signals its child and then the group, `mlflow run` passes Ctrl-C on as
# SIGTERM. The same signal counts again after the first time, another one after the second.
REPEATED_SECONDS, PASSED_ON_SECONDS = 0.5, 3.0


class _State:
    """What was heard. A process has one, as it has one set of handlers."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.at = 0.0
        self.deferred = 0


_state = _State()


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Within it the signals are answered here. In another thread than the main one nothing happens."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # What whoever started this process wants ignored, as a shell of SIGINT for its background jobs, stays ignored.
    wanted = [signum for signum in SIGNALS if signal.getsignal(signum) != signal.SIG_IGN]
    before = {signum: signal.signal(signum, _hear) for signum in wanted}
    _state.first, _state.deferred = None, 0
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        _state.first = None


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within it a signal waits for a ``check``."""
    _state.deferred += 1
    try:
        yield
    finally:
        _state.deferred -= 1


def is_asked() -> bool:
    """Whether a signal has asked for the end."""
    return _state.first is not None


def check() -> None:
    """Raise what a signal asked for, if one did.

    Raises:
        Terminated, KeyboardInterrupt: See above.
    """
    if _state.first is not None:
        raise _error(_state.first)


def checked(items: Iterable[T], look: Callable[[], object] = check) -> Iterator[T]:
    """The items, with a ``check`` after each, or another look that makes one."""
    for item in items:
        yield item
        look()


def _error(signum: int) -> BaseException:
    return KeyboardInterrupt() if signum == signal.SIGINT else Terminated()


def _hear(signum: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _state.first is not None:
        if now - _state.at < (REPEATED_SECONDS if signum == _state.first else PASSED_ON_SECONDS):
            return
        with contextlib.suppress(OSError):
            os.write(2, b"a second signal: ended at once\n")
        os._exit(130 if signum == signal.SIGINT else Terminated.exit_code)
    _state.first, _state.at = signum, now
    if not _state.deferred:
        raise _error(signum)
