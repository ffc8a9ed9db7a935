"""What is in a catalogue, as a page for people who know the products rather than the code."""

from itertools import combinations, islice

import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import csr_array

from fmtl.catalogue.notes import Note
from fmtl.catalogue.reasons import meaning
from fmtl.dataset.prepared import PreparedDataset, class_counts, unlabelled
from fmtl.dataset.splits import SPLITS
from fmtl.evaluation import baselines
from fmtl.reports import html
from fmtl.storage.tables import number_text
from fmtl.tasks import IGNORE_INDEX, Task

MOSAIC_COLUMNS, MOSAIC_ROWS, THUMBNAIL_PX = 12, 3, 80
SAMPLES = ((200, 8), (600, 4), (2000, 2), (float("inf"), 1))  # up to so many classes, so many photos of each
PAIR_CLASSES, MAX_PAIRS = 12, 28
MAX_GROUPS, MAX_GROUP_PHOTOS = 24, 6


def prepare_report(dataset: PreparedDataset, twins: pd.DataFrame, rejects: pd.DataFrame) -> str:
    """The whole page.

    Args:
        twins: Content of ``duplicates.csv``.
        rejects: Content of ``rejects.csv``.
    """
    notes = [Note.from_text(text) for text in dataset.manifest["notes"]]
    conflicting = twins["conflict"] != ""
    return html.render(
        "prepare.html",
        counts=dataset.manifest["counts"],
        source=dataset.manifest["source"],
        settings=dataset.manifest["settings"],
        digest=dataset.digest,
        warnings=[note.text for note in notes if note.is_warning],
        notes=[note.text for note in notes if not note.is_warning],
        reasons=_reasons(rejects),
        guesses=_guesses(dataset),
        tasks=_task_tables(dataset),
        pairs=_pairs(dataset),
        mosaic=_strip(
            dataset, html.evenly(np.arange(len(dataset.table)), MOSAIC_COLUMNS * MOSAIC_ROWS), MOSAIC_COLUMNS
        ),
        conflicts=_groups(dataset, twins[(twins["kind"] == "identical") & conflicting]),
        twins=_groups(dataset, twins[(twins["kind"] == "identical") & ~conflicting]),
        near=_groups(dataset, twins[twins["kind"] == "near"]),
    )


def _reasons(rejects: pd.DataFrame) -> list[dict]:
    """Why rows were left out, most frequent first, with an example of each."""
    return [
        {"name": reason, "meaning": meaning(str(reason)), "rows": len(rows), "example": rows.iloc[0].to_dict()}
        for reason, rows in sorted(rejects.groupby("reason"), key=lambda item: -len(item[1]))
    ]


def _guesses(dataset: PreparedDataset) -> list[dict]:
    """Per task, what test accuracy and macro-F1 need no photo."""
    majority, lookup = baselines.majority(dataset), baselines.lookup(dataset)
    rows = []
    for t, task in enumerate(dataset.tasks):
        found = []
        for metric, alone in enumerate(majority[task.name]):
            scores = lookup[metric, :, t]
            best = None if np.isnan(scores).all() else int(np.nanargmax(scores))
            found.append(
                {
                    "majority": number_text(alone),
                    "lookup": number_text(scores[best]) if best is not None else "n/a",
                    "source": dataset.tasks[best].name if best is not None else "",
                }
            )
        rows.append({"task": task.name, "metrics": found})
    return rows


