"""How a CSV is written, found by what makes most of its lines fit, and its records read in that way."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

DELIMITERS = ",;\t|"
_SAMPLE = 2000  # lines that the delimiter is told by
_HINT = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE)  # Excel's own line above the header
_ESCAPED = re.compile(r'(?<!\\)\\"')


class Record(NamedTuple):
    """One row of a table: the first and the last line it takes, from 1, and its cells."""

    first: int
    last: int
    cells: list[str]


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
        found = max(known, key=lambda dialect: _fit(_read(head, dialect, strict=False)))
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


def _fit(records: Iterable[Record]) -> float:
    """From 0 to 1: the share of records of the usual width, less where that is small."""
    widths = Counter(len(record.cells) for record in records)
    if not widths:
        return 0
    width = max(widths, key=lambda width: (widths[width], width))
    return widths[width] / widths.total() * (1 - 1 / width)


def _num_fitting(lines: Sequence[str], dialect: Dialect) -> int:
    widths: Counter[int] = Counter()
    try:
        for record in read(lines, dialect):
            widths[len(record.cells)] += 1
    except OpenQuote:
        return 0
    return max(widths.values(), default=0)
