"""Where a table's header is, and its records to a ``Catalogue``: every record becomes one row or one reject."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from fmtl.catalogue.formats.dialect import Record, most_common_width, recurs
from fmtl.catalogue.names import IMAGE_SUFFIXES, NUMBER
from fmtl.catalogue.notes import Note
from fmtl.catalogue.reasons import Reason
from fmtl.catalogue.table import Catalogue, Reject, checked_columns, id_position
from fmtl.errors import DataError

TITLE_LINES = 20  # at most above a header
_USED = 0.2  # share of rows with a cell that makes a column one that a header names
LARGEST_KNOWN = 500  # values of a column in which an unknown one tells that the line is shifted
_SAMPLE = 1000  # rows
_SHOWN = 200  # characters of a line in a reject


@dataclass(frozen=True)
class Layout:
    """The header of a table and what is below it.

    Attributes:
        columns: Names; those of columns that have cells but no name are made.
        header: The record that has them.
        body: The records below.
        notes: What was passed over or named.
    """

    columns: list[str]
    header: Record
    body: list[Record]
    notes: list[Note] = field(default_factory=list)


def find_layout(records: Sequence[Record], *, where: str) -> Layout:
    """Find the header: the first record that names the columns which have cells.

    Raises:
        DataError: Nothing is there, names are doubled, or the first row of the data stands where the header should.
    """
    records = records[next((n for n, r in enumerate(records) if any(cell.strip() for cell in r.cells)), len(records)) :]
    if not records:
        raise DataError("empty file; expected a header and at least one row", where=where)
    used = _used_columns(records)
    at = _header_position(records, used)
    header, body = records[at], list(records[at + 1 :])
    names = [" ".join(cell.split()) for cell in header.cells]
    width = max([*used, *(n for n, name in enumerate(names) if name)], default=-1) + 1
    if body and not any(len(_trimmed(record.cells, len(names))) <= len(names) for record in body):
        width = len(names)  # every row has a field too many: the accounts say so
    notes = []
    if at:
        lines = f"line {records[0].first}" if at == 1 else f"the {at} lines {records[0].first} to {header.first - 1}"
        notes.append(Note(f"{lines} above the header passed over: {_shown(records[0].cells)}"))
    if header.first < header.last:
        notes.append(Note(f"the header takes the lines {header.first} to {header.last}"))
    columns = _named(names[:width], used, notes)
    if len(names) > width:
        notes.append(Note(f"{len(names) - width} empty columns at the right end passed over"))
    _check_header(columns, names, body, line=header.first, where=where)
    return Layout(checked_columns(columns, line=header.first, where=where), header, body, notes)


def assemble(layout: Layout, *, free_text_col: str | None, id_col: str | None, delimiter: str, where: str) -> Catalogue:
    """The records below the header as rows of text; those that do not fit as rejects.

    Args:
        free_text_col: A column whose unescaped delimiters are re-joined.
        id_col: See ``reading.read_catalogue``.
    """
    columns, width = layout.columns, len(layout.header.cells)
    id_at = id_position(columns, id_col)
    free_at = columns.index(free_text_col) if free_text_col in columns else None
    table = Catalogue(pd.DataFrame(), notes=list(layout.notes))
    rows: dict[int, list[str]] = {}
    rejoined: list[int] = []
    for line, _, cells in layout.body:
        if cells == layout.header.cells:
            table.rejects.append(Reject(line, "", Reason.HEADER_AGAIN, "the header once more, as joined files have it"))
            continue
        if free_at is not None and len(cells) > width:
            cells = _rejoin(cells, width, free_at, delimiter)
            rejoined.append(line)
        cells = _trimmed(cells, len(columns))
        problem = _problem(cells, len(columns), delimiter)
        if problem:
            row_id = cells[id_at].strip().replace("\0", "") if id_at < len(cells) else ""
            table.rejects.append(Reject(line, row_id, *problem))
        else:
            rows[line] = [cell.strip() for cell in cells]
    if not rows and table.rejects:
        first = table.rejects[0]
        raise DataError(
            f"none of {len(table.rejects)} rows fits the header of {len(columns)} columns ({', '.join(columns)}); "
            f"line {first.line}: {first.detail}",
            where=where,
        )
    index = pd.Index(list(rows), name="line", dtype="int64")
    table.frame = pd.DataFrame(list(rows.values()), columns=columns, index=index, dtype=object)
    _leave_out_shifted(table, rejoined, free_text_col, id_at, delimiter)
    return table


def _used_columns(records: Sequence[Record]) -> list[int]:
    """Positions of the columns that have cells in more than a few rows of the usual width."""
    width = most_common_width(records)
    usual = [record.cells for record in records if len(record.cells) == width]
    counts = Counter(n for cells in usual for n, cell in enumerate(cells) if cell.strip())
    return [n for n in range(width) if counts[n] > max(_USED * (len(usual) - 1), 0)]


def _header_position(records: Sequence[Record], used: Sequence[int]) -> int:
    """The record that names most of the used columns, and whose names are no cells of others; else the first."""
    best, most = 0, 0
    for at, record in enumerate(records[: TITLE_LINES + 1]):
        unnamed = [n for n in used if n >= len(record.cells) or not record.cells[n].strip()]
        named = len(used) - len(unnamed)
        if named <= most or recurs(record, records[:_SAMPLE]):
            continue
        if not unnamed or (unnamed == [0] and len(used) > 2):  # the first: as pandas writes its index
            return at
        best, most = at, named
    return best


def _named(names: list[str], used: Sequence[int], notes: list[Note]) -> list[str]:
    """The names, and one for each column that has cells and no name."""
    taken = set(names)
    columns, made = [], []
    for n, name in enumerate(names):
        if not name:
            name = f"column {n + 1}"
            while name in taken:
                name += "'"
            taken.add(name)
            if n in used:
                made.append(name)
        columns.append(name)
    if made:
        notes.append(Note(f"columns without a name are called {', '.join(repr(name) for name in made)}"))
    return columns


def _check_header(columns: list[str], names: list[str], body: Sequence[Record], *, line: int, where: str) -> None:
    """Raise DataError where the first row of the data stands where the header should."""
    if any("\0" in name for name in names):
        raise DataError(f"line {line}: a zero byte in the header; is this another encoding or no text?", where=where)
    cells = [[record.cells[n] for record in body[:_SAMPLE] if n < len(record.cells)] for n in range(len(columns))]
    files = [name for name in columns if name.casefold().endswith(IMAGE_SUFFIXES) or "://" in name]
    numbers = [name for name in columns if NUMBER.fullmatch(name)]
    values = [name for name, column in zip(columns, cells, strict=True) if name in column and name not in numbers]
    if (files and len(columns) > 1) or (files and not body) or (numbers and values):
        shown = ", ".join(repr(name) for name in columns[:5])
        raise DataError(
            f"line {line}: looks like a row, not like a header: {shown}; put a line with the columns' names above it, "
            "such as image,colour",
            where=where,
        )


def _trimmed(cells: list[str], width: int) -> list[str]:
    """Without blank cells beyond the header's last: delimiters that a row has at its end."""
    while len(cells) > width and not cells[-1].strip():
        cells = cells[:-1]
    return cells


