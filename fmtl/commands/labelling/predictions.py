"""The file of predictions: it grows batch by batch beside its place, outlives an interrupt, and appears whole."""

import csv
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import pandas as pd

from fmtl.catalogue.values import sets
from fmtl.errors import UsageError
from fmtl.storage import durable, tables
from fmtl.storage.cache import recall
from fmtl.tasks import SEPARATOR, as_text

log = logging.getLogger(__name__)

CHUNK_ROWS = 50_000  # converted at once
_LOGGED = 3  # words of a line that is whole


class Predictions:
    """Rows on their way to a CSV, Parquet or Excel file.

    Args:
        out: The file, by whose suffix its kind is chosen.
        key: All that decides the rows; only rows of an equal key are continued.
        batch_size: Rows of a batch: a continued run has the batches of one that was not interrupted.
        numbers: Columns of numbers; all others are text.
        flags: Columns of yes or no.
        lists: Columns of lists of values: in text they stand as ``tasks.as_text`` writes them, in Parquet as lists.
    """

    def __init__(
        self,
        out: Path,
        *,
        key: Mapping[str, object],
        batch_size: int,
        numbers: Iterable[str] = (),
        flags: Iterable[str] = (),
        lists: Iterable[str] = (),
    ):
        self.out, self._flags, self._lists = out, list(flags), list(lists)
        self._numbers = dict.fromkeys(numbers, float)
        self.part = durable.beside(out, "part.csv")
        self._key_file = durable.beside(out, "part.json")
        self._key = {**key, "batch_size": batch_size}
        self._log = durable.beside(out, "part.log")  # rows and bytes after each batch
        self._rows = 0

    def begin(self, *, resume: bool) -> int:
        """Start the file, or go on with that of an interrupted run. Returns how many rows are there already.

        Raises:
            UsageError: The rows that are there were made in another way.
        """
        before = recall(lambda: json.loads(self._key_file.read_text(encoding="utf-8")))
        there = self.part.is_file()
        if resume and there:
            changed = [name for name in self._key if not before or before.get(name) != self._key[name]]
            if changed:
                raise UsageError(
                    f"resume: {self.part} was made with another {', '.join(changed)}; start anew without it"
                )
            return self._whole_batches()
        if there:
            log.warning("rows of an interrupted run were discarded (--resume true goes on with them)")
        for file in (self.part, self._log):
            file.unlink(missing_ok=True)
        durable.write_json(self._key_file, dict(self._key))
        return 0

    def append(self, rows: pd.DataFrame) -> None:
        """Add the rows of a batch; they are in the file when this returns."""
        texts = {c: [None if cell is None else as_text(tuple(cell)) for cell in rows[c]] for c in self._lists}
        rows = rows.assign(**texts)
        with self.part.open("a", encoding="utf-8", newline="") as file:
            # All text in quotes: a lone carriage return without them would end a row.
            rows.to_csv(file, index=False, header=file.tell() == 0, quoting=csv.QUOTE_NONNUMERIC)
            end = file.tell()
        self._rows += len(rows)
        with self._log.open("a", encoding="utf-8") as log_file:
            log_file.write(f"{self._rows} {end} .\n")

    def finish(self, *, separator: str, spreadsheet: bool) -> None:
        """Put the whole file in its place.

        Args:
            spreadsheet: Guard cells that a spreadsheet would run, and begin with the mark that it looks for.
        """
        with durable.replacing(self.out) as temporary:
            if self.out.suffix == ".parquet":
                self._to_parquet(temporary)
            elif self.out.suffix == ".xlsx":
                tables.to_workbook(temporary, "predictions", self.read())
            else:
                self._to_csv(temporary, separator, spreadsheet)
        for file in (self.part, self._key_file, self._log):
            file.unlink()

    def read(self) -> Iterator[pd.DataFrame]:
        """The rows so far, some at a time."""
        columns = pd.read_csv(self.part, nrows=0).columns
        # Labels may be numbers, NA or null: all are text, and only nothing is nothing.
        chunks = pd.read_csv(
            self.part,
            chunksize=CHUNK_ROWS,
            keep_default_na=False,
            na_values=[""],
            dtype={**dict.fromkeys(columns, str), **self._numbers},
        )
        for chunk in chunks:
            found = chunk.astype(object).where(chunk.notna(), None).astype(self._numbers).fillna({"image": ""})
            yield found.assign(**{name: _as_flags(found[name]) for name in self._flags})

    def _whole_batches(self) -> int:
        """Cut off what the interrupt left of a batch. Returns the number of rows kept."""
        rows = end = 0
        size = self.part.stat().st_size
        for line in self._log.read_text(encoding="utf-8").splitlines() if self._log.is_file() else ():
            numbers = line.split()
            if len(numbers) == _LOGGED and int(numbers[1]) <= size:
                rows, end = int(numbers[0]), int(numbers[1])
        with self.part.open("r+b") as file:
            file.truncate(end)
        self._rows = rows
        return rows

    def _to_csv(self, path: Path, separator: str, spreadsheet: bool) -> None:
        with path.open("w", encoding="utf-8-sig" if spreadsheet else "utf-8", newline="") as file:
            for number, chunk in enumerate(self.read()):
                lone = any(isinstance(cell, str) and "\r" in cell for cell in chunk.to_numpy().ravel())
                quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if lone else csv.QUOTE_MINIMAL
                text = (
                    tables.to_csv(chunk, sep=separator)
                    if spreadsheet
                    else chunk.to_csv(index=False, sep=separator, quoting=quoting)
                )
                file.write(text if number == 0 else text.partition("\n")[2])

    def _to_parquet(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        writer = None
        try:
            for chunk in self.read():
                chunk = chunk.assign(**{name: sets.from_cells(chunk[name], SEPARATOR) for name in self._lists})
                listed = dict.fromkeys(self._lists, pa.list_(pa.string())) | dict.fromkeys(self._numbers, pa.float64())
                listed |= dict.fromkeys(self._flags, pa.bool_())
                kinds = [listed.get(name, pa.string()) for name in chunk]
                schema = pa.schema(zip(chunk.columns, kinds, strict=True))
                writer = writer or pq.ParquetWriter(path, schema)
                writer.write_table(pa.Table.from_pandas(chunk, schema=schema, preserve_index=False))
        finally:
            if writer is not None:
                writer.close()


def _as_flags(texts: pd.Series) -> pd.Series:
    return pd.Series([None if text is None else text == str(True) for text in texts], index=texts.index, dtype=object)
