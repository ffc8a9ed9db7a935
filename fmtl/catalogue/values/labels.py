"""Labels as people typed them to labels that are equal when they look equal."""

import re
import shlex
import unicodedata
from collections.abc import Hashable, Iterable, Sequence

import pandas as pd

from fmtl.catalogue.notes import Note, warning
from fmtl.catalogue.values import spellings
from fmtl.storage import tables

OTHER = "other"
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
_BLANK_LOOKS = ("na", "n/a", "#n/a", "nan", "null", "-", "--", "?")


def clean_label(text: str) -> str | None:
    """Unicode's NFC, without entities, invisible or control characters and outer or doubled spaces; None if nothing
    is left."""
    text = unicodedata.normalize("NFC", spellings.without_entities(text).translate(_INVISIBLE))
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text).strip() or None


def folded(text: str) -> str:
    """What two spellings of one word have in common, but for their case."""
    return (clean_label(text) or "").casefold()


def folded_all(spellings: Iterable[str]) -> frozenset[str]:
    return frozenset(map(folded, spellings)) - {""}


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
        numbers = spellings.numbers_in_one_spelling(labels[column].dropna().unique())
        if numbers:
            labels[column] = _renamed(labels[column], numbers)
            shown = ", ".join(f"{a!r} became {b!r}" for a, b in list(numbers.items())[: spellings.SHOWN])
            notes.append(Note(f"column '{column}': {len(numbers)} numbers in another spelling: {shown}"))
        if casefold:
            labels[column], merged = _casefolded(labels[column])
            notes += [Note(f"column '{column}': {a!r} became {b!r}") for a, b in merged.items()]
        classes = labels[column].dropna()
        for blank in classes[classes.str.casefold().isin(_BLANK_LOOKS)].unique():
            count = int((classes == blank).sum())
            notes.append(
                warning(
                    f"column '{column}' has {count} cells {blank!r}, a class of its own; if it means a blank, name it: "
                    f"--missing {shlex.quote(blank)}; if it means that the column does not apply to a product: "
                    f"--not-applicable {shlex.quote(blank)}"
                )
            )
        notes += spellings.notes_on(column, classes)
    return labels, notes


def clean_sets(name: str, cells: pd.Series, *, casefold: bool = False) -> tuple[pd.Series, list[Note]]:
    """``clean_labels`` for the values of sets: lists, or None, to sorted tuples, or None."""
    values = cells.explode()  # an empty list becomes nan, which is told apart below
    values = values[values.map(lambda value: isinstance(value, str))].astype(object)
    cleaned, notes = clean_labels(values.to_frame(name), [name], casefold=casefold)
    found: dict[Hashable, set[str]] = {line: set() for line, cell in cells.items() if cell is not None}
    for line, value in cleaned[name].items():
        if value is not None:
            found[line].add(value)
    sets = [tuple(sorted(found[line])) if line in found else None for line in cells.index]
    return pd.Series(sets, index=cells.index, dtype=object), notes


def is_set(labels: pd.Series) -> bool:
    """Whether the cells of a column are sets."""
    return any(isinstance(cell, tuple) for cell in labels)


def rare_classes(labels: pd.DataFrame, groups: Sequence, least: int) -> dict[str, dict[str, int]]:
    """Per column, the classes with fewer than ``least`` distinct images, and how many they have."""
    rare = {}
    for column in labels:
        of_row = pd.Series(groups, index=labels.index, name="group")
        if is_set(labels[column]):
            values = labels[column].explode().dropna()
            sizes = of_row.loc[values.index].groupby(values.to_numpy()).nunique()
        else:
            sizes = of_row.groupby(labels[column]).nunique()
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
    return _renamed(labels, merged), merged


def _renamed(labels: pd.Series, names: dict[str, str]) -> pd.Series:
    return pd.Series([names.get(label, label) for label in labels], index=labels.index, dtype=object)
