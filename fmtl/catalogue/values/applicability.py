"""Attributes that exist for some products only: what a table and its owner say of it, and what follows for the labels.

For each such attribute there is a column of labels more, ``<attribute> applies``, which says yes or no.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from fmtl.catalogue.notes import Note, warning
from fmtl.catalogue.table import require
from fmtl.catalogue.values.kinds import as_number
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

    def dispute(self, labels: pd.DataFrame, line: int, companion: str, because: str) -> None:
        """Let a row count neither for an attribute nor for where it applies, in place."""
        label = labels.at[line, self.of[companion]]
        self.contradictions.loc[len(self.contradictions)] = [line, self.of[companion], as_text(label or ""), because]
        labels.loc[line, [self.of[companion], companion]] = None


@dataclass
class _Rows:
    """What is known of the rows of a table.

    Attributes:
        frame: The table, for columns that are no labels.
        labels: Cleaned.
        applies: By attribute ``yes``, ``no`` or None of each row.
        casefold: Values that differ only by case are one.
    """

    frame: pd.DataFrame
    labels: pd.DataFrame
    casefold: bool
    applies: dict[str, np.ndarray] = field(default_factory=dict)

    def cells(self, column: str) -> pd.Series:
        """
        Raises:
            DataError: There is no such column.
        """
        if column in self.labels:
            return self.labels[column]
        require(self.frame, [column])
        return tables.map_cells(self.frame[[column]], clean_label)[column]

    def key(self, value: str) -> object:
        """What equal values share: numbers their value, words their letters."""
        value = clean_label(value) or ""
        number = as_number(value)
        return (value.casefold() if self.casefold else value) if number is None else number


def find(
    frame: pd.DataFrame, labels: pd.DataFrame, rules: Rules, marked: Mapping[str, np.ndarray], *, casefold: bool
) -> tuple[pd.DataFrame, Applicability]:
    """Find out to which rows each attribute applies.

    It does where a rule says so, or a label is known. It does not where a rule or the cell itself says that, or a
    rule asks for a value of an attribute that does not apply. A row for which both hold counts for neither.

    Args:
        frame: The table, for columns that are no labels.
        labels: Cleaned.
        marked: By attribute ``(N,)`` bool, whether a row's cell says that it does not apply.
        casefold: Values that differ only by case are one.

    Returns:
        The labels, blank where an attribute does not apply, with a column behind each that has such rows.

    Raises:
        DataError: A rule is for an attribute or by a column that there is not, or none of its values occurs.
    """
    found, rows = Applicability(), _Rows(frame, labels, casefold)
    columns = {name: labels[name] for name in labels}
    for name in _in_order(frame, labels, rules, marked):
        if f"{name} applies" in labels:
            told = f"column '{name} applies' has the name under which it is kept whether '{name}' applies; rename it"
            raise DataError(told, where=TABLE)
        says, notes = _says(rows, name, rules.get(name, {}))
        columns[name], rows.applies[name], disputed = _decided(
            labels[name], says, marked.get(name, np.zeros(len(labels), bool))
        )
        found.of[f"{name} applies"] = name
        found.notes += [*notes, _told(name, rows.applies[name], len(disputed))]
        listed = [(labels.index[n], name, as_text(labels[name].iloc[n] or ""), _why(rows, says, n)) for n in disputed]
        found.contradictions = pd.concat(
            [found.contradictions, pd.DataFrame(listed, columns=list(COLUMNS))], ignore_index=True
        )
    ordered: dict[str, object] = {}
    for name, column in columns.items():
        ordered[name] = column
        if name in rows.applies:
            ordered[f"{name} applies"] = rows.applies[name]
    return pd.DataFrame(ordered, index=labels.index, dtype=object), found


def _in_order(
    frame: pd.DataFrame, labels: pd.DataFrame, rules: Rules, marked: Mapping[str, np.ndarray]
) -> Iterator[str]:
    """Attributes that do not apply to every row, each after those that its rule asks for."""
    if strange := [name for name in rules if name not in labels]:
        hint = did_you_mean(strange[0], labels.columns, otherwise=f"the attributes are {', '.join(labels)}")
        if strange[0] in frame:
            hint = f"the column was left out, and --label-cols keeps it; the attributes are {', '.join(labels)}"
        raise DataError(f"applies: '{strange[0]}' is no attribute; {hint}", where=TABLE)
    names = [name for name in labels if name in rules or name in marked]
    waits = {name: [column for column in rules.get(name, ()) if column in names] for name in names}
    try:
        yield from TopologicalSorter(waits).static_order()
    except CycleError as error:
        told = " by ".join(f"'{name}'" for name in error.args[1])
        raise DataError(f"applies: the rules go in a circle, {told}", where=TABLE) from error


def _says(rows: _Rows, name: str, rule: Mapping[str, Sequence[str]]) -> tuple[dict[str, np.ndarray], list[Note]]:
    """What each column of a rule says of each row: 1 or 0, or nan where it leaves it open."""
    says, notes = {}, []
    for column, values in rule.items():
        cells = rows.cells(column)
        keys = {value: rows.key(value) for value in {value for cell in cells for value in _values(cell)}}
        wanted = {rows.key(value) for value in values}
        there = wanted & set(keys.values())
        for value in (value for value in values if rows.key(value) not in there):
            hint = did_you_mean(value, keys, otherwise=f"it has {', '.join(sorted(keys)[:_SHOWN])}, ...")
            told = f"applies: '{name}': no row has '{value}' in column '{column}'; {hint}"
            if not there:
                raise DataError(told, where=TABLE)
            notes.append(warning(told))
        fits = [np.nan if cell is None else any(keys[value] in wanted for value in _values(cell)) for cell in cells]
        says[column] = np.array(fits, float)
        if column in rows.applies:
            says[column][rows.applies[column] == DOES_NOT_APPLY] = 0
    return says, notes


def _decided(
    labels: pd.Series, says: Mapping[str, np.ndarray], marked: np.ndarray
) -> tuple[pd.Series, np.ndarray, np.ndarray]:
    """The attribute's labels, whether it applies, and the places of the rows that contradict themselves."""
    has = np.array([bool(_values(cell)) for cell in labels], bool)  # a set of nothing fits where nothing applies
    no, yes = np.zeros(len(labels), bool), np.full(len(labels), bool(says))
    for of_column in says.values():
        no, yes = no | (of_column == 0), yes & (of_column == 1)
    never = marked | no
    disputed = (has & never) | (marked & yes)
    applies = np.full(len(labels), None, object)
    applies[labels.notna().to_numpy() | yes] = APPLIES
    applies[never] = DOES_NOT_APPLY
    applies[disputed] = None
    kept = pd.Series(labels.to_numpy(copy=True), index=labels.index, dtype=object)
    kept[never] = None
    return kept, applies, np.flatnonzero(disputed)


