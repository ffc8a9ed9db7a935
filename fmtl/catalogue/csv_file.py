"""CSV files to a ``Catalogue``: the standard library's reader, since pandas shifts columns in silence."""

import codecs
import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from fmtl.catalogue.notes import Note
from fmtl.catalogue.reasons import Reason
from fmtl.catalogue.table import Catalogue, Reject, checked_columns, id_position
from fmtl.errors import DataError

DELIMITERS = ",;\t|"
LARGEST_KNOWN = 500  # values of a column in which an unknown one tells that the line is shifted


def read(path: Path, *, free_text_col: str | None, encoding: str | None, quotes: bool, id_col: str | None) -> Catalogue:
    """See ``reading.read_catalogue``."""
    lines = list(io.StringIO(_decode(path, encoding), newline=""))
    delimiter = _delimiter_of(next((line for line in lines if line.strip()), ""))
    records = _records(path, lines, delimiter, quotes)
    columns = _header(path, next(records, None))
    id_at = id_position(columns, id_col)
    free_at = columns.index(free_text_col) if free_text_col in columns else None
    table = Catalogue(pd.DataFrame())
    rows: dict[int, list[str]] = {}
    rejoined: list[int] = []
    for line, last, cells in records:
        if last > line:
            _check_swallowed(path, lines[line - 1 : last], line, len(cells), len(columns), delimiter)
        if free_at is not None and len(cells) > len(columns):
            cells = _rejoin(cells, len(columns), free_at, delimiter)
            rejoined.append(line)
        problem = _problem(cells, len(columns), delimiter)
        if problem:
            row_id = cells[id_at].strip().replace("\0", "") if id_at < len(cells) else ""
            table.rejects.append(Reject(line, row_id, *problem))
        else:
            rows[line] = [cell.strip() for cell in cells]
    index = pd.Index(list(rows), name="line", dtype="int64")
    table.frame = pd.DataFrame(list(rows.values()), columns=columns, index=index, dtype=object)
    if delimiter != ",":
        table.notes.append(Note(f"columns are separated by {delimiter!r}"))
    _leave_out_shifted(table, rejoined, free_text_col, id_at, delimiter)
    return table


def _header(path: Path, record: tuple[int, int, list[str]] | None) -> list[str]:
    """Column names from the first record."""
    if record is None:
        raise DataError("empty file; expected a header and at least one row", where=str(path))
    first, last, cells = record
    if last > first:
        raise DataError(
            f"line {first}: a quote opened there, in the header, takes in the lines up to {last}; close it",
            where=str(path),
        )
    return checked_columns(path, [cell.strip() for cell in cells])


def _leave_out_shifted(
    table: Catalogue, rejoined: list[int], free_text_col: str | None, id_at: int, delimiter: str
) -> None:
    """Re-joined lines whose delimiter was elsewhere become rejects; the others are counted in a note."""
    shifted = _shifted(table.frame, rejoined, free_text_col)
    for line in shifted:
        cells = table.frame.loc[line].tolist()
        detail = f"a delimiter too many, and not in '{free_text_col}': {delimiter.join(cells)[:200]}"
        row_id = cells[id_at] if id_at < len(cells) else ""
        table.rejects.append(Reject(line, row_id, Reason.EXTRA_FIELDS, detail))
    table.frame = table.frame.drop(index=shifted)
    if told := len(rejoined) - len(shifted):
        table.notes.append(Note(f"{told} lines had unescaped delimiters in '{free_text_col}' and were re-joined"))


def _shifted(frame: pd.DataFrame, rejoined: list[int], free_text_col: str | None) -> list[int]:
    """Re-joined lines with a value that no other line has in its column of few values: the delimiter was elsewhere."""
    whole = frame.drop(index=rejoined)
    shifted: set[int] = set()
    for column in whole.columns.drop(free_text_col, errors="ignore") if rejoined else ():
        known = set(whole[column])
        if len(known) <= min(LARGEST_KNOWN, len(whole) / 2):
            shifted |= {line for line in rejoined if frame.at[line, column] not in known}
    return sorted(shifted)


def _records(path: Path, lines: list[str], delimiter: str, quotes: bool) -> Iterator[tuple[int, int, list[str]]]:
    """(first line, last line, cells) of each record; a blank line is none."""
    reader = csv.reader(
        lines, delimiter=delimiter, strict=True, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    )
    start = 1
    try:
        for cells in reader:
            if len(cells) > 1 or "".join(cells).strip():
                yield start, reader.line_num, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}: line {start}: {error}; is a quote left open there? Close it, or use --quotes false if quotes "
            "are ordinary characters in this table"
        ) from error


def _check_swallowed(
    path: Path, lines: list[str], first: int, num_cells: int, num_columns: int, delimiter: str
) -> None:
    """A record over several lines is text with line breaks, or an open quote that swallowed rows."""
    like_rows = sum(line.count(delimiter) >= num_columns - 1 for line in lines[1:])
    if num_cells != num_columns or like_rows >= len(lines[1:]) / 2:
        raise DataError(
            f"{path}: line {first}: a quote opened there takes in the lines up to {first + len(lines) - 1}; close it, "
            "or use --quotes false if quotes are ordinary characters in this table"
        )


def _problem(cells: list[str], num_columns: int, delimiter: str) -> tuple[Reason, str] | None:
    if not any(cell.strip() for cell in cells):
        return Reason.BLANK_ROW, "every cell is blank"
    if len(cells) != num_columns:
        reason = Reason.SHORT_ROW if len(cells) < num_columns else Reason.EXTRA_FIELDS
        return reason, f"{len(cells)} fields instead of {num_columns}: {delimiter.join(cells)[:200]}"
    if any("\0" in cell for cell in cells):
        return Reason.NUL_BYTE, f"a zero byte in field {1 + next(i for i, cell in enumerate(cells) if chr(0) in cell)}"
    return None


def _decode(path: Path, encoding: str | None) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    found = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding or found).removeprefix("\ufeff")
    except LookupError as error:
        raise DataError(f"encoding: '{encoding}' is not known; expected a name such as utf-8 or latin-1") from error
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        line = content.count(b"\n", 0, at) + 1
        raise DataError(
            f"{path}: line {line}, byte {at}: not {encoding or found.removesuffix('-sig')} "
            f"({getattr(error, 'reason', error)}); save the table as UTF-8, or name its encoding: --encoding latin-1"
        ) from error


def _delimiter_of(header: str) -> str:
    return max(DELIMITERS, key=lambda d: len(next(csv.reader([header], delimiter=d), [])))


def _rejoin(cells: list[str], num_columns: int, at: int, delimiter: str) -> list[str]:
    """A line with too many cells, those from ``at`` on joined until there are as many as columns."""
    extra = len(cells) - num_columns
    return [*cells[:at], delimiter.join(cells[at : at + extra + 1]), *cells[at + extra + 1 :]]
