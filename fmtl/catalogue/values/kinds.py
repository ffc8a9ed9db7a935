"""What the values of a column are: attributes of a photo, or something else."""

import re
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


def as_number(label: str) -> Decimal | None:
    """The number that a label is; None where it is none, or a code such as 007, 12E4 or a very long one."""
    if not NUMBER.fullmatch(label) or re.match(r"[+-]?0\d|.*[eE]", label) or len(label) > _LONGEST_NUMBER:
        return None
    return Decimal(label)
