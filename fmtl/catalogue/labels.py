"""Labels as people typed them to labels that are equal when they look equal."""

import re
import unicodedata
from collections.abc import Sequence

import pandas as pd

from fmtl.catalogue.notes import Note, warning
from fmtl.storage import tables

OTHER = "other"
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
_BLANK_LOOKS = ("na", "n/a", "#n/a", "nan", "null", "-", "--", "?")


def clean_label(text: str) -> str | None:
    """Unicode's NFC, without invisible or control characters and outer or doubled spaces; None if nothing is left."""
    text = unicodedata.normalize("NFC", text.translate(_INVISIBLE))
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text).strip() or None


def clean_labels(
    frame: pd.DataFrame, columns: Sequence[str], *, casefold: bool = False
) -> tuple[pd.DataFrame, list[Note]]:
    """The label columns cleaned, and notes on what was changed or still looks alike.

    Args:
        casefold: Labels that differ only by case become the most frequent spelling of them.
    """
    labels = tables.map_cells(frame[list(columns)], clean_label)
    notes: list[Note] = []
    for column in columns:
        changed = sum(a != b for a, b in zip(labels[column], frame[column], strict=True))
        if changed:
            notes.append(Note(f"column '{column}': {changed} labels had odd spaces or characters and were cleaned"))
        if casefold:
            labels[column], merged = _casefolded(labels[column])
            notes += [Note(f"column '{column}': {a!r} became {b!r}") for a, b in merged.items()]
        classes = labels[column].dropna()
        for blank in classes[classes.str.casefold().isin(_BLANK_LOOKS)].unique():
            count = int((classes == blank).sum())
            notes.append(
                warning(
                    f"column '{column}' has {count} cells {blank!r}, a class of its own; if it means a blank, name it: "
                    f"--missing {blank}"
                )
            )
        notes += [warning(f"column '{column}' has labels that look alike: {group}") for group in alike(classes)]
    return labels, notes


def alike(labels: pd.Series) -> list[list[str]]:
    """Groups of labels that are one word in several spellings: case, accents, punctuation, one letter more."""
    by_form: dict[str, list[str]] = {}
    for label in labels.unique():
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


def rare_classes(labels: pd.DataFrame, groups: Sequence, least: int) -> dict[str, dict[str, int]]:
    """Per column, the classes with fewer than ``least`` distinct images, and how many they have."""
    rare = {}
    for column in labels:
        sizes = pd.Series(groups, index=labels.index).groupby(labels[column]).nunique()
        found = sizes[sizes < least]
        if len(found):
            rare[column] = {str(label): int(n) for label, n in found.items()}
    return rare


def _casefolded(labels: pd.Series) -> tuple[pd.Series, dict[str, str]]:
    counts = labels.value_counts()
    best: dict[str, str] = {}
    for label in sorted(counts.index, key=lambda name: (-counts[name], name)):
        best.setdefault(label.casefold(), label)
    merged = {label: best[label.casefold()] for label in counts.index if best[label.casefold()] != label}
    return pd.Series([merged.get(x, x) for x in labels], index=labels.index, dtype=object), merged


def _form(label: str) -> str:
    plain = unicodedata.normalize("NFKD", label.casefold())
    return re.sub(r"[\W_]+", "", "".join(c for c in plain if not unicodedata.combining(c))) or label
