"""From rows and decoded images to tasks, twins and splits: the steps of ``prepare`` that touch no disk."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from fmtl import catalogue, decoding, duplicates, splits
from fmtl.catalogue import Reject
from fmtl.columns import Columns
from fmtl.dataset import GROUP, PreparedDataset
from fmtl.decoding import Decoded
from fmtl.errors import DataError, first_ten
from fmtl.labels import OTHER, rare_classes
from fmtl.shards import THUMBNAIL
from fmtl.splits import FREE, SPLITS
from fmtl.tasks import IGNORE_INDEX, Task, make_tasks

SHOWN = 8  # names listed in a note


class Row(NamedTuple):
    """A row worth decoding: its line, id and image path."""

    line: int
    id: str
    path: str


@dataclass(frozen=True)
class Twins:
    """What belongs together among the rows kept, each ``(N,)`` int64.

    Attributes:
        identical: Equal numbers: the stored pixels are the same.
        near: Equal numbers: they look the same.
        together: Equal numbers: one split.
    """

    identical: np.ndarray
    near: np.ndarray
    together: np.ndarray


def check_sources(dataset: PreparedDataset) -> None:
    """Raise DataError if the table or photos are there and not what the dataset was made from."""
    source, folder = dataset.manifest["source"], dataset.folder.resolve()
    table, root = folder / source["table_path"], folder / source["images_path"]
    problems = []
    if table.exists() and (found := catalogue.fingerprint(table)) != source["sha256"]:
        problems.append(f"the table {table.resolve()} has changed (sha256 was {source['sha256'][:8]}, is {found[:8]})")
    if root.is_dir():
        problems += [f"the photo {path} has changed" for path in decoding.changed_sources(folder, root)]
    if problems:
        raise DataError(
            f"{dataset.folder}: no longer what its sources say; run 'fmtl prepare' again, or train on it as it is with "
            "--allow-stale true:\n" + first_ten(problems)
        )


def candidates(frame: pd.DataFrame, columns: Columns, labels: pd.DataFrame) -> tuple[list[Row], list[Reject]]:
    """The rows worth decoding, and the others with a reason.

    Of rows with the same id and image the first stands for all, its blank labels filled from the others in place;
    unless their labels contradict each other: then none does.
    """
    rows, rejects = [], []
    labelled = labels.notna().any(axis=1).to_numpy()
    paths = columns.image_paths(frame)
    ids = frame[columns.id] if columns.id else paths
    for line, row_id, path, has_label in zip(frame.index, ids, paths, labelled, strict=True):
        if row_id is None or path is None:
            rejects.append(Reject(line, row_id or "", "blank_id" if path else "blank_image", "the cell is blank"))
        elif not has_label:
            rejects.append(Reject(line, row_id, "no_label", "every label is blank"))
        else:
            rows.append(Row(line, row_id, path))
    repeated = _repeated(rows, labels)  # fills blanks of ``labels``
    rejects += repeated.values()
    return [row for row in rows if row.line not in repeated], rejects


def _repeated(rows: list[Row], labels: pd.DataFrame) -> dict[int, Reject]:
    by_key: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_key.setdefault((row.id, row.path), []).append(row)
    rejects = {}
    for same in by_key.values():
        if len(same) == 1:
            continue
        values = {
            column: list(dict.fromkeys(labels.loc[[row.line for row in same], column].dropna())) for column in labels
        }
        disputed = [column for column in labels if len(values[column]) > 1]
        if disputed:
            lines = ", ".join(str(row.line) for row in same)
            detail = f"lines {lines} are one product with different labels in {', '.join(disputed)}"
            rejects |= {row.line: Reject(row.line, row.id, "conflicting_rows", detail) for row in same}
        else:
            for column in labels:
                labels.at[same[0].line, column] = values[column][0] if values[column] else None
            detail = f"the same product and image as line {same[0].line}"
            rejects |= {row.line: Reject(row.line, row.id, "duplicate_row", detail) for row in same[1:]}
    return rejects


def find_twins(
    kept: Sequence[Row], decoded: Decoded, *, px: int, also: Sequence[Sequence[str | None]], group_near: bool
) -> Twins:
    """Which rows show the same.

    Args:
        also: Columns, one value per row kept, whose equal values belong together.
        group_near: Whether near duplicates belong together as well.
    """
    results = [result for result in decoded.results if not result.reason]
    looks = np.frombuffer(bytes.fromhex("".join(r.thumbnail for r in results)), np.uint8).reshape(-1, *THUMBNAIL, 3)
    identical = duplicates.identical([r.sha256 for r in results], looks, decoded.pixels(px).read)
    near = duplicates.near(identical, looks)
    edges = [duplicates.same_value((near if group_near else identical).tolist())]
    edges += [duplicates.same_value(column) for column in also]
    return Twins(identical, near, duplicates.together(len(kept), *edges))


def apply_rare(
    labels: pd.DataFrame, groups: np.ndarray, *, policy: str, least: int
) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """Treat classes with fewer than ``least`` distinct images.

    Args:
        labels: A row per image kept, a column per task.
        groups: ``(N,)``: rows of one number count once.
        policy: ``train_only``, ``other`` or ``drop``.

    Returns:
        The labels, ``(N,)`` bool of the rows that must be in train, and notes.
    """
    rare = rare_classes(labels, groups, least)
    labels, pinned, notes = labels.copy(), np.zeros(len(labels), bool), []
    fate = {"train_only": "stay in train", "other": f"became '{OTHER}'", "drop": "have no label now"}[policy]
    for column, classes in rare.items():
        hit = labels[column].isin(list(classes)).to_numpy()
        few = f"{len(classes)} classes with fewer than {least} distinct images"
        notes.append(f"column '{column}': {few} {fate}: {_some(classes)}")
        if policy == "train_only":
            pinned |= hit
        else:
            labels.loc[hit, column] = OTHER if policy == "other" else None
    return labels, pinned, notes


def make_classes(labels: pd.DataFrame, *, named: bool) -> tuple[list[Task], list[str]]:
    """One task per column over the labels that have an image; classes in sorted order.

    Args:
        named: Whether the user named the columns: then one class is enough.
    """
    notes, classes = [], {}
    for column in labels:
        values = sorted(labels[column].dropna().unique())
        if len(values) == 0 or (len(values) == 1 and not named):
            notes.append(f"column '{column}' left out: {len(values)} classes among the rows kept")
        else:
            classes[column] = values
    if not classes:
        raise DataError(
            "table: no label column has two classes among the rows kept (rare=drop and missing may have taken them):\n"
            + first_ten(notes)
        )
    return make_tasks(classes), notes


def draw_splits(
    kept: Sequence[Row],
    decoded: Decoded,
    targets: np.ndarray,
    groups: np.ndarray,
    *,
    fractions: tuple[float, float, float],
    seed: int,
    pinned: np.ndarray,
    earlier: tuple[Mapping[str, str], Mapping[str, str]],
) -> tuple[np.ndarray, list[str]]:
    """Splits by stratification; what was assigned in an earlier dataset stays where it was.

    Args:
        pinned: ``(N,)`` bool: must be in train, unless it was elsewhere before.
        earlier: Split by file hash, and by path.
    """
    by_hash, by_path = earlier
    digests = [result.sha256 for result in decoded.results if not result.reason]
    before = [by_hash.get(digest) or by_path.get(row.path) for row, digest in zip(kept, digests, strict=True)]
    position = {name: i for i, name in enumerate(SPLITS)} | {None: FREE}
    fixed = np.array([position[name] for name in before], dtype=np.int64)
    fixed[(fixed == FREE) & pinned] = 0
    assigned = splits.split_groups(targets, groups.tolist(), fractions=fractions, seed=seed, fixed=fixed)
    same = sum(name is not None for name in before)
    notes = [f"{same} images keep the split of the dataset that was there; another seed draws all anew"] if same else []
    return assigned, notes


def own_splits(
    cells: Mapping[int, str | None],
    column: str,
    tasks: Sequence[Task],
    targets: np.ndarray,
    twins: Twins,
    *,
    fractions: tuple[float, float, float],
    seed: int,
    mask: bool,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The user's own splits, with their faults named.

    Args:
        cells: What the column says, by line of the rows kept.
        mask: Whether a label that train does not have is dropped rather than refused.

    Returns:
        Splits ``(N,)``, targets ``(N, T)``, notes.
    """
    own = splits.read_column(cells, column)
    assigned = splits.complete(own, targets, twins.together.tolist(), fractions=fractions, seed=seed)
    notes = []
    drawn = [SPLITS[s] for s in (1, 2) if not (own == s).any()]
    if drawn:
        notes.append(f"column '{column}' has no {' and no '.join(drawn)}: drawn from its train rows")
    for groups, what in ((twins.identical, "identical images"), (twins.together, "rows that belong together")):
        crossing = pd.Series(assigned).groupby(groups).nunique().gt(1).sum()
        if crossing:
            notes.append(
                f"warning: {crossing} groups of {what} cross the splits of column '{column}', so that test scores are "
                "too good"
            )
    unseen = splits.only_outside_train(assigned, targets)
    lines = np.array(list(cells))
    problems = []
    for t, k in unseen:
        hit = targets[:, t] == k
        shown = ", ".join(map(str, lines[hit][:SHOWN]))
        problems.append(f"'{tasks[t].classes[k]}' of column '{tasks[t].name}': lines {shown}")
        if mask:
            targets[hit, t] = IGNORE_INDEX
    if problems and not mask:
        raise DataError(
            f"split_col: {len(problems)} classes occur in val or test and never in train; move a row of each to "
            "train, or drop those labels with --rare drop:\n" + first_ten(problems)
        )
    notes += [f"label dropped, train has none: {problem}" for problem in problems]
    return assigned, targets, notes


