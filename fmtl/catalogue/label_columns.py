"""Which columns of a table are attributes: of one label, or a set of them."""

import logging
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from fmtl.catalogue.notes import Note, warning
from fmtl.catalogue.values import sets
from fmtl.catalogue.values.kinds import NUMBERS, what_they_are
from fmtl.catalogue.values.sets import SetCells
from fmtl.errors import TABLE, DataError, first_ten

log = logging.getLogger(__name__)

MIN_CLASSES, MAX_CLASSES = 2, 500  # of a column that is found to be a label
MAX_NAMED_CLASSES = 10_000  # of one that was named
_LABEL_WORDS = re.compile(
    r"(class|label|target|categor(y|ies)|attribute)s?([_ -]?(id|idx|index|no|nr|code))?", re.IGNORECASE
)
MAX_SET_VALUES = 2000  # each is a column of targets
MAX_LABEL_LENGTH = 500  # characters
_SHOWN = 5  # columns listed in a note


@dataclass(frozen=True)
class Several:
    """What becomes of columns with several values.

    Attributes:
        sets: Columns that are sets, and sets whose values are told by a column each.
        first_value: Columns of several values in a cell, of which the first is the label.
        every_set: Whether what looks like a set is one.
    """

    sets: Sequence[str] = ()
    first_value: Sequence[str] = ()
    every_set: bool = False


@dataclass
class LabelColumns:
    """What was decided.

    Attributes:
        labels: Names of the columns, and of sets that several columns tell.
        separators, sets: See ``Columns``.
        notes: A reason for each column taken or left.
    """

    labels: list[str] = field(default_factory=list)
    separators: dict[str, str] = field(default_factory=dict)
    sets: dict[str, SetCells] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)


def choose(frame: pd.DataFrame, named: Sequence[str], several: Several, joined: Mapping[str, SetCells]) -> LabelColumns:
    """Decide which columns are labels.

    Args:
        named: Columns that are, and no others.
        several: What becomes of columns with several values.
        joined: Sets that several columns tell.

    Raises:
        DataError: None can be, or one that was named can't.
    """
    found = LabelColumns()
    wanted, parts = _wanted(frame, named, several, joined)
    for column in wanted:
        if column in joined and column not in frame:
            found.sets[column] = joined[column]
            found.labels.append(column)
            found.notes.append(
                Note(f"'{column}' is a set of {_names(joined[column].columns)}: a column for each value")
            )
        elif column not in parts:
            _choose_label(found, column, frame[column].dropna(), several, is_named=column in named)
    found.notes.extend(_joined_told(joined, found.sets))
    if not found.labels:
        for note in found.notes:  # without a dataset there is no summary that would say it
            log.info("%s", note)
        named_by = "; --label-cols names those that are all the same"
        raise DataError(
            f"no column can be a label{named_by}:\n" + first_ten([n.text for n in found.notes]), where=TABLE
        )
    return found


def _wanted(
    frame: pd.DataFrame, named: Sequence[str], several: Several, joined: Mapping[str, SetCells]
) -> tuple[list[str], set[str]]:
    """Columns and sets of columns that may be labels, in order; and the columns that are part of a set."""
    asked = {*several.sets, *named}
    chosen = [name for name in joined if several.every_set or name in asked]
    parts = {column: name for name in chosen for column in joined[name].columns if column not in named or name in asked}
    columns = [*dict.fromkeys([*named, *several.sets])] if named else list(frame.columns)
    return list(dict.fromkeys(parts.get(column, column) for column in columns)), {*parts}


