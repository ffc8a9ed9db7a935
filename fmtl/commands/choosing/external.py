"""Labellers that are no model of fmtl: their answers for the test photos, from a table."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from fmtl.catalogue.reading import read_catalogue
from fmtl.catalogue.values import sets, words
from fmtl.catalogue.values.kinds import as_number
from fmtl.errors import DataError
from fmtl.evaluation.answers import WRONG, Codes, Photos, codes, known
from fmtl.tasks import Task

IDS, IMAGES = ("id",), ("image", "path")  # columns that say which photo a row is of
COSTS = ("price", "seconds")  # per 1,000 photos
SOMETHING_ELSE = 2  # in a set, in place of 0: it has a value that is no class
SHOWN = 5  # words of those that mean no class


@dataclass(frozen=True)
class External:
    """What somebody else said of the test photos.

    Attributes:
        answers: ``WRONG`` where nothing was said, or no class of the task.
        coverage: Share of the photos with a known label of which something was said, by task name.
        costs: Price and seconds for 1,000 photos, as far as they are told.
        notes: What was left out, for people.
    """

    name: str
    answers: Codes
    coverage: Mapping[str, float]
    costs: Mapping[str, float]
    notes: list[str] = field(default_factory=list)


def read(name: str, place: str, photos: Photos) -> External:
    """Answers from a CSV, workbook, JSON or Parquet file.

    Raises:
        DataError: It can't be read, does not say which photos it is of, or tells of none of them.
    """
    table = read_catalogue(Path(place)).frame
    notes: list[str] = []
    rows = _rows(table, place, photos, notes)
    answers: dict[str, np.ndarray] = {}
    coverage: dict[str, float] = {}
    for task in photos.tasks:
        column = _column(table, task)
        cells = pd.Series([None if n < 0 or column is None else table[column].iloc[n] for n in rows], dtype=object)
        if column is None and not task.applies_to:
            notes.append(f"{name}: no column '{task.name}' in {place}; all of it counts as wrong")
        answers[task.name] = _answers(task, cells, f"{name}: column '{column}'", notes)
        there = known(photos.targets[task.name])
        coverage[task.name] = float(cells[there].notna().mean()) if there.any() else float("nan")
    if not any(share > 0 for share in coverage.values()):
        raise DataError(
            f"it has no answer for any of the {len(photos)} test photos; expected a column for some of "
            f"{', '.join(photos.tasks.attributes)}, and ids or image paths as {photos.rows['id'].iloc[0]!r} or "
            f"{photos.rows['path'].iloc[0]!r}", where=place,
        )  # fmt: skip
    taken = {column for task in photos.tasks if (column := _column(table, task))}
    return External(name, answers, coverage, _costs(table.drop(columns=[*taken]), rows, place), notes)


def _rows(table: pd.DataFrame, place: str, photos: Photos, notes: list[str]) -> np.ndarray:
    """Of each photo the row that tells of it, ``(N,)``; -1 where none does. Of several the first counts."""
    by_case = {column.casefold(): column for column in reversed(table.columns)}
    # A path names one photo; an id may be a product's, of which there are several.
    columns = {key: by_case[c] for key, some in (("path", IMAGES), ("id", IDS)) for c in reversed(some) if c in by_case}
    if not columns:
        raise DataError(f"expected a column 'image' or 'id'; it has {', '.join(table.columns)}", where=place)
    wanted, column = next(iter(columns.items()))
    if wanted == "id" and (num := int(photos.rows["id"].duplicated(keep=False).sum())):
        notes.append(
            f"{place}: {num} test photos share their id with another, and an answer by id is for all of them; "
            "a column 'image' tells them apart"
        )
    first: dict[str, int] = {}
    doubled = 0
    for n, cell in enumerate(table[column]):
        if isinstance(cell, str) and first.setdefault(cell, n) != n:
            doubled += 1
    names = photos.rows[wanted].astype(str)
    other = len(first) - len({*first} & {*names})
    if doubled:
        notes.append(f"{place}: {doubled} rows are of a photo that another row told of before; the first counts")
    if other:
        notes.append(f"{place}: {other} rows are not of the test photos")
    return np.array([first.get(cell, -1) for cell in names], np.int64)


def _column(table: pd.DataFrame, task: Task) -> str | None:
    by_case = {column.casefold(): column for column in reversed(table.columns)}
    return next((by_case[n.casefold()] for n in (task.slug, task.name) if n.casefold() in by_case), None)


def _answers(task: Task, cells: pd.Series, what: str, notes: list[str]) -> np.ndarray:
    class_of, strange = words.class_of(task), Counter[str]()

    def meant(word: str) -> str | None:
        found = class_of(word)
        if found is None:
            strange[word] += 1
        return found

    if task.is_set:
        separator = sets.separator_named(cells.dropna())
        labels: list = [
            tuple(meant(part) or "" for part in sets.parts(cell, separator)) if isinstance(cell, str) else None
            for cell in cells
        ]
    else:
        labels = [meant(cell) or "" if isinstance(cell, str) else None for cell in cells]
    if strange:
        shown = ", ".join(f"{word!r} ({count})" for word, count in strange.most_common(SHOWN))
        more = f" and {len(strange) - SHOWN} more" if len(strange) > SHOWN else ""
        notes.append(
            f"{what}: {strange.total()} answers are no class of '{task.name}' and count as wrong: {shown}{more}"
        )
    found = codes(task, pd.Series(labels, dtype=object), blank=WRONG)
    return _with_strange(found, labels) if task.is_set else found


def _with_strange(sets_said: np.ndarray, labels: list) -> np.ndarray:
    """Sets with a value that is none: another number in place of a value that they lack, so that they are not right."""
    for row, label in zip(sets_said, labels, strict=True):
        lacking = np.flatnonzero(row == 0)
        if label and "" in label and len(lacking):
            row[lacking[0]] = SOMETHING_ELSE
    return sets_said


def _costs(table: pd.DataFrame, rows: np.ndarray, place: str) -> dict[str, float]:
    """Means over the rows of the test photos."""
    found = {}
    for kind in COSTS:
        column = next((column for column in table.columns if column.casefold() == kind), None)
        cells = table[column].iloc[rows[rows >= 0]].dropna() if column else pd.Series(dtype=object)
        numbers = [as_number(cell) for cell in cells]
        if bad := next((cell for cell, number in zip(cells, numbers, strict=True) if number is None), None):
            raise DataError(f"column '{column}': expected numbers, per 1,000 photos, got {bad!r}", where=place)
        if numbers:
            found[kind] = float(np.mean([float(number) for number in numbers if number is not None]))
    return found