def _task_tables(dataset: PreparedDataset) -> list[dict]:
    """Classes by frequency, with their counts and a strip of photos."""
    per_class = next(n for limit, n in SAMPLES if sum(task.num_classes for task in dataset.tasks) <= limit)
    tables = []
    for (task, place), table in zip(dataset.tasks.places(), class_counts(dataset).values(), strict=True):
        targets = dataset.targets[:, place]
        table = table.assign(total=table.sum(axis=1), k=range(len(table)))
        table = table.sort_values("total", ascending=False, kind="stable")
        classes = []
        for label, row in zip(table.index, table.itertuples(index=False), strict=True):
            rows = html.evenly(
                np.flatnonzero(targets[:, row.k] == 1 if task.is_set else targets[:, 0] == row.k), per_class
            )
            strip = _strip(dataset, rows, per_class) if len(rows) else ""
            counts = [int(getattr(row, split)) for split in SPLITS]
            classes.append({"label": label, "counts": counts, "total": int(row.total), "photos": strip})
        missing, not_applicable = unlabelled(dataset, task)
        absent = [name for name in SPLITS[1:] if (table[name] == 0).any()]
        tables.append(
            {
                "name": task.name,
                "missing": missing,
                "not_applicable": not_applicable,
                "is_set": task.is_set,
                "empty": int((task.is_set & (targets == 0).all(axis=1)).sum()),
                "classes": classes,
                "most": max(1, int(table["total"].max())),
                "absent": {name: int((table[name] == 0).sum()) for name in absent},
            }
        )
    return tables


def _pairs(dataset: PreparedDataset) -> list[dict]:
    """Which labels occur together, for each two tasks: the largest classes, as shares of each row."""
    found = []
    for (first, at), (second, other) in islice(combinations(dataset.tasks.places(), 2), MAX_PAIRS):
        if first.num_classes * second.num_classes > baselines.MOST_PAIRS:
            continue
        table = _together(first, dataset.targets[:, at], second, dataset.targets[:, other])
        rows = np.argsort(-table.sum(axis=1), kind="stable")[:PAIR_CLASSES]
        columns = np.argsort(-table.sum(axis=0), kind="stable")[:PAIR_CLASSES]
        found.append(
            {
                "names": (first.name, second.name),
                "columns": [second.classes[k] for k in columns],
                "rows": [
                    (first.classes[r], [(int(n), round(n / max(1, table[r].sum()), 2)) for n in table[r, columns]])
                    for r in rows
                ],
                "cut": len(rows) < first.num_classes or len(columns) < second.num_classes,
            }
        )
    return found


def _together(first: Task, targets: np.ndarray, second: Task, others: np.ndarray) -> np.ndarray:
    """How often each class of one occurs with each of the other, ``(K, K)``."""
    return (_occurrences(first, targets).T @ _occurrences(second, others)).toarray().astype(np.int64)


def _occurrences(task: Task, targets: np.ndarray) -> csr_array:
    """Which rows have which class, ``(N, K)``."""
    if task.is_set:
        return csr_array(targets == 1, dtype=np.int64)
    rows = np.flatnonzero(targets[:, 0] != IGNORE_INDEX)
    cells = (rows, targets[rows, 0])
    return csr_array((np.ones(len(rows), np.int64), cells), shape=(len(targets), task.num_classes))


def _groups(dataset: PreparedDataset, twins: pd.DataFrame) -> dict:
    """Groups of photos side by side with their labels, the first few."""
    names = {task.name: f"label/{task.name}" for task in dataset.tasks}
    groups = []
    for _, rows in islice(twins.groupby("group", sort=False), MAX_GROUPS):
        shown = rows.head(MAX_GROUP_PHOTOS)
        photos = [
            {
                "photo": _strip(dataset, np.array([row["row"]]), 1),
                "id": row["id"],
                "line": int(row["line"]),
                "split": row["split"],
            }
            for row in shown.to_dict("records")
        ]
        labels = {name: list(shown[column]) for name, column in names.items()}
        disputed = [name for name in names if len(set(labels[name]) - {""}) > 1]
        groups.append({"photos": photos, "labels": labels, "disputed": disputed, "more": len(rows) - len(shown)})
    return {"groups": groups, "total": int(twins["group"].nunique())}


def _strip(dataset: PreparedDataset, rows: np.ndarray, columns: int) -> str:
    """Photos in a grid, as a JPEG data URI."""
    columns = min(columns, len(rows))
    canvas = Image.new("RGB", (columns * THUMBNAIL_PX, -(-len(rows) // columns) * THUMBNAIL_PX), "white")
    for i, pixels in enumerate(dataset.pixels(rows)):
        thumbnail = html.smaller(Image.fromarray(pixels), THUMBNAIL_PX)
        canvas.paste(thumbnail, (i % columns * THUMBNAIL_PX, i // columns * THUMBNAIL_PX))
    return html.data_uri(canvas)
