"""Photos that are cells of a Parquet file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from fmtl.catalogue.photos.folder import ImageError
from fmtl.catalogue.reasons import Reason

CELLS_AT_ONCE = 16  # images read together from a Parquet file


class Cell(NamedTuple):
    """Where an image lies that is a table's cell: Parquet file, row group, row in it, column."""

    file: str
    group: int
    row: int
    column: str


@dataclass(frozen=True)
class PhotoCell:
    """One photo of a table, which is read when it is wanted and not before."""

    cell: Cell

    def read(self) -> bytes:
        """Its bytes; ImageError where there are none."""
        return read_cell(self.cell)


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