def _problem(cells: list[str], num_columns: int, delimiter: str) -> tuple[Reason, str] | None:
    if not any(cell.strip() for cell in cells):
        return Reason.BLANK_ROW, "every cell is blank"
    if len(cells) != num_columns:
        reason = Reason.SHORT_ROW if len(cells) < num_columns else Reason.EXTRA_FIELDS
        return reason, f"{len(cells)} fields instead of {num_columns}: {delimiter.join(cells)[:_SHOWN]}"
    if any("\0" in cell for cell in cells):
        return Reason.NUL_BYTE, f"a zero byte in field {1 + next(i for i, cell in enumerate(cells) if chr(0) in cell)}"
    return None


def _rejoin(cells: list[str], num_columns: int, at: int, delimiter: str) -> list[str]:
    """A line with too many cells, those from ``at`` on joined until there are as many as columns."""
    extra = len(cells) - num_columns
    return [*cells[:at], delimiter.join(cells[at : at + extra + 1]), *cells[at + extra + 1 :]]


def _leave_out_shifted(
    table: Catalogue, rejoined: list[int], free_text_col: str | None, id_at: int, delimiter: str
) -> None:
    """Re-joined lines whose delimiter was elsewhere become rejects; the others are counted in a note."""
    rejoined = [line for line in rejoined if line in table.frame.index]
    shifted = _shifted(table.frame, rejoined, free_text_col)
    for line in shifted:
        cells = table.frame.loc[line].tolist()
        detail = f"a delimiter too many, and not in '{free_text_col}': {delimiter.join(cells)[:_SHOWN]}"
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


def _shown(cells: Sequence[str]) -> str:
    return repr(" ".join(cell.strip() for cell in cells if cell.strip())[:60])