def dataset_table(
    kept: Sequence[Row], assigned: np.ndarray, groups: np.ndarray, tasks: Sequence[Task], targets: np.ndarray
) -> pd.DataFrame:
    """Content of ``table.parquet``."""
    names = np.array(SPLITS, dtype=object)[assigned]
    frame = pd.DataFrame({"id": [r.id for r in kept], "path": [r.path for r in kept], "split": names, GROUP: groups})
    return pd.concat([frame, pd.DataFrame(targets, columns=[task.slug for task in tasks])], axis=1)


def list_twins(kept: Sequence[Row], frame: pd.DataFrame, tasks: Sequence[Task], twins: Twins) -> pd.DataFrame:
    """Content of ``duplicates.csv``: each group of identical images, then each of near duplicates.

    Labels are in columns ``label/<task>``; ``conflict`` names the tasks in which an identical group contradicts
    itself; ``row`` is the image's row in the dataset.
    """
    targets = frame[[task.slug for task in tasks]].to_numpy(dtype=np.int64)
    disputed = duplicates.conflicts(twins.identical, targets, IGNORE_INDEX)
    parts = []
    for kind, groups in (("identical", twins.identical), ("near", twins.near)):
        distinct = pd.Series(twins.identical).groupby(groups).transform("nunique").to_numpy()
        members = np.bincount(groups)[groups]
        rows = np.flatnonzero(members > 1 if kind == "identical" else distinct > 1)
        part = {
            "kind": kind,
            "group": groups[rows],
            "line": [kept[row].line for row in rows],
            "id": frame["id"].to_numpy()[rows],
            "path": frame["path"].to_numpy()[rows],
            "split": frame["split"].to_numpy()[rows],
            "conflict": [
                _names(tasks, disputed.get(group, ())) if kind == "identical" else "" for group in groups[rows]
            ],
            "row": rows,
        }
        for t, task in enumerate(tasks):
            part[f"label/{task.name}"] = [task.classes[k] if k >= 0 else "" for k in targets[rows, t]]
        parts.append(pd.DataFrame(part).sort_values(["group", "row"], kind="stable"))
    return pd.concat(parts, ignore_index=True)


