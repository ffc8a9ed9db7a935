"""Numbered operations of a process, one of which fails: SQLite's way to test every instant of a write.

An operation is whatever changes a disk (a file opened for writing, a part of it written, a rename, a link, a removal, a
folder made, a wait for the disk) below one folder, and every step of a training. ``install`` is for a process that will
end with it.
"""

import errno
import os
import signal
import sys
from pathlib import Path

import torch

from fmtl.commands import publisher
from fmtl.storage import durable
from fmtl.training import checkpoints
from fmtl.training.position import Position

KINDS = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND


class Operations:
    """Counts, and lets one operation fail.

    Args:
        root: Of what is counted.
        fault: ``kill`` (SIGKILL), ``exit``, or the name of an error such as ``ENOSPC``; an error lasts until the end.
        at: The number of the operation, from 1; 0 for none.
        log: A line for each operation: its number and what it is.
    """

    def __init__(self, root: Path, fault: str, at: int, log: Path | None = None):
        self.root, self.fault, self.at, self.num = str(root), fault, at, 0
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if log else None
        self._within = False

    def count(self, what: str) -> None:
        """An operation is about to happen."""
        if self._within:
            return
        self._within = True
        try:
            self.num += 1
            if self._log is not None:
                os.write(self._log, f"{self.num} {what}\n".encode())
            if self.at and self.num >= self.at:
                self._fail(self.num == self.at, what)
        finally:
            self._within = False

    def _fail(self, is_first: bool, what: str) -> None:
        if self.fault == "kill" and is_first:
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.fault == "exit" and is_first:
            os._exit(9)
        elif self.fault.startswith("E") and not what.startswith(("step", "os.remove", "os.rmdir")):
            number = getattr(errno, self.fault)
            raise OSError(number, os.strerror(number))

    def hook(self, event: str, args: tuple) -> None:
        if event == "open":
            path, _, flags = args
            is_written = flags is not None and flags & WRITING
        elif event in KINDS:
            path, is_written = args[0], True
        else:
            return
        if is_written and isinstance(path, str | os.PathLike) and str(path).startswith(self.root):
            self.count(f"{event} {str(path)[len(self.root) :]}")


def install(operations: Operations) -> None:
    """From now on, in this process."""
    sys.addaudithook(operations.hook)
    fsync, write, stepped = os.fsync, checkpoints._Sealed._put, Position.stepped

    def counted_fsync(descriptor: int) -> None:
        operations.count("fsync")
        fsync(descriptor)

    def counted_write(self: checkpoints._Sealed, view: memoryview) -> None:
        operations.count("write")
        write(self, view)

    def counted_step(self: Position, num_batches: int, loss_sum: torch.Tensor) -> None:
        operations.count("step")
        stepped(self, num_batches, loss_sum)

    os.fsync = counted_fsync
    durable.os.fsync = counted_fsync
    checkpoints._Sealed._put = counted_write
    Position.stepped = counted_step
    publisher.MOST_OFTEN = 0  # where a checkpoint is asked for after each step, there is one, however long a save takes
