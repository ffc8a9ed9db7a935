"""The stored pixels of a dataset, read image by image."""

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmtl.errors import DataError

MOST_OPEN = 256  # shards; each holds a file descriptor, of which many systems give a process 1,024


class PixelStore:
    """Shard files read as one long array of images.

    They are read rather than mapped: a look at a mapped file that was cut short meanwhile would end the process.
    """

    def __init__(self, files: Sequence[Path], px: int):
        self._open: dict[int, int] = {}  # descriptors, the least recently used first
        self._reading = threading.Lock()
        self._files, self._px = files, px
        self._states = [file.stat() for file in files]
        self._starts = np.cumsum([0, *[state.st_size // (px * px * 3) for state in self._states]])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, rows: np.ndarray) -> np.ndarray:
        """``(n, px, px, 3)`` uint8.

        Raises:
            DataError: A file was replaced, changed or cut short since the dataset was opened.
        """
        out = np.empty((len(rows), self._px, self._px, 3), np.uint8)
        with self._reading:  # a descriptor that another thread closes may be another file's by then
            self._read(rows, out)
        return out

    def _read(self, rows: np.ndarray, out: np.ndarray) -> None:
        size = self._px * self._px * 3
        looked_at = set()
        for i, (row, s) in enumerate(zip(rows, np.searchsorted(self._starts, rows, side="right") - 1, strict=True)):
            shard = self._shard(s)
            if s not in looked_at:
                looked_at.add(s)
                self._check(s, os.fstat(shard))
            left, start = out[i].reshape(-1).data, int(row - self._starts[s]) * size
            while left:
                num = os.preadv(shard, [left], start)  # may be fewer on a network's file system
                if not num:
                    raise self._changed(s)
                left, start = left[num:], start + num

    def _shard(self, number: int) -> int:
        shard = self._open.pop(number, None)
        if shard is None:
            try:
                shard = os.open(self._files[number], os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise self._changed(number) from error
            if len(self._open) >= MOST_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
        self._open[number] = shard
        return shard

    def _check(self, number: int, now: os.stat_result) -> None:
        was = self._states[number]
        same = os.path.samestat(now, was) and (now.st_size, now.st_mtime_ns) == (was.st_size, was.st_mtime_ns)
        if not same:
            raise self._changed(number)

    def _changed(self, number: int) -> DataError:
        file = self._files[number]
        return DataError(
            f"{file.parent}: the dataset was replaced, changed or removed while it was in use ({file.name}); run again"
        )

    def __getstate__(self) -> dict[str, Any]:
        """In another process the descriptors mean nothing."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_open", "_reading")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _open={}, _reading=threading.Lock())

    def __del__(self) -> None:
        for shard in self._open.values():
            with contextlib.suppress(OSError):
                os.close(shard)