def _choose_set(found: LabelColumns, column: str, values: pd.Series, separator: str | None, *, is_named: bool) -> None:
    """Take a column for a set, unless it has too many values."""
    if values.empty:
        raise DataError(f"column '{column}' has no value in any row; leave it out of --set-cols", where=TABLE)
    cells = SetCells(separator or sets.separator_named(values))
    parts = {part for cell in values.unique() for part in sets.parts(cell, cells.separator or sets.LIST)}
    many = f"column '{column}' is a set of {len(parts)} values, more than"
    if len(parts) > MAX_CLASSES and not is_named:
        found.notes.append(warning(f"{many} {MAX_CLASSES}: left out; --set-cols {shlex.quote(column)} keeps it"))
        return
    if len(parts) > MAX_SET_VALUES:
        raise DataError(f"{many} {MAX_SET_VALUES}; is it free text? Leave it out of --set-cols", where=TABLE)
    if longest := next((part for part in parts if len(part) > MAX_LABEL_LENGTH), ""):
        told = f"column '{column}' has a value of {len(longest)} characters, more than {MAX_LABEL_LENGTH}"
        raise DataError(f"{told}; is it free text? Leave it out of --set-cols", where=TABLE)
    found.sets[column] = cells
    found.labels.append(column)
    otherwise = f"--first-value {shlex.quote(column)} takes the first of each"
    told = f"several values in a cell, separated by {cells.told}; {otherwise}"
    found.notes.append(Note(f"column '{column}' is a set: {told}"))


def _choose_label(found: LabelColumns, column: str, values: pd.Series, several: Several, *, is_named: bool) -> None:
    """Take a column for a label, or leave it out and say why."""
    separator = sets.separator_of(values) if len(values) else None
    auto = separator and several.every_set and column not in several.first_value
    if column in several.sets or (auto and not what_they_are(values)):
        _choose_set(found, column, values, separator, is_named=column in several.sets)
        return
    if separator and column in several.first_value:
        found.separators[column] = separator
        found.labels.append(column)
        told = f"several values in a cell, separated by {SetCells(separator).told}: the first counts"
        found.notes.append(Note(f"column '{column}' has {told}"))
        return
    reason = _why_not_a_label(values)
    if reason == NUMBERS and _LABEL_WORDS.fullmatch(column) and values.nunique() <= min(MAX_CLASSES, len(values) / 2):
        found.notes.append(Note(f"column '{column}' is taken for classes by its name, though they are numbers"))
        reason = None
    reason = reason or (_several_told(column, values, separator) if separator else None)
    if not is_named and reason:
        found.notes.append(Note(f"column '{column}' left out: {reason}", is_warning=separator is not None))
        return
    if values.empty:
        raise DataError(f"label column '{column}' has no value in any row; leave it out of --label-cols", where=TABLE)
    if reason:
        found.notes.append(warning(f"column '{column}' was named and is kept, though: {reason}"))
    _check_limits(column, values)
    found.labels.append(column)


def _joined_told(joined: Mapping[str, SetCells], taken: Mapping[str, SetCells]) -> list[Note]:
    return [
        Note(
            f"columns {_names(cells.columns)} look like the values of one set; --set-cols {shlex.quote(name)} takes "
            "them as that"
        )
        for name, cells in joined.items()
        if name not in taken
    ]


def _names(names: Iterable[str]) -> str:
    shown = [f"'{name}'" for name in names]
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")


def _several_told(column: str, values: pd.Series, separator: str) -> str:
    named = shlex.quote(column)
    return (
        f"several values in a cell, separated by {SetCells(separator).told}, such as {values.iloc[0]!r}; "
        f"--set-cols {named} keeps them all, --first-value {named} takes the first of each"
    )


def _why_not_a_label(values: pd.Series) -> str | None:
    num_classes = values.nunique()
    if num_classes < MIN_CLASSES:
        return f"constant ({values.iloc[0]!r})" if num_classes else "blank in every row"
    if told := what_they_are(values):
        return told
    longest = int(values.str.len().max())
    if longest > MAX_LABEL_LENGTH:
        return f"free text of up to {longest} characters"
    if num_classes > MAX_CLASSES:
        return f"{num_classes} values, more than {MAX_CLASSES}"
    if num_classes > len(values) / 2:
        return f"{num_classes} values in {len(values)} rows: an id or free text"
    return None


def _check_limits(column: str, values: pd.Series) -> None:
    lengths = values.str.len()
    if lengths.max() > MAX_LABEL_LENGTH:
        raise DataError(
            f"line {lengths.idxmax()}: the label in column '{column}' has {lengths.max()} characters, more than "
            f"{MAX_LABEL_LENGTH}; is it free text? Leave the column out of --label-cols",
            where=TABLE,
        )
    if values.nunique() > MAX_NAMED_CLASSES:
        raise DataError(
            f"column '{column}' has {values.nunique()} classes, more than {MAX_NAMED_CLASSES}; is it an id? "
            "Leave it out of --label-cols",
            where=TABLE,
        )
