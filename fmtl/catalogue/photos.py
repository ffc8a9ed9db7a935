"""Where photos lie: files below one folder, nothing outside which is ever opened, or cells of a Parquet file."""

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from fmtl.catalogue.reasons import Reason

CELLS_AT_ONCE = 16  # images read together from a Parquet file


class ImageError(Exception):
    """An image that can't be used.

    Attributes:
        reason: One word for counting.
        detail: What was found.
    """

    def __init__(self, reason: Reason, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ImageFolder:
    """A folder of images. Nothing outside it is ever opened, whatever a path says or links to."""

    def __init__(self, root: Path | str):
        self.root = os.path.realpath(root)
        self._folders: dict[str, str] = {}  # relative folder: real path, checked once

    def find(self, relative: str) -> tuple[str, os.stat_result]:
        """Real path and status of a regular file.

        Raises:
            ImageError: ``outside_root``, ``missing``, ``unreadable`` or ``not_regular_file``.
        """
        folder, name = os.path.split(_below_root(relative))
        try:
            real = self._folders.get(folder)
            if real is None:
                real = self._folders[folder] = self._inside(os.path.join(self.root, folder), relative)
            path = f"{real}/{name}"
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                path = self._inside(path, relative)
                status = os.lstat(path)
        except (OSError, ValueError) as error:  # absent, a loop of links, a name too long
            raise _unopened(relative, error) from error
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(Reason.NOT_REGULAR_FILE, f"'{relative}' is a folder, pipe or device")
        return path, status

    def read(self, relative: str) -> tuple[bytes, os.stat_result]:
        """A file's bytes and its status, which did not change while it was read.

        Raises:
            ImageError: As ``find``, or ``changed``.
        """
        path, status = self.find(relative)
        try:
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb", buffering=0) as file:
                content = file.readall()
                after = os.fstat(file.fileno())
        except OSError as error:
            raise _unopened(relative, error) from error
        if signature(after) != signature(status) or len(content) != after.st_size:
            raise ImageError(Reason.CHANGED, f"'{relative}' changed while it was read; run again")
        return content, status

    def _inside(self, path: str, relative: str) -> str:
        real = os.path.realpath(path, strict=True)
        if os.path.commonpath([real, self.root]) != self.root:
            raise ImageError(Reason.OUTSIDE_ROOT, f"'{relative}' links to a place outside the image folder")
        return real


def signature(status: os.stat_result) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns: equal while a file is the same."""
    return status.st_size, status.st_mtime_ns


def _below_root(relative: str) -> str:
    """The path with slashes, as long as it can't point outside."""
    path = relative.replace("\\", "/")  # as tables written on Windows have them
    if "\0" in path or "://" in path or path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in path.split("/"):
        raise ImageError(Reason.OUTSIDE_ROOT, f"{relative!r} is not a path below the image folder")
    return path


def _unopened(relative: str, error: OSError | ValueError) -> ImageError:
    if isinstance(error, PermissionError):
        return ImageError(Reason.UNREADABLE, f"'{relative}': permission denied")
    if getattr(error, "errno", None) in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, None):
        return ImageError(Reason.MISSING, f"'{relative}': {getattr(error, 'strerror', None) or error}")
    return ImageError(Reason.UNREADABLE, f"'{relative}': {getattr(error, 'strerror', error)}")


@dataclass(frozen=True)
class PhotoFile:
    """One photo of a folder, which is looked up when it is read and not before."""

    folder: ImageFolder
    name: str

    @classmethod
    def named(cls, path: Path) -> "PhotoFile":
        """A file that the user named; links are followed."""
        path = path.resolve()
        return cls(ImageFolder(path.parent), path.name)

    def read(self) -> bytes:
        """Its bytes; ImageError where there are none."""
        return self.folder.read(self.name)[0]


class Cell(NamedTuple):
    """Where an image lies that is a table's cell: Parquet file, row group, row in it, column."""

    file: str
    group: int
    row: int
    column: str


def read_cell(cell: Cell) -> bytes:
    """The bytes of an image that is a table's cell; ImageError where there are none."""
    try:
        found = _cells(cell.file, cell.group, cell.column).read(cell.row)
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        told = f"{cell.file}, row group {cell.group}, row {cell.row}: {error}"
        raise ImageError(Reason.DAMAGED, told) from error
    content = found["bytes"] if isinstance(found, dict) else found
    if content is None:
        raise ImageError(Reason.MISSING, "the cell holds no image")
    return content


class _Cells:
    """The cells of one row group in increasing order, a few at a time: a whole group may be larger than memory."""

    def __init__(self, file: str, group: int, column: str):
        self._source = (file, group, column)
        self._batch: Sequence[Any] = ()
        self._rewind()

    def read(self, row: int) -> dict | bytes | None:
        if row < self._start:
            self._rewind()
        while row >= self._start + len(self._batch):
            self._start += len(self._batch)
            self._batch = next(self._batches).column(0)
        return self._batch[row - self._start].as_py()

    def _rewind(self) -> None:
        import pyarrow.parquet as pq  # only where images lie in tables

        file, group, column = self._source
        parquet = pq.ParquetFile(file, memory_map=True)
        self._start, self._batch = 0, ()
        self._batches: Iterator = parquet.iter_batches(CELLS_AT_ONCE, row_groups=[group], columns=[column])


_cells = lru_cache(maxsize=1)(_Cells)
