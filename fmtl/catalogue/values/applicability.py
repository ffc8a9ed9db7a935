"""Attributes that exist for some products only: what a table and its owner say of it, and what follows for the labels.

For each such attribute there is a column of labels more, ``<attribute> applies``, which says yes or no.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fmtl.catalogue.notes import Note, warning
from fmtl.catalogue.table import require
from fmtl.catalogue.values.labels import clean_label, is_set
from fmtl.errors import TABLE, DataError, did_you_mean
from fmtl.storage import tables
from fmtl.tasks import APPLIES, DOES_NOT_APPLY, as_text

Rules = Mapping[str, Mapping[str, Sequence[str]]]  # by attribute and column, the values of products that have it
LEAST_BLANK = 0.05  # share of the rows that are blank for whole classes, where a rule is proposed
LEAST_KNOWN = 0.5  # share of the other classes' rows that are known there
MISTAKES = 0.02  # share of a class's rows that may be known although the attribute does not apply to it
CHANCE = 1e-3  # that a class is blank throughout although the attribute applies to it: below, it is no chance
MOST_CLASSES = 100  # of a column that a rule is proposed by: all those that it names are written out
_SHOWN = 5
COLUMNS = ("line", "attribute", "label", "because")  # of contradictions


@dataclass
class Applicability:
    """What was found.

    Attributes:
        of: By name of the columns of labels that say whether an attribute applies, the attribute.
        contradictions: A row of ``COLUMNS`` for each label of an attribute that does not apply.
        notes: What the user should know.
    """

    of: dict[str, str] = field(default_factory=dict)
    contradictions: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS)))
    notes: list[Note] = field(default_factory=list)


def find(
    frame: pd.DataFrame, labels: pd.DataFrame, rules: Rules, marked: Mapping[str, pd.Index], *, casefold: bool
) -> tuple[pd.DataFrame, Applicability]:
    """Find out to which rows each attribute applies.

    It does where a rule says so, or a label is known. It does not where a rule or the cell itself says that. A row for
    which both hold counts neither for the attribute nor for its limits.

    Args:
        frame: The table, for columns that are no labels.
        labels: Cleaned.
        marked: By attribute, the rows whose cell says that it does not apply.
        casefold: Values that differ only by case are one.

    Returns:
        The labels, blank where an attribute does not apply, with a column behind each that has such limits.

    Raises:
        DataError: A rule is for an attribute or by a column that there is not, or none of its values occurs.
    """
    found = Applicability()
    if strange := [name for name in rules if name not in labels]:
        hint = did_you_mean(strange[0], labels.columns, otherwise=f"the attributes are {', '.join(labels)}")
        raise DataError(f"applies: '{strange[0]}' is no attribute; {hint}", where=TABLE)
    columns: dict[str, pd.Series] = {}
    contradictions = []
    for name in labels:
        columns[name] = labels[name]
        lines = marked.get(name, pd.Index([]))
        if name not in rules and lines.empty:
            continue
        companion = f"{name} applies"
        if companion in labels:
            told = f"column '{companion}' has the name under which it is kept whether '{name}' applies; rename it"
            raise DataError(told, where=TABLE)
        fits, said = _fits(frame, labels, name, rules.get(name, {}), casefold=casefold)
        found.notes += said
        columns[name], columns[companion], disputed = _decided(labels[name], fits, labels.index.isin(lines))
        found.of[companion] = name
        found.notes.append(_told(name, columns[companion], int(disputed.sum())))
        contradictions.append(_listed(name, labels[name], fits, disputed, frame, rules.get(name, {})))
    if contradictions:
        found.contradictions = pd.concat(contradictions, ignore_index=True)
    return pd.DataFrame(columns, index=labels.index, dtype=object), found


def _fits(
    frame: pd.DataFrame, labels: pd.DataFrame, name: str, rule: Mapping[str, Sequence[str]], *, casefold: bool
) -> tuple[np.ndarray, list[Note]]:
    """What a rule says of each row: True, False, or nan where one of its columns is blank. Without a rule nan."""
    if not rule:
        return np.full(len(labels), np.nan), []
    fits, notes = np.ones(len(labels)), []
    for column, values in rule.items():
        if column not in labels:
            require(frame, [column])
        cells = labels[column] if column in labels else tables.map_cells(frame[[column]], clean_label)[column]
        there = {value for cell in cells for value in _values(cell)}
        by_case = {value.casefold(): value for value in there} if casefold else {}
        wanted = {by_case.get(value.casefold(), value) for value in (clean_label(value) or "" for value in values)}
        for value in sorted(wanted - there):
            hint = did_you_mean(value, there, otherwise=f"it has {', '.join(sorted(there)[:_SHOWN])}, ...")
            told = f"applies: '{name}': no row has '{value}' in column '{column}'; {hint}"
            if not wanted & there:
                raise DataError(told, where=TABLE)
            notes.append(warning(told))
        says = np.array([np.nan if cell is None else not wanted.isdisjoint(_values(cell)) for cell in cells], float)
        # One no decides; else one blank leaves it open.
        fits = np.where((fits == 0) | (says == 0), 0.0, fits * says)
    return fits, notes


def _decided(labels: pd.Series, fits: np.ndarray, marked: np.ndarray) -> tuple[pd.Series, pd.Series, np.ndarray]:
    """The attribute's labels, those of its limits, and which rows contradict themselves."""
    has = np.array([bool(_values(cell)) for cell in labels], bool)  # a set of nothing fits where nothing applies
    never = marked | (fits == 0)
    disputed = (has & never) | (marked & (fits == 1))
    known = labels.notna().to_numpy()
    said = np.full(len(labels), None, object)
    said[known | (fits == 1)] = APPLIES
    said[never] = DOES_NOT_APPLY
    said[disputed] = None
    kept = pd.Series(labels.to_numpy(copy=True), index=labels.index, dtype=object)
    kept[never] = None
    return kept, pd.Series(said, index=labels.index, dtype=object), disputed


