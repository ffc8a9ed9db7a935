"""The steps from a catalogue to a dataset that touch no disk. Each takes a draft and returns the next one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from fmtl.catalogue import rows
from fmtl.catalogue.columns import Columns
from fmtl.catalogue.labels import OTHER, clean_labels, rare_classes
from fmtl.catalogue.notes import Note, warning
from fmtl.catalogue.table import Catalogue, Reject
from fmtl.dataset import duplicates, splits
from fmtl.dataset.decode import Decoded
from fmtl.dataset.prepared import GROUP
from fmtl.dataset.previous import Splits
from fmtl.dataset.splits import FREE, SPLITS
from fmtl.errors import TABLE, DataError, first_ten
from fmtl.tasks import IGNORE_INDEX, Task, Tasks, make_tasks

SHOWN = 8  # names listed in a note
Fractions = tuple[float, float, float]  # of train, val and test


@dataclass(frozen=True)
class Draft:
    """A dataset in the making.

    Attributes:
        table: A row per product photo that is still in; the index is its line in the catalogue. It begins with ``id``
            and ``path``, and gains ``sha256`` of the file; ``identical``, ``near`` and ``together``, where equal
            numbers mean the same stored pixels, the same look, and one split; ``pinned``, whether it must be in train;
            and ``split``.
        labels: The same rows' labels, a column per attribute, None where blank.
        targets: The same as indices, ``(N, T)`` int64 in the order of ``tasks``.
        rejects: The rows that were left out.
        notes: What the user should know.
    """

    table: pd.DataFrame
    labels: pd.DataFrame
    rejects: list[Reject]
    notes: list[Note]
    tasks: Tasks = field(default_factory=Tasks)
    targets: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.int64))

    @property
    def lines(self) -> list[int]:
        return self.table.index.tolist()

    def with_columns(self, *notes: Note, **columns: Iterable) -> "Draft":
        return replace(self, table=self.table.assign(**columns), notes=[*self.notes, *notes])


def begin(catalogue: Catalogue, columns: Columns, *, casefold: bool) -> Draft:
    """Clean the labels and choose the rows that are worth decoding."""
    labels, label_notes = clean_labels(catalogue.frame, columns.labels, casefold=casefold)
    table, rejects = rows.candidates(catalogue.frame, columns, labels)
    notes = [*catalogue.notes, *columns.notes, *_blanks(catalogue, columns), *label_notes]
    return Draft(table, labels.loc[table.index], [*catalogue.rejects, *rejects], notes)


def _blanks(catalogue: Catalogue, columns: Columns) -> list[Note]:
    notes = []
    for column in columns.labels:
        spellings = catalogue.blanks.get(column, {})
        if set(spellings) - {""}:
            told = ", ".join(f"{n} {spelling!r}" if spelling else f"{n} empty" for spelling, n in spellings.items())
            notes.append(Note(f"column '{column}': blanks written as {told}"))
    return notes


def keep_decoded(draft: Draft, decoded: Decoded) -> Draft:
    """Leave out the rows whose photo could not be decoded."""
    table = draft.table.assign(sha256=[result.sha256 for result in decoded.results])
    rejects = [
        Reject(line, row_id, result.reason, result.detail)
        for line, row_id, result in zip(draft.lines, table["id"], decoded.results, strict=True)
        if result.reason
    ]
    table = table[[not result.reason for result in decoded.results]]
    all_rejects = sorted([*draft.rejects, *rejects], key=lambda reject: reject.line)
    return replace(draft, table=table, labels=draft.labels.loc[table.index], rejects=all_rejects)


def find_twins(
    draft: Draft, decoded: Decoded, *, px: int, also: Sequence[Sequence[str | None]], group_near: bool
) -> Draft:
    """Find out which rows show the same.

    Args:
        also: Columns, one value per row, whose equal values belong together.
        group_near: Whether near duplicates belong together as well.
    """
    looks = decoded.thumbnails()
    identical = duplicates.identical(draft.table["sha256"].tolist(), looks, decoded.pixels(px).read)
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
    rare = rare_classes(draft.labels, draft.table["identical"].to_numpy(), least)
    labels, pinned, notes = draft.labels.copy(), np.zeros(len(draft.labels), bool), []
    fate = {"train_only": "stay in train", "other": f"became '{OTHER}'", "drop": "have no label now"}[policy]
    for column, classes in rare.items():
        hit = labels[column].isin(list(classes)).to_numpy()
        few = f"{len(classes)} classes with fewer than {least} distinct images"
        notes.append(Note(f"column '{column}': {few} {fate}: {_some(list(classes))}"))
        if policy == "train_only":
            pinned |= hit
        else:
            labels.loc[hit, column] = OTHER if policy == "other" else None
    return replace(draft.with_columns(*(notes if say else ()), pinned=pinned), labels=labels)


def make_classes(draft: Draft, *, named: bool) -> Draft:
    """One task per column over the labels that have an image; classes in sorted order.

    Args:
        named: Whether the user named the columns: then one class is enough.
    """
    notes: list[Note] = []
    classes: dict[str, list[str]] = {}
    for column in draft.labels:
        values = sorted(draft.labels[column].dropna().unique())
        if len(values) == 0 or (len(values) == 1 and not named):
            notes.append(Note(f"column '{column}' left out: {len(values)} classes among the rows kept"))
        else:
            classes[column] = values
    if not classes:
        raise DataError(
            "no label column has two classes among the rows kept (rare=drop and missing may have taken them):\n"
            + first_ten([str(note) for note in notes]),
            where=TABLE,
        )
    tasks = make_tasks(classes)
    targets = np.array([task.targets(draft.labels[task.name]) for task in tasks], dtype=np.int64).T
    return replace(draft, tasks=tasks, targets=targets, notes=[*draft.notes, *notes])


def draw_splits(draft: Draft, *, fractions: Fractions, seed: int, before: Splits) -> Draft:
    """Splits by stratification; what was assigned in an earlier dataset stays where it was.

    Rows that are pinned must be in train, unless they were elsewhere before.
    """
    table = draft.table
    known = [
        before.by_hash.get(digest) or before.by_path.get(path)
        for digest, path in zip(table["sha256"], table["path"], strict=True)
    ]
    position = {name: i for i, name in enumerate(SPLITS)}
    fixed = np.array([FREE if name is None else position[name] for name in known], dtype=np.int64)
    fixed[(fixed == FREE) & table["pinned"].to_numpy()] = 0
    assigned = splits.split_groups(
        draft.targets, table["together"].tolist(), fractions=fractions, seed=seed, fixed=fixed
    )
    same = sum(name is not None for name in known)
    kept = Note(f"{same} images keep the split of the dataset that was there; another seed draws all anew")
    return draft.with_columns(*([kept] if same else ()), split=_names_of(assigned))


def own_splits(
    draft: Draft, cells: dict[int, str | None], column: str, *, fractions: Fractions, seed: int, mask: bool
) -> Draft:
    """The user's own splits, with their faults named.

    Args:
        cells: What the column says, by line of the rows kept.
        mask: Whether a label that train does not have is dropped rather than refused.
    """
    own = splits.read_column(cells, column)
    together = draft.table["together"].to_numpy()
    assigned = splits.complete(own, draft.targets, together.tolist(), fractions=fractions, seed=seed)
    notes = []
    drawn = [SPLITS[s] for s in (1, 2) if not (own == s).any()]
    if drawn:
        notes.append(Note(f"column '{column}' has no {' and no '.join(drawn)}: drawn from its train rows"))
    for groups, what in ((draft.table["identical"], "identical images"), (together, "rows that belong together")):
        crossing = pd.Series(assigned).groupby(np.asarray(groups)).nunique().gt(1).sum()
        if crossing:
            notes.append(
                warning(
                    f"{crossing} groups of {what} cross the splits of column '{column}', so that test scores are too "
                    "good"
                )
            )
    targets, dropped = _without_unseen(draft, assigned, mask=mask)
    notes += [Note(f"label dropped, train has none: {label}") for label in dropped]
    return replace(draft.with_columns(*notes, split=_names_of(assigned)), targets=targets)


def _without_unseen(draft: Draft, assigned: np.ndarray, *, mask: bool) -> tuple[np.ndarray, list[str]]:
    """Targets without the classes that train does not have, and which those were; an error unless ``mask``."""
    targets, lines = draft.targets.copy(), np.array(draft.lines)
    dropped = []
    for t, k in splits.only_outside_train(assigned, draft.targets):
        task, hit = draft.tasks[t], draft.targets[:, t] == k
        shown = ", ".join(map(str, lines[hit][:SHOWN]))
        dropped.append(f"'{task.classes[k]}' of column '{task.name}': lines {shown}")
        targets[hit, t] = IGNORE_INDEX
    if dropped and not mask:
        raise DataError(
            f"{len(dropped)} classes occur in val or test and never in train; move a row of each to train, or drop "
            "those labels with --rare drop:\n" + first_ten(dropped),
            where="split_col",
        )
    return targets, dropped


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
    targets = pd.DataFrame(draft.targets, columns=[task.slug for task in draft.tasks])
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
        for t, task in enumerate(draft.tasks):
            part[f"label/{task.name}"] = [task.classes[k] if k >= 0 else "" for k in draft.targets[chosen, t]]
        parts.append(pd.DataFrame(part).sort_values(["group", "row"], kind="stable"))
    return pd.concat(parts, ignore_index=True)


def _names_of(assigned: np.ndarray) -> np.ndarray:
    return np.array(SPLITS, dtype=object)[assigned]


def _names(tasks: Sequence[Task], positions: Sequence[int]) -> str:
    return ", ".join(tasks[t].name for t in positions)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
