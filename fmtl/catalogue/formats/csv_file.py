"""CSV files to a ``Catalogue``: the standard library's reader, since pandas shifts columns in silence."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fmtl.catalogue.formats import dialect as dialects
from fmtl.catalogue.formats import layout as layouts
from fmtl.catalogue.formats import text
from fmtl.catalogue.formats.dialect import Dialect, OpenQuote, Record
from fmtl.catalogue.formats.layout import LARGEST_KNOWN, Layout
from fmtl.catalogue.names import IMAGE_SUFFIXES, NUMBER
from fmtl.catalogue.notes import Note
from fmtl.catalogue.table import Catalogue
from fmtl.errors import DataError

WAY_OUT = "close it, or use --quotes false if quotes are ordinary characters in this table"
_SAMPLE = 1000  # rows that tell what the cells of a column look like
_Sign = Callable[[str], bool]


class Parsed(NamedTuple):
    """A CSV taken apart: its lines with their ends, how they are written, and what they hold."""

    lines: list[str]
    encoding: str
    mark: bytes
    dialect: Dialect
    layout: Layout
    notes: list[Note]


def read(
    content: bytes, *, free_text_col: str | None, encoding: str | None, quotes: bool, id_col: str | None, where: str
) -> Catalogue:
    """See ``reading.read_catalogue``."""
    parsed = parse(content, encoding=encoding, quotes=quotes, where=where)
    delimiter = parsed.dialect.delimiter
    table = layouts.assemble(
        parsed.layout, free_text_col=free_text_col, id_col=id_col, delimiter=delimiter, where=where
    )
    table.notes = [*parsed.notes, *table.notes]
    return table


def parse(content: bytes, *, encoding: str | None, quotes: bool, where: str) -> Parsed:
    """Lines, dialect and header. Raises DataError as ``reading.read_catalogue``."""
    notes: list[Note] = []
    if encoding is None and (encoding := text.without_mark(content)):
        notes.append(Note(f"the table has no mark of its encoding; read as with --encoding {encoding}"))
    decoded, encoding, guessed = text.decode(content, encoding, where=where)
    lines = list(io.StringIO(decoded, newline=""))
    with dialects.long_cells():
        found = dialects.find(lines, quotes=quotes)
        records = _records(lines, found, where)
        layout = layouts.find_layout(records, where=where)
        _check_swallowed(lines, layout, found, where)
    return Parsed(lines, encoding, text.mark_of(content), found, layout, [*notes, *guessed, *_said(found)])


def _records(lines: Sequence[str], dialect: Dialect, where: str) -> list[Record]:
    try:
        return list(dialects.read(lines, dialect))
    except OpenQuote as error:
        told = f"line {error.line}: {error}; is a quote left open there? {WAY_OUT.capitalize()}"
        raise DataError(told, where=where) from error


def _said(dialect: Dialect) -> list[Note]:
    notes = [Note(f"columns are separated by {dialect.delimiter!r}")] if dialect.delimiter != "," else []
    return [*notes, *([Note("quotes within text are written with a backslash")] if dialect.escaped else [])]


def _check_swallowed(lines: Sequence[str], layout: Layout, dialect: Dialect, where: str) -> None:
    """A record over several lines is text with line breaks, or an open quote that took in rows: then raise DataError.

    The lines it takes in are rows where they have enough fields, and what stands in them is like what stands in the
    other rows: numbers, image files, or one of few values.
    """
    several = [record for record in (layout.header, *layout.body) if record.last > record.first]
    if not several:
        return
    signs = _signs(layout)
    for record in several:
        inner = lines[record.first : record.last]
        split = csv.reader(inner, delimiter=dialect.delimiter, quoting=csv.QUOTE_NONE)
        rows = sum(_is_row(cells, len(layout.columns), signs) for cells in split)
        if rows >= len(inner) / 2:
            place = "there, in the header," if record is layout.header else "there"
            raise DataError(
                f"line {record.first}: a quote opened {place} takes in the lines up to {record.last}; {WAY_OUT}",
                where=where,
            )


def _is_row(cells: Sequence[str], width: int, signs: dict[int, _Sign]) -> bool:
    if len(cells) < width:
        return False
    return 2 * sum(sign(cells[n].strip()) for n, sign in signs.items()) >= len(signs)


def _signs(layout: Layout) -> dict[int, _Sign]:
    """By position, what tells a cell of that column."""
    width = len(layout.columns)
    usual = [r.cells for r in layout.body if len(r.cells) == width and r.first == r.last][:_SAMPLE]
    usual = usual or [r.cells for r in layout.body if len(r.cells) == width][:_SAMPLE]
    signs: dict[int, _Sign] = {}
    for n in range(width):
        cells = [cell for row in usual if (cell := row[n].strip())]
        known = set(cells)
        if not cells:
            continue
        if all(NUMBER.fullmatch(cell) for cell in cells):
            signs[n] = lambda cell: NUMBER.fullmatch(cell) is not None
        elif all(cell.casefold().endswith(IMAGE_SUFFIXES) for cell in cells):
            signs[n] = lambda cell: cell.casefold().endswith(IMAGE_SUFFIXES)
        elif len(known) <= min(LARGEST_KNOWN, len(cells) / 2):
            signs[n] = known.__contains__
    return signs
