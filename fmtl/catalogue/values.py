"""What the values of a column are: attributes of a photo, or something else."""

import ast
import json
import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from statistics import median

import pandas as pd

from fmtl.catalogue.names import NUMBER

DATES = "dates"
NUMBERS = "numbers (name it in --label-cols if they are classes)"
IDENTIFIERS = "identifiers"  # how what_they_are begins where they are
_MOST = 0.95  # share of values that makes a column what they are
_LOOKED_AT, _FIRST = 1000, 50  # values: at most, and before it is worth a look at all
_LONGEST_NUMBER = 25  # characters
_SAMPLE = 5000  # rows
_WORDS = 6  # in the median value of free text
_ID_SHARE = 0.1  # of rows: with fewer values, codes are an attribute
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_TIME = r"\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[ap]\.?m\.?)?( ?(z|utc|[+-]\d{2}:?\d{2}))?"
_DAY = (
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}"
    rf"|\d{{1,2}}\.? {_MONTH}\.?,? \d{{4}}|{_MONTH}\.? \d{{1,2}},? \d{{4}})"
)
_AMOUNT = r"[+-]?\d{1,3}([., '\u00a0\u202f]\d{3})*([.,]\d+)?|[+-]?\d+([.,]\d+)?"
_CURRENCY = r"([$€£¥₹₽₩]|us\$|usd|eur|gbp|chf|jpy|inr|rs\.?|kr\.?|sek|nok|dkk|pln|zł|czk|kč|rub|cny|rmb|aud|cad)"
_PATTERNS = {
    "addresses of web pages or files": r"(https?:|ftp:|s3:|gs:)?//\S+|www\.\S+",
    "e-mail addresses": r"[^@\s]+@[^@\s]+\.[a-z]{2,}",
    "percentages": rf"({_AMOUNT})\s*%",
    "amounts of money": rf"{_CURRENCY}\s*({_AMOUNT})(\.-)?|({_AMOUNT})\s*{_CURRENCY}",
    DATES: rf"{_DAY}([t ]{_TIME})?",
    "times": _TIME,
    NUMBERS: rf"{NUMBER.pattern}|{_AMOUNT}",
}
_KINDS = {told: re.compile(pattern, re.IGNORECASE) for told, pattern in _PATTERNS.items()}
_ID = re.compile(r"(?=.*\d{3})[\w./:#-]+|[0-9a-f]{8}-[0-9a-f-]{27}", re.IGNORECASE)
_CODE = re.compile(r"(?=.*\d)[\w./:#-]+")
_SEPARATORS = ("|", ";", ",", "/")
_SEPARATED = 0.05  # share of cells with a separator that makes a column one of several values
_KNOWN_PARTS = 0.8  # share of the joined cells whose parts all occur elsewhere


def what_they_are(values: pd.Series) -> str | None:
    """What the values are if no attribute of a photo; None where they may be one.

    Args:
        values: Text, without blanks.
    """
    unique = values.drop_duplicates().head(_LOOKED_AT).tolist()
    for told, pattern in _KINDS.items():
        if _share(unique[:_FIRST], pattern) >= _MOST / 2 and _share(unique, pattern) >= _MOST:
            return told
    if (
        _share(unique[:_FIRST], _ID) >= _MOST / 2
        and _share(unique, _ID) >= _MOST
        and values.nunique() > _ID_SHARE * len(values)
    ):
        return f"{IDENTIFIERS}, such as {unique[0]!r}"
    if unique and median([len(cell.split()) for cell in unique]) >= _WORDS:
        return "free text"
    return None


def like_codes(values: pd.Series) -> bool:
    """Whether nearly all are one word with a digit."""
    return _share(values.tolist(), _CODE) >= _MOST


def _share(values: Sequence[str], pattern: re.Pattern) -> float:
    return sum(pattern.fullmatch(cell) is not None for cell in values) / max(len(values), 1)


def separator_of(values: pd.Series) -> str | None:
    """What stands between several values of one cell: ``|``, ``;``, ``,``, ``/``, or ``[]`` of a list; None if nothing.

    A bar always separates. The others do where nearly all parts occur elsewhere, too.
    """
    values = values.iloc[:: max(len(values) // _SAMPLE, 1)]
    counts = values.value_counts()
    unique = counts.index.tolist()
    if sum(counts[cell] for cell in unique if _listed(cell) is not None) >= _MOST * len(values):
        return "[]"
    for separator in _SEPARATORS:
        joined = [cell for cell in unique if separator in cell and len(_parts(cell, separator)) > 1]
        if sum(counts[cell] for cell in joined) < _SEPARATED * len(values):
            continue
        if separator == "|":
            return separator
        seen = Counter(part for cell in unique for part in set(_parts(cell, separator)))
        known = sum(all(seen[part] > 1 for part in _parts(cell, separator)) for cell in joined)
        if len(joined) > 1 and known >= _KNOWN_PARTS * len(joined):
            return separator
    return None


def first_value(cell: str, separator: str) -> str | None:
    """The first of several values; None of an empty list."""
    parts = _parts(cell, separator)
    return parts[0] if parts else None


def as_number(label: str) -> Decimal | None:
    """The number that a label is; None where it is none, or a code such as 007, 12E4 or a very long one."""
    if not NUMBER.fullmatch(label) or re.match(r"[+-]?0\d|.*[eE]", label) or len(label) > _LONGEST_NUMBER:
        return None
    return Decimal(label)


def _parts(cell: str, separator: str) -> list[str]:
    if separator == "[]":
        found = _listed(cell)
        return [cell] if found is None else found
    return [part for part in (part.strip() for part in cell.split(separator)) if part]


def _listed(cell: str) -> list[str] | None:
    """The values of a list as JSON or Python writes it."""
    if not (cell.startswith("[") and cell.endswith("]")) and not (cell.startswith("{'") and cell.endswith("'}")):
        return None
    for reads in (json.loads, ast.literal_eval):
        try:
            found = reads(cell)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list | tuple | set | frozenset):
            return [str(item).strip() for item in found if item is not None]
    return None
