"""Blank cells of a table filled with predictions, and the known labels that the model contradicts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from fmtl.catalogue.formats import filling
from fmtl.catalogue.presets import PRESETS
from fmtl.catalogue.table import Catalogue, id_position
from fmtl.catalogue.values import sets, words
from fmtl.catalogue.values.labels import folded, folded_all
from fmtl.errors import DataError
from fmtl.model.labeller import OK
from fmtl.settings.schema import PredictSettings
from fmtl.storage import durable, tables
from fmtl.tasks import SEPARATOR, Task, Tasks, as_text

EMPTY = as_text(())  # a set of nothing, which agrees with one that does not apply
NOT_APPLICABLE = "(does not apply)"  # stands for a label in the list of disagreements


@dataclass
class Judged:
    """What became of the cells of one column.

    Attributes:
        filled: By line, the label for a blank cell.
        left: Those of them that could not be written.
        contradicted: Line, image, column, label, predicted label and confidence of the known labels that differ.
        not_applicable: Blank cells of products to which the attribute does not apply, with no spelling for that.
        unknown: Labels that are no class of the model.
    """

    column: str
    filled: dict[int, str] = field(default_factory=dict)
    contradicted: list[tuple] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    agreeing: int = 0
    unsure: int = 0
    not_applicable: int = 0
    left: int = 0
    without_photo: int = 0

    def told(self, threshold: float) -> str:
        filled = len(self.filled) - self.left
        blank = len(self.filled) + self.unsure + self.not_applicable + self.without_photo
        apart = f" + {self.not_applicable} to which it does not apply" if self.not_applicable else ""
        told = (
            f"{self.column}: {blank} blank cells = {filled} filled + {self.unsure} below {threshold:g}{apart} + "
            f"{self.without_photo} without a photo; {self.agreeing} labels agree, {len(self.contradicted)} do not"
        )
        if self.left:
            told += f", {self.left} could not be written"
        if self.unknown:
            first, _ = self.unknown.most_common(1)[0]
            told += f", {self.unknown.total()} are no class of the model, such as {first!r}"
        return told


def columns_of(tasks: Tasks, table: Catalogue | None) -> dict[str, str]:
    """By task name, the column of the table that has its labels: of the same name, or but for its case.

    Raises:
        DataError: There is no table, or it has none of the columns.
    """
    if table is None:
        raise DataError("expected a table with blank cells, not photos alone", where="fill")
    by_case = {column.casefold(): column for column in table.frame}
    names = tasks.attributes
    found = {name: name if name in table.frame else by_case.get(name.casefold()) for name in names}
    columns = {name: column for name, column in found.items() if column is not None}
    if not columns:
        raise DataError(
            f"the table has no column of what the model tells ({', '.join(names)}); its columns: "
            f"{', '.join(table.frame)}. --keep-columns true writes predictions beside them",
            where="fill",
        )
    return columns


def fill(
    settings: PredictSettings,
    source: Path,
    table: Catalogue,
    lines: Sequence[int],
    predictions: pd.DataFrame,
    tasks: Mapping[str, Task],
) -> list[str]:
    """Write the filled table and the disagreements beside it. Returns what became of the cells, for people.

    Args:
        source: Where the table is.
        lines: Of the table, one for each row of predictions.
        tasks: By the column of predictions that has its labels.
    """
    all_tasks = Tasks(tasks.values())
    columns = columns_of(all_tasks, table)
    absent = [name for name in all_tasks.attributes if name not in columns]
    judged = {name: Judged(columns[task.name]) for name, task in tasks.items() if task.name in columns}
    for name, found in judged.items():
        spellings = settings.not_applicable if tasks[name].name in all_tasks.applicability else ()
        spelling = _Spelling.of(tasks[name], table.frame[found.column].dropna(), spellings)
        _judge(found, table, lines, predictions, name, spelling, settings)
    cells: dict[int, dict[str, str]] = {}
    for found in judged.values():
        for line, label in found.filled.items():
            cells.setdefault(line, {})[found.column] = label
    target = Path(settings.fill or "")
    notes, left = _write(settings, source, target, table, cells)
    for found in judged.values():
        found.left = sum(column == found.column for _, column in left)
    contradicted = [row for found in judged.values() for row in found.contradicted]
    durable.write_text(Path(settings.disagreements or ""), tables.to_csv(_disagreements(contradicted, table)))
    told = [found.told(settings.threshold) for found in judged.values()]
    if absent:
        told.append(f"no column of the table is called {', '.join(absent)}: not filled")
    return [*told, *notes, f"filled: {target}", f"disagreements: {settings.disagreements}"]


def _judge(
    found: Judged,
    table: Catalogue,
    lines: Sequence[int],
    predictions: pd.DataFrame,
    name: str,
    spelling: "_Spelling",
    settings: PredictSettings,
) -> None:
    """Sort the cells of a column by what becomes of them."""
    cells = table.written[found.column].reindex(lines)
    columns = [predictions[c] for c in ("image", "status", name, f"{name}/confidence")]
    rows = zip(lines, cells, *columns, strict=True)
    for line, cell, image, status, label, confidence in rows:
        blank = not isinstance(cell, str)
        if line not in table.frame.index:  # it could not be read
            continue
        if status != OK:
            found.without_photo += blank
        elif blank and confidence < settings.threshold:
            found.unsure += 1
        elif blank:
            said = spelling.cell(label)
            if said is None:
                found.not_applicable += 1
            else:
                found.filled[line] = said
        elif (known := spelling.known_class(cell)) is None:
            found.unknown[cell] += 1
        elif known == (label or "") or (label is None and known == EMPTY):
            found.agreeing += 1
        else:
            found.contradicted.append((line, image, found.column, cell, label or NOT_APPLICABLE, confidence))


@dataclass(frozen=True)
class _Spelling:
    """How a column spells its labels.

    Attributes:
        known_class: From a cell to the class that it means, or of a set to the text of all; empty where the attribute
            does not apply, None where a part of it is no class.
        cell: From a predicted label to the cell that says it; None where nothing does.
    """

    known_class: Callable[[str], str | None]
    cell: Callable[[str | None], str | None]

    @classmethod
    def of(cls, task: Task, values: pd.Series, not_applicable: Sequence[str]) -> "_Spelling":
        """
        Args:
            values: Cells of the column.
            not_applicable: Spellings that say that it does not apply, where the model can tell.
        """
        absent = folded_all(not_applicable)
        of_labels = cls._of_labels(task, values, absent)
        spelt = next(iter(not_applicable), None)
        return cls(
            lambda cell: "" if folded(cell) in absent else of_labels.known_class(cell),
            lambda label: spelt if label is None else of_labels.cell(label),
        )

    @classmethod
    def _of_labels(cls, task: Task, values: pd.Series, absent: frozenset[str]) -> "_Spelling":
        known_word = words.class_of(task)
        if not task.is_set:
            return cls(known_word, lambda label: label)
        separator = sets.separator_named(values)

        def known_set(cell: str) -> str | None:
            parts = sets.parts(cell, separator)
            if sets.says_only(parts, lambda value: folded(value) in absent):
                return ""
            found = {known_word(value) for value in parts if folded(value) not in absent}
            return None if None in found else as_text(tuple(value for value in task.classes if value in found))

        return cls(known_set, lambda label: sets.joined(sets.parts(label or "", SEPARATOR), separator))


def _write(
    settings: PredictSettings, source: Path, target: Path, table: Catalogue, cells: filling.Cells
) -> tuple[list[str], set[tuple[int, str]]]:
    preset = PRESETS.get(settings.preset) if settings.preset else None
    with durable.replacing(target) as temporary:
        notes, left = filling.fill(
            source,
            temporary,
            table,
            cells,
            free_text_col=preset.free_text_col if preset else None,
            encoding=settings.encoding,
            quotes=settings.quotes,
            sheet=settings.sheet,
        )
    return [str(note) for note in notes], left


def _disagreements(rows: Sequence[tuple], table: Catalogue) -> pd.DataFrame:
    """The most certain first. An id is the photo's path where the table has none."""
    names = ["line", "image", "attribute", "label", "predicted", "confidence"]
    found = pd.DataFrame(rows, columns=names).sort_values(["confidence", "line"], ascending=[False, True])
    at = id_position(list(table.frame), None)
    ids = table.frame.iloc[:, at].reindex(found["line"]).tolist() if at < table.frame.shape[1] else found["image"]
    found.insert(1, "id", ids)
    return found
