"""Labels as people typed them to labels that are equal when they look equal."""

import re
import unicodedata
from collections.abc import Sequence

import pandas as pd

from fmtl import tables

_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))


def clean_label(text: str) -> str | None:
    """Unicode's NFC, without invisible characters and outer or doubled spaces; None if nothing is left."""
    text = unicodedata.normalize("NFC", text.translate(_INVISIBLE))
    return re.sub(r"\s+", " ", text).strip() or None


def clean_labels(frame: pd.DataFrame, columns: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """The label columns cleaned, and notes on what was changed or still looks alike."""
    labels = tables.map_cells(frame[list(columns)], clean_label)
    notes = []
    for column in columns:
        changed = sum(a != b for a, b in zip(labels[column], frame[column], strict=True))
        if changed:
            notes.append(f"column '{column}': {changed} labels had odd spaces or characters and were cleaned")
        spellings: dict[str, list[str]] = {}
        for label in labels[column].dropna().unique():
            spellings.setdefault(label.casefold(), []).append(label)
        alike = [group for group in spellings.values() if len(group) > 1]
        notes += [f"warning: column '{column}' has labels that differ only by case: {group}" for group in alike]
    return labels, notes
