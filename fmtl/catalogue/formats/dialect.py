"""How a CSV is written, found by what makes most of its lines fit, and its records read in that way."""

import contextlib
import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from fmtl.catalogue.names import NUMBER

LONGEST_CELL = 1 << 26  # characters
DELIMITERS = ",;\t|"
_NO_HEADER = 0.3  # what a fit without a header is worth
_HEAD = 300  # records among which a header's names would occur again
_SAMPLE = 2000  # lines that the delimiter is told by
_HINT = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE)  # Excel's own line above the header
_ESCAPED = re.compile(r'(?<!\\)\\"')


class Record(NamedTuple):
    """One row of a table: the first and the last line it takes, from 1, and its cells."""

    first: int
    last: int
    cells: list[str]


@contextlib.contextmanager
def long_cells() -> Iterator[None]:
    """Within it, cells may be long: photos and pages are found in some tables."""
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


@dataclass(frozen=True)
class Dialect:
    """How a CSV is written.

    Attributes:
        delimiter: Between columns.
        quotes: Whether double quotes enclose text.
        escaped: Whether a quote within such text is written with a backslash, as databases do, rather than doubled.
        start: Lines above the table that only say how it is written.
    """

    delimiter: str
    quotes: bool = True
    escaped: bool = False
    start: int = 0


class OpenQuote(Exception):
    """A quote that no other closes. ``line`` is where its record begins."""

    def __init__(self, line: int, reason: str):
        super().__init__(reason)
        self.line = line


def find(lines: Sequence[str], *, quotes: bool) -> Dialect:
    """The dialect in which most records have the same number of fields, and many."""
    hint = _HINT.fullmatch(lines[0]) if lines else None
    if hint:
        found = Dialect(hint[1], quotes, start=1)
    else:
        head = lines[:_SAMPLE]
        known = [Dialect(delimiter, quotes) for delimiter in DELIMITERS]
        found = max(known, key=lambda dialect: _fit(list(_read(head, dialect, strict=False))))
    if quotes and any(_ESCAPED.search(line) for line in lines):
        escaped = replace(found, escaped=True)
        if _num_fitting(lines, escaped) > _num_fitting(lines, found):
            return escaped
    return found


def read(lines: Sequence[str], dialect: Dialect) -> Iterator[Record]:
    """Every record; a blank line is none.

    Raises:
        OpenQuote: With the line where the record begins.
    """
    return _read(lines, dialect, strict=True)


def most_common_width(records: Iterable[Record]) -> int:
    """How many fields most records have; of equals the most."""
    widths = Counter(len(record.cells) for record in records)
    return max(widths, key=lambda width: (widths[width], width), default=0)


def recurs(record: Record, others: Sequence[Record]) -> bool:
    """Whether a word of a record stands in its column again, in a record that is not the same: no header has that."""
    words = {
        n: cell.strip() for n, cell in enumerate(record.cells) if cell.strip() and not NUMBER.fullmatch(cell.strip())
    }
    return any(
        n < len(other.cells) and other.cells[n].strip() == word
        for other in others
        if other.cells != record.cells
        for n, word in words.items()
    )


def _read(lines: Sequence[str], dialect: Dialect, *, strict: bool) -> Iterator[Record]:
    body: Iterable[str] = lines[dialect.start :] if dialect.start else lines
    if dialect.escaped:
        body = (_ESCAPED.sub('""', line) for line in body)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if dialect.quotes else csv.QUOTE_NONE
    reader = csv.reader(body, delimiter=dialect.delimiter, strict=strict, quoting=quoting)
    first = dialect.start + 1
    try:
        for cells in reader:
            last = dialect.start + reader.line_num
            if len(cells) > 1 or "".join(cells).strip():
                yield Record(first, last, cells)
            first = last + 1
    except csv.Error as error:
        if strict:
            raise OpenQuote(first, str(error)) from error


def _fit(records: Sequence[Record]) -> tuple[bool, float]:
    """How well records fit one width: whether all do, and the share that does, less where the width is small.

    It is worth little where what stands in the header's place occurs again below: then the header does not fit.
    """
    width = most_common_width(records)
    if width < 2:
        return False, 0
    fitting = [record for record in records if len(record.cells) == width]
    share = len(fitting) / len(records)
    worth = share * (1 - 1 / width)
    return share == 1, worth * (_NO_HEADER if recurs(fitting[0], fitting[:_HEAD]) else 1)


def _num_fitting(lines: Sequence[str], dialect: Dialect) -> int:
    widths: Counter[int] = Counter()
    try:
        for record in read(lines, dialect):
            widths[len(record.cells)] += 1
    except OpenQuote:
        return 0
    return max(widths.values(), default=0)