def count(
    num_read: int, frame: pd.DataFrame, rejects: Sequence[Reject], listing: pd.DataFrame, decoded: Decoded
) -> dict:
    """What the manifest says in numbers."""
    if num_read != len(frame) + len(rejects):
        raise AssertionError(f"{num_read} rows read, {len(frame)} kept, {len(rejects)} rejected")
    good = [result for result in decoded.results if not result.reason]
    identical, near = listing[listing["kind"] == "identical"], listing[listing["kind"] == "near"]
    return {
        "read": num_read,
        "kept": len(frame),
        "rejected": len(rejects),
        "reasons": dict(Counter(reject.reason for reject in rejects).most_common()),
        "splits": {split: int((frame["split"] == split).sum()) for split in SPLITS},
        "duplicate_groups": int(identical["group"].nunique()),
        "duplicate_images": len(identical),
        "conflicting_groups": int(identical[identical["conflict"] != ""]["group"].nunique()),
        "near_groups": int(near["group"].nunique()),
        "near_images": len(near),
        "formats": dict(Counter(result.format for result in good).most_common()),
        "modes": dict(Counter(result.mode for result in good).most_common()),
        "image_notes": dict(Counter(note for result in good for note in result.notes.split()).most_common()),
        "largest_side": {"median": int(np.median([r.side for r in good])), "most": max(r.side for r in good)},
    }


def _names(tasks: Sequence[Task], positions: Sequence[int]) -> str:
    return ", ".join(tasks[t].name for t in positions)


def _some(names: Sequence[str] | Mapping) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
