"""The labels of a table, as people typed them, to labels that are equal when they look equal."""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from fmtl.catalogue.columns import Columns
from fmtl.catalogue.notes import Note
from fmtl.catalogue.table import Catalogue
from fmtl.catalogue.values import sets
from fmtl.catalogue.values.labels import clean_labels, clean_sets, folded, folded_all


def cleaned(
    catalogue: Catalogue,
    columns: Columns,
    *,
    casefold: bool,
    missing: Collection[str] = (),
    not_applicable: Sequence[str] = (),
) -> tuple[pd.DataFrame, dict[str, np.ndarray], list[Note]]:
    """The labels, a column per attribute, those of sets tuples of their values.

    Args:
        casefold: Labels that differ only by case are one.
        missing, not_applicable: Spellings of a value in a list that mean a blank, and that the column does not apply.

    Returns:
        The labels; by attribute ``(N,)`` bool, whether a row's cell says that it does not apply, for those that have
        such a cell; and notes.
    """
    frame, absent = catalogue.frame, folded_all(not_applicable)
    lists = {name: sets.read(frame, name, cells) for name, cells in columns.sets.items()}
    for name, separator in columns.separators.items():
        lists[name] = sets.read(frame, name, sets.SetCells(separator))
    marked = {}
    for name in columns.labels:
        cells = lists[name] if name in lists else frame[name]
        says = _says_itself(catalogue, columns, name) & cells.isna().to_numpy()
        if name in lists:
            says |= np.array([sets.says_only(cell, lambda value: folded(value) in absent) for cell in cells])
            lists[name] = sets.without(cells, lambda value: value in missing or folded(value) in absent)
        if says.any():
            marked[name] = says
    singles = [name for name in columns.labels if name not in columns.sets]
    plain = {name: frame[name] for name in singles}
    for name in columns.separators:
        firsts = [cell[0] if cell else None for cell in lists[name]]
        plain[name] = pd.Series(firsts, index=frame.index, dtype=object)
    labels, notes = clean_labels(pd.DataFrame(plain, index=frame.index, dtype=object), singles, casefold=casefold)
    for name in columns.sets:
        labels[name], said = clean_sets(name, lists[name], casefold=casefold)
        notes += said
    return labels[columns.labels], marked, notes


def _says_itself(catalogue: Catalogue, columns: Columns, name: str) -> np.ndarray:
    """Whether a cell of an attribute's columns says that it does not apply, ``(N,)`` bool."""
    own = (columns.sets[name].columns if name in columns.sets else ()) or (name,)
    says = np.zeros(len(catalogue.frame), bool)
    for column in own:
        if column in catalogue.not_applicable:
            says |= catalogue.frame.index.isin(catalogue.not_applicable[column].index)
    return says
