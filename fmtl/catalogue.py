"""The raw product table: every line read becomes one clean row or one reject, with its line number."""

import codecs
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from fmtl import tables
from fmtl.errors import DataError

DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Preset:
    """What is known of a published catalogue.

    Attributes:
        label_cols: Its label columns.
        id_col: Its id column.
        image_template: File name of a row's image.
        free_text_col: The one column whose text may hold unescaped delimiters.
        missing: Spellings, besides nothing at all, that mean a blank.
    """

    label_cols: tuple[str, ...]
    id_col: str
    image_template: str
    free_text_col: str
    missing: tuple[str, ...]


PRESETS = {
    "kaggle-fashion": Preset(
        label_cols=("gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "usage"),
        id_col="id",
        image_template="{id}.jpg",
        free_text_col="productDisplayName",
        missing=("NA",),
    )
}


@dataclass(frozen=True)
class Reject:
    """A row that was left out. ``line`` counts from 1, the header included (Parquet: the row number)."""

    line: int
    id: str
    reason: str
    detail: str


@dataclass
class Catalogue:
    """A product table as text.

    Attributes:
        frame: One row per readable line, cells stripped, None where blank; the index is the line number.
        rejects: The lines that could not become a row.
        notes: What was repaired or assumed, for the user to read.
    """

    frame: pd.DataFrame
    rejects: list[Reject] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def num_rows_read(self) -> int:
        return len(self.frame) + len(self.rejects)


def read_catalogue(path: Path, *, free_text_col: str | None = None, missing: Sequence[str] = ()) -> Catalogue:
    """Read a CSV (any of the delimiters ``, ; tab |``) or Parquet table.

    Args:
        free_text_col: A column whose unescaped delimiters are re-joined; without it such a line is rejected.
        missing: Spellings that mean a blank, besides nothing at all.

    Raises:
        DataError: The file is absent, empty, not text, or has unusable column names.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such table; expected a CSV or Parquet file, or 'sample'")
    parquet = path.suffix.lower() in (".parquet", ".pq")
    catalogue = _read_parquet(path) if parquet else _read_csv(path, free_text_col)
    if catalogue.num_rows_read == 0:
        raise DataError(f"{path}: 0 rows; expected a header and at least one row")
    blanks = {"", *missing}
    catalogue.frame = tables.map_cells(catalogue.frame, lambda cell: None if cell in blanks else cell)
    return catalogue


def _read_csv(path: Path, free_text_col: str | None) -> Catalogue:
    lines = io.StringIO(_decode(path), newline="")
    delimiter = _delimiter_of(lines.readline())
    lines.seek(0)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    columns, rows, numbers, rejects, rejoined = None, [], [], [], 0
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if columns is None:
                columns = _checked_columns(path, [cell.strip() for cell in cells])
                continue
            if not any(cell.strip() for cell in cells):
                continue  # a blank line is no row
            if len(cells) > len(columns) and free_text_col in columns:
                cells = _rejoin(cells, columns, free_text_col, delimiter)
                rejoined += 1
            if len(cells) != len(columns):
                reason = "short_row" if len(cells) < len(columns) else "extra_fields"
                detail = f"{len(cells)} fields instead of {len(columns)}: {delimiter.join(cells)[:200]}"
                rejects.append(Reject(line, cells[0].strip(), reason, detail))
                continue
            rows.append([cell.strip() for cell in cells])
            numbers.append(line)
    except csv.Error as error:
        raise DataError(f"{path}: line {start}: {error}; is a quote left open there?") from error
    if columns is None:
        raise DataError(f"{path}: empty file; expected a header and at least one row")
    notes = []
    if delimiter != ",":
        notes.append(f"columns are separated by {delimiter!r}")
    if rejoined:
        notes.append(f"{rejoined} lines had unescaped delimiters in '{free_text_col}' and were re-joined")
    index = pd.Index(numbers, name="line", dtype="int64")
    return Catalogue(pd.DataFrame(rows, columns=columns, index=index, dtype=object), rejects, notes)


def _decode(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line}, byte {error.start}: not {error.encoding} ({error.reason}); save the table as UTF-8"
        ) from error


def _delimiter_of(header: str) -> str:
    return max(DELIMITERS, key=lambda d: len(next(csv.reader([header], delimiter=d), [])))


def _checked_columns(path: Path, columns: list[str]) -> list[str]:
    doubled = sorted({c for c in columns if columns.count(c) > 1})
    if doubled:
        raise DataError(f"{path}: line 1: duplicate column names {doubled}; rename all but one of each")
    return columns


def _rejoin(cells: list[str], columns: list[str], free_text_col: str, delimiter: str) -> list[str]:
    at = columns.index(free_text_col)
    extra = len(cells) - len(columns)
    return [*cells[:at], delimiter.join(cells[at : at + extra + 1]), *cells[at + extra + 1 :]]


def _read_parquet(path: Path) -> Catalogue:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own errors derive from these
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    _checked_columns(path, [str(c) for c in frame.columns])
    text = pd.DataFrame({str(c): [_cell_text(cell) for cell in frame[c]] for c in frame.columns}, dtype=object)
    text.index = pd.RangeIndex(1, len(frame) + 1, name="line")
    return Catalogue(text)


def _cell_text(cell: object) -> str | None:
    if isinstance(cell, str):
        return cell.strip()
    if pd.api.types.is_scalar(cell) and pd.isna(cell):
        return None
    if isinstance(cell, float) and cell.is_integer():  # whole numbers become floats beside a blank
        return str(int(cell))
    return str(cell).strip()