def _told(name: str, says: pd.Series, disputed: int) -> Note:
    yes, no = int((says == APPLIES).sum()), int((says == DOES_NOT_APPLY).sum())
    told = f"attribute '{name}' applies to {yes} rows and not to {no}"
    if unknown := len(says) - yes - no - disputed:
        told += f"; of {unknown} it is not known"
    if not disputed:
        return Note(told)
    return warning(f"{told}; {disputed} rows contradict themselves and count for neither: contradictions.csv")


def _listed(
    name: str,
    labels: pd.Series,
    fits: np.ndarray,
    disputed: np.ndarray,
    frame: pd.DataFrame,
    rule: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    rows = []
    for line, cell, fit in zip(labels.index[disputed], labels[disputed], fits[disputed], strict=True):
        because = "the cell says that it does not apply, and the rule that it does"
        if fit == 0:
            because = ", ".join(f"{column} {frame[column][line]}" for column in rule if column in frame)
        rows.append((line, name, as_text(cell) if cell else "", because))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def propose(labels: pd.DataFrame, has_limits: Mapping[str, str]) -> list[Note]:
    """Rules that would explain why an attribute is blank for whole classes of another.

    Args:
        has_limits: By a column of ``labels``, the attribute whose limits it says.
    """
    open_ = [name for name in labels if name not in has_limits and name not in has_limits.values()]
    singles = [name for name in labels if name not in has_limits and not is_set(labels[name])]
    codes = {name: pd.factorize(labels[name], sort=True) for name in singles}
    notes = []
    for name in open_:
        known = labels[name].notna().to_numpy()
        found = {column: _rule(known, *codes[column]) for column in singles if column != name}
        rules = {column: rule for column, rule in found.items() if rule is not None}
        if rules:
            column = max(rules, key=lambda column: (rules[column][0], -len(rules[column][1])))
            notes.append(_proposal(name, column, known, rules[column][1], codes[column]))
    return notes


def _rule(known: np.ndarray, codes: np.ndarray, classes: Sequence[str]) -> tuple[int, np.ndarray] | None:
    """How many blank rows lie in classes that are as good as blank, and not by chance; and the classes that are not."""
    if not 1 < len(classes) <= MOST_CLASSES or known.all():
        return None
    rows = np.bincount(codes[codes >= 0], minlength=len(classes))
    labelled = np.bincount(codes[known & (codes >= 0)], minlength=len(classes))
    others = labelled > MISTAKES * rows
    share = labelled[others].sum() / max(rows[others].sum(), 1)
    blank = ~others & ((1 - share) ** rows < CHANCE)
    num = int((rows - labelled)[blank].sum())
    if share < LEAST_KNOWN or num < LEAST_BLANK * len(known):
        return None
    return num, np.flatnonzero(others)


def _proposal(
    name: str, column: str, known: np.ndarray, where_known: np.ndarray, found: tuple[np.ndarray, Sequence[str]]
) -> Note:
    codes, classes = found
    never = np.setdiff1d(np.arange(len(classes)), where_known)
    elsewhere = np.isin(codes, never)
    rows, blank = int(elsewhere.sum()), int((elsewhere & ~known).sum())
    largest = never[np.argsort(-np.bincount(codes[codes >= 0], minlength=len(classes))[never], kind="stable")]
    shown = ", ".join(f"{classes[k]} {int((codes == k).sum())}" for k in largest[:_SHOWN])
    more = f" and {len(never) - _SHOWN} more" if len(never) > _SHOWN else ""
    rule = json.dumps({name: {column: [str(classes[k]) for k in where_known]}}, ensure_ascii=False)
    return Note(
        f"column '{name}' is blank in {blank} of {rows} rows of {len(never)} classes of '{column}' ({shown}{more}); if "
        f"it does not apply to them, say so, and it is learnt as that: --applies {shlex.quote(rule)}"
    )


def _values(cell: object) -> tuple[str, ...]:
    return () if cell is None else (cell,) if isinstance(cell, str) else tuple(cell)  # type: ignore[arg-type]