def _told(name: str, applies: np.ndarray, disputed: int) -> Note:
    yes, no = int((applies == APPLIES).sum()), int((applies == DOES_NOT_APPLY).sum())
    told = f"attribute '{name}' applies to {yes} rows and not to {no}"
    if unknown := len(applies) - yes - no - disputed:
        told += f"; of {unknown} it is not known"
    if not disputed:
        return Note(told)
    return warning(f"{told}; {disputed} rows contradict themselves and count for neither: contradictions.csv")


def _why(rows: _Rows, says: Mapping[str, np.ndarray], n: int) -> str:
    """What speaks against the label of a row, at its place."""
    against = [column for column, of_column in says.items() if of_column[n] == 0]
    if not against:
        return "the cell says that it does not apply, and the rule that it does"
    cells = {column: rows.cells(column).iloc[n] for column in against}
    return ", ".join(f"{column} {as_text(cell) if cell else 'does not apply'}" for column, cell in cells.items())


def propose(labels: pd.DataFrame, companions: Mapping[str, str]) -> list[Note]:
    """Rules that would explain why an attribute is blank for whole classes of another.

    Args:
        companions: By a column of ``labels`` that says whether an attribute applies, the attribute.
    """
    names = [name for name in labels if name not in companions and name not in companions.values()]
    known = labels[names].notna().to_numpy(np.float32)  # (N, A)
    best: dict[str, tuple[int, int, str, np.ndarray, tuple]] = {}
    for column in labels:
        if column in companions or is_set(labels[column]):
            continue
        codes, classes = pd.factorize(labels[column], sort=True)
        if not 1 < len(classes) <= MOST_CLASSES:
            continue
        there = np.flatnonzero(codes >= 0)
        of_class = csr_array((np.ones(len(there), np.float32), (codes[there], there)), (len(classes), len(codes)))
        labelled, rows = of_class @ known, of_class.sum(axis=1)
        for a, name in enumerate(names):
            rule = _rule(rows, labelled[:, a], len(labels)) if name != column else None
            if rule and (rule[0], -len(rule[1])) > best.get(name, (0, 0))[:2]:
                best[name] = (rule[0], -len(rule[1]), column, rule[1], (codes, classes))
    return [
        _proposal(name, column, known[:, names.index(name)] > 0, where_known, found)
        for name, (_, _, column, where_known, found) in best.items()
    ]


def _rule(rows: np.ndarray, labelled: np.ndarray, num: int) -> tuple[int, np.ndarray] | None:
    """How many blank rows lie in classes that are as good as blank, and not by chance; and the classes that are not.

    Args:
        rows, labelled: ``(K,)``, of each class its rows, and those that are known.
        num: Rows of the table.
    """
    others = labelled > MISTAKES * rows
    share = labelled[others].sum() / max(rows[others].sum(), 1)
    blank = ~others & ((1 - share) ** rows < CHANCE)
    found = int((rows - labelled)[blank].sum())
    if share < LEAST_KNOWN or found < LEAST_BLANK * num:
        return None
    return found, np.flatnonzero(others)


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
