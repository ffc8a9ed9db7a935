"""The steps from a catalogue to a dataset that touch no disk. Each takes a draft and returns the next one."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from fmtl.catalogue import rows
from fmtl.catalogue.cleaning import cleaned
from fmtl.catalogue.columns import Columns
from fmtl.catalogue.notes import Note
from fmtl.catalogue.photos.finding import Finder
from fmtl.catalogue.reasons import Reason
from fmtl.catalogue.table import Catalogue, Reject
from fmtl.catalogue.values.applicability import find, propose
from fmtl.catalogue.values.kinds import as_number
from fmtl.catalogue.values.labels import OTHER, is_set, rare_classes
from fmtl.dataset import duplicates
from fmtl.dataset.decode import Decoded
from fmtl.dataset.draft import Draft, PreparePlan, some
from fmtl.dataset.prepared import GROUP
from fmtl.dataset.splits.stratified import split_groups
from fmtl.errors import TABLE, DataError, first_ten
from fmtl.tasks import IGNORE_INDEX, SET, Label, Task, Tasks, make_tasks


def begin(catalogue: Catalogue, columns: Columns, plan: PreparePlan) -> Draft:
    """Clean the labels, find out to which rows each attribute applies, and choose the rows that are worth decoding."""
    labels, marked, label_notes = cleaned(
        catalogue, columns, casefold=plan.casefold, missing=plan.missing, not_applicable=plan.not_applicable
    )
    labels, applicability = find(catalogue.frame, labels, plan.applies, marked, casefold=plan.casefold)
    proposals = propose(labels, applicability.of)
    table, rejects = rows.candidates(catalogue.frame, columns, labels, applicability)
    notes = [
        *catalogue.notes, *columns.notes, *_blanks(catalogue, columns), *label_notes, *applicability.notes, *proposals,
    ]  # fmt: skip
    return Draft(table, labels.loc[table.index], [*catalogue.rejects, *rejects], notes, applicability)


def take(draft: Draft, limit: int, *, also: Iterable[pd.Series], seed: int) -> Draft:
    """About ``limit`` rows, each class in its share, for a first try; the others are rejects.

    Args:
        also: Columns whose equal values belong together.
    """
    num = len(draft.table)
    if num <= limit:
        return draft
    targets = np.concatenate([_codes(draft.labels[column]) for column in draft.labels], axis=1)
    share = limit / num
    groups = duplicates.together(num, *(duplicates.same_value(values.loc[draft.lines]) for values in also))
    chosen = split_groups(targets, groups.tolist(), fractions=(share, 1 - share, 0), seed=seed) == 0
    left = draft.table[~chosen]
    told = f"--limit {limit} left it out"
    rejects = [Reject(line, row_id, Reason.NOT_TAKEN, told) for line, row_id in left["id"].items()]
    note = Note(f"{chosen.sum()} of {num} rows were taken, each class in its share, as --limit {limit} says")
    return replace(
        draft,
        table=draft.table[chosen],
        labels=draft.labels[chosen],
        rejects=[*draft.rejects, *rejects],
        notes=[*draft.notes, note],
    )


def _codes(labels: pd.Series) -> np.ndarray:
    """Targets ``(N, columns)`` before the classes are decided on."""
    if is_set(labels):
        values = tuple(dict.fromkeys(value for cell in labels if cell for value in cell))
        return _targets(Task("", "", values, SET), labels)
    codes = pd.factorize(labels)[0]
    return np.where(codes < 0, IGNORE_INDEX, codes).astype(np.int64)[:, None]


def _targets(task: Task, labels: pd.Series) -> np.ndarray:
    return np.array(task.targets(labels), dtype=np.int64).reshape(len(labels), len(task.columns))


def find_photos(draft: Draft, finder: Finder) -> tuple[Draft, dict[int, tuple[Reason, str]]]:
    """Paths as the table says them to paths below the image folder; by line, why one that is meant is not found."""
    said = draft.table["path"].tolist()
    found = finder.find_all(said)
    notes = found.notes(said)
    if finder.folder.follow_links and (num := sum(map(finder.folder.leads_out, found.paths))):
        notes.append(Note(f"{num} photos are links that lead out of the image folder, and were followed"))
    lines = draft.lines
    return draft.with_columns(*notes, path=found.paths), {lines[n]: why for n, why in found.problems.items()}


def _blanks(catalogue: Catalogue, columns: Columns) -> list[Note]:
    notes = []
    for column in columns.labels:
        spellings = catalogue.blanks.get(column, {})
        if set(spellings) - {""}:
            told = ", ".join(f"{n} {spelling!r}" if spelling else f"{n} empty" for spelling, n in spellings.items())
            notes.append(Note(f"column '{column}': blanks written as {told}"))
    return notes


def keep_decoded(draft: Draft, decoded: Decoded, problems: Mapping[int, tuple[Reason, str]]) -> Draft:
    """Leave out the rows whose photo could not be decoded.

    Args:
        problems: By line, what is known of a photo that was not found.
    """
    results = decoded.of_rows
    table = draft.table.assign(sha256=[result.sha256 for result in results])
    rejects = [
        Reject(line, row_id, *problems.get(line, (result.reason, result.detail)))
        for line, row_id, result in zip(draft.lines, table["id"], results, strict=True)
        if result.reason
    ]
    table = table[[not result.reason for result in results]]
    all_rejects = sorted([*draft.rejects, *rejects], key=lambda reject: reject.line)
    notes = list(draft.notes)
    if shared := len(decoded.source_of) - len(decoded.sources):
        notes.append(Note(f"{shared} rows show a photo that a row above shows, too; it is stored once"))
    return replace(draft, table=table, labels=draft.labels.loc[table.index], rejects=all_rejects, notes=notes)


def find_twins(
    draft: Draft, decoded: Decoded, *, px: int, also: Sequence[Sequence[str | None]], group_near: bool
) -> Draft:
    """Find out which rows show the same.

    Args:
        also: Columns, one value per row, whose equal values belong together.
        group_near: Whether near duplicates belong together as well.
    """
    kept, pixels = decoded.kept_of, decoded.pixels(px)
    looks = decoded.thumbnails()[kept]
    identical = duplicates.identical(draft.table["sha256"].tolist(), looks, lambda rows: pixels.read(kept[rows]))
    near = duplicates.near(identical, looks)
    edges = [duplicates.same_value((near if group_near else identical).tolist())]
    edges += [duplicates.same_value(column) for column in also]
    together = duplicates.together(len(draft.table), *edges)
    return draft.with_columns(identical=identical, near=near, together=together)


def treat_rare(draft: Draft, *, policy: str, least: int, say: bool = True) -> Draft:
    """Treat classes with fewer than ``least`` distinct images.

    Args:
        policy: ``train_only``, ``other`` or ``drop``.
        say: Note what became of them.
    """
    attributes = draft.labels.drop(columns=draft.applicability.of)
    rare = rare_classes(attributes, draft.table["identical"].to_numpy(), least)
    labels, pinned, notes = draft.labels.copy(), np.zeros(len(draft.labels), bool), []
    fate = {"train_only": "stay in train", "other": f"became '{OTHER}'", "drop": "have no label now"}[policy]
    for column, classes in rare.items():
        of_set = is_set(labels[column])
        hit = np.array([not {*cell}.isdisjoint(classes) for cell in labels[column].map(_values)])
        few = f"{len(classes)} classes with fewer than {least} distinct images"
        notes.append(Note(f"column '{column}': {few} {fate}: {some(list(classes))}"))
        if policy == "train_only":
            pinned |= hit
        else:
            new = OTHER if policy == "other" else None
            labels[column] = _replaced(labels[column], classes, new) if of_set else labels[column].mask(hit, new)
    return replace(draft.with_columns(*(notes if say else ()), pinned=pinned), labels=labels)


def make_classes(draft: Draft, *, named: bool) -> Draft:
    """One task per column over the labels that have an image; classes in sorted order.

    Args:
        named: Whether the user named the columns: then one class is enough.
    """
    notes: list[Note] = []
    classes: dict[str, list[str]] = {}
    applies_to = draft.applicability.of
    for column in draft.labels:
        values = sorted({value for cell in draft.labels[column] for value in _values(cell)}, key=_in_order)
        enough = 1 if (named or is_set(draft.labels[column])) and column not in applies_to else 2
        if applies_to.get(column, column) not in (*classes, column):
            continue  # its attribute was left out
        if len(values) < enough:
            notes.append(Note(f"column '{column}' left out: {len(values)} classes among the rows kept"))
        else:
            classes[column] = values
    if not classes:
        raise DataError(
            "no label column has two classes among the rows kept (rare=drop and missing may have taken them):\n"
            + first_ten([str(note) for note in notes]),
            where=TABLE,
        )
    tasks = make_tasks(classes, [column for column in classes if is_set(draft.labels[column])], applies_to)
    targets = np.concatenate([_targets(task, draft.labels[task.name]) for task in tasks], axis=1)
    return replace(draft, tasks=tasks, targets=targets, notes=[*draft.notes, *notes])


def _values(cell: Label | None) -> tuple[str, ...]:
    """The classes of a cell: one, those of a set, or none."""
    return () if cell is None else (cell,) if isinstance(cell, str) else cell


def _replaced(labels: pd.Series, values: Collection[str], new: str | None) -> pd.Series:
    """Sets with some of their values replaced by another, or left out."""

    def changed(cell: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if cell is None or set(cell).isdisjoint(values):
            return cell
        kept = {value for value in cell if value not in values}
        return tuple(sorted(kept | ({new} if new else set())))

    return pd.Series([changed(cell) for cell in labels], index=labels.index, dtype=object)


def _in_order(label: str) -> tuple[bool, Decimal, str]:
    """Numbers by their size, before words by their letters."""
    number = as_number(label)
    return number is None, number or Decimal(0), label


def dataset_table(draft: Draft) -> pd.DataFrame:
    """Content of ``table.parquet``."""
    table = draft.table
    frame = pd.DataFrame(
        {
            "id": table["id"].tolist(),
            "path": table["path"].tolist(),
            "split": table["split"].to_numpy(),
            GROUP: table["together"].to_numpy(),
        }
    )
    targets = pd.DataFrame(draft.targets, columns=draft.tasks.columns)
    return pd.concat([frame, targets], axis=1)


def list_twins(draft: Draft) -> pd.DataFrame:
    """Content of ``duplicates.csv``: each group of identical images, then each of near duplicates.

    Labels are in columns ``label/<task>``; ``conflict`` names the tasks in which an identical group contradicts
    itself; ``row`` is the image's row in the dataset.
    """
    identical = draft.table["identical"].to_numpy()
    disputed = duplicates.conflicts(identical, draft.targets, IGNORE_INDEX)
    parts = []
    for kind in ("identical", "near"):
        groups = draft.table[kind].to_numpy()
        distinct = pd.Series(identical).groupby(groups).transform("nunique").to_numpy()
        members = np.bincount(groups)[groups]
        chosen = np.flatnonzero(members > 1 if kind == "identical" else distinct > 1)
        table = draft.table.iloc[chosen]
        conflict = [
            _names(draft.tasks, disputed.get(group, ())) if kind == "identical" else "" for group in groups[chosen]
        ]
        part: dict[str, Any] = {"kind": kind, "group": groups[chosen], "line": table.index.tolist()}
        part |= {name: table[name].to_numpy() for name in ("id", "path", "split")}
        part |= {"conflict": conflict, "row": chosen}
        for task, place in draft.tasks.places():
            part[f"label/{task.name}"] = [task.text(target) for target in draft.targets[chosen, place].tolist()]
        parts.append(pd.DataFrame(part).sort_values(["group", "row"], kind="stable"))
    # Where one kind has no rows, pandas takes whole numbers for decimal ones.
    return pd.concat(parts, ignore_index=True).astype({"group": "int64", "line": "int64", "row": "int64"})


def _names(tasks: Tasks, columns: Iterable[int]) -> str:
    return ", ".join(dict.fromkeys(tasks.task_of(column).name for column in columns))
