"""Labels that are one word in several spellings."""

import html
import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal

import pandas as pd

from fmtl.catalogue.notes import Note, warning
from fmtl.catalogue.values.kinds import as_number

SHOWN = 5  # groups named of a column
_ENTITY = re.compile(r"&(#\d+|#x[0-9a-fA-F]+|[a-zA-Z]+);")


def alike(labels: pd.Series) -> list[list[str]]:
    """Groups of labels that are one word in several spellings: case, accents, punctuation, one letter more."""
    by_form: dict[str, list[str]] = {}
    for label in labels.unique():
        if as_number(label) is None:  # numbers differ by each of their digits and points
            by_form.setdefault(_form(label), []).append(label)
    shorter = {}  # from a form with one letter too many to the form itself
    for form in by_form:
        if len(form) > 3 and form.isalpha():  # a last letter too many; in long words any
            cuts = range(len(form)) if len(form) > 8 else (len(form) - 1,)
            found = {form[:i] + form[i + 1 :] for i in cuts} & by_form.keys()
            if found:
                shorter[form] = min(found)
    groups: dict[str, list[str]] = {}
    for form, spellings in by_form.items():
        while form in shorter:
            form = shorter[form]
        groups.setdefault(form, []).extend(spellings)
    return [group for group in groups.values() if len(group) > 1]


def notes_on(column: str, labels: pd.Series) -> list[Note]:
    """Warnings about labels that look alike, a few of them, and about those that were read in a wrong encoding."""
    found = alike(labels)
    notes = [warning(f"column '{column}' has labels that look alike: {group}") for group in found[:SHOWN]]
    if len(found) > SHOWN:
        notes.append(warning(f"column '{column}' has {len(found) - SHOWN} more groups of labels that look alike"))
    misread = {label: right for label in labels.unique() if (right := _reread(label))}
    if misread:
        told = ", ".join(f"{label!r} for {right!r}" for label, right in list(misread.items())[:SHOWN])
        notes.append(
            warning(
                f"column '{column}' has {int(labels.isin(list(misread)).sum())} labels that were read in a wrong "
                f"encoding before they came into the table: {told}"
            )
        )
    return notes


def numbers_in_one_spelling(labels: Sequence[str]) -> dict[str, str]:
    """Another spelling for each label that is a number another label is too: ``36.0`` becomes ``36``.

    Where every label is a whole number, as programs make them decimal beside a blank, all lose their point.
    """
    by_value: dict[Decimal, list[str]] = {}
    for label in labels:
        if (number := as_number(label)) is not None:
            by_value.setdefault(number, []).append(label)
    whole = len(by_value) > 0 and all(number == number.to_integral_value() for number in by_value)
    whole = whole and sum(map(len, by_value.values())) == len(labels)
    changed: dict[str, str] = {}
    for spellings in by_value.values():
        best = min(spellings, key=lambda label: (len(label), label))
        if whole and re.fullmatch(r"[+-]?\d+\.0*", best):
            best = best.partition(".")[0]
        changed |= {label: best for label in spellings if label != best}
    return changed


def without_entities(label: str) -> str:
    """``Tops &amp; Tees`` as a reader sees it."""
    return html.unescape(label) if _ENTITY.search(label) else label


def _reread(label: str) -> str | None:
    """What a label said before its UTF-8 was read as a Western code page, where that shows."""
    if label.isascii():
        return None
    try:
        right = label.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return None
    return right if right != label else None


def _form(label: str) -> str:
    plain = unicodedata.normalize("NFKD", label.casefold())
    return re.sub(r"[\W_]+", "", "".join(c for c in plain if not unicodedata.combining(c))) or label
