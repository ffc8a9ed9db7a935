"""Numbers from counts. N images, T tasks, K classes; rows of a confusion matrix are targets."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from fmtl.metric_names import SCORES
from fmtl.tasks import AVERAGE

LARGEST_DENSE = 512  # classes; above, K * K counts are kept sparse
Confusion: TypeAlias = np.ndarray | csr_array  # (K, K) int64


def per_class(confusion: Confusion) -> pd.DataFrame:
    """A row per class: support, precision, recall, f1.

    A score whose denominator is 0 is 0, as in scikit-learn with ``zero_division=0``, but nan for a class with
    neither targets nor predictions: nothing was measured there.

    Args:
        confusion: ``(K, K)`` int64.
    """
    hits, support, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    scores = {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(support + predicted, 1),
    }
    seen = (support + predicted) > 0
    return pd.DataFrame({"support": support, **{k: np.where(seen, v, np.nan) for k, v in scores.items()}})


def task_metrics(confusion: Confusion) -> dict[str, float]:
    """Accuracy and macro F1, precision, recall, each in [0, 1]; nan without any target.

    Macro is the plain mean over the classes that occur in targets or predictions: scikit-learn's default.
    Its F1 is the "averaged F1" of Opitz & Burst (2019), arXiv:1911.03347.
    """
    total = confusion.sum()
    if total == 0:
        return dict.fromkeys(SCORES, float("nan"))
    table = per_class(confusion)
    return {
        "accuracy": float(confusion.diagonal().sum() / total),
        **{name: float(table[name].mean()) for name in ("f1", "precision", "recall")},
    }


def all_metrics(confusions: Mapping[str, Confusion]) -> dict[str, dict[str, float]]:
    """``task_metrics`` by task name, and under ``avg`` their mean over the tasks that have any target."""
    by_task = {name: task_metrics(confusion) for name, confusion in confusions.items()}
    measured = [m for m in by_task.values() if not np.isnan(m["accuracy"])]
    average = {n: float(np.mean([m[n] for m in measured])) if measured else float("nan") for n in SCORES}
    return {**by_task, AVERAGE: average}


def cells(confusion: Confusion) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and counts of the cells that are not 0, row by row."""
    if isinstance(confusion, csr_array):
        confusion.sum_duplicates()
        found = confusion.tocoo()
        return found.row, found.col, found.data
    rows, columns = np.nonzero(confusion)
    return rows, columns, confusion[rows, columns]


def largest_confusions(confusion: Confusion, classes: Sequence[str]) -> pd.DataFrame:
    """Columns target, prediction, images, share (of the target's images); the most frequent mistake first.

    Args:
        confusion: ``(K, K)`` int64.
    """
    rows, columns, images = cells(confusion)
    wrong = np.flatnonzero(rows != columns)
    order = wrong[np.argsort(-images[wrong], kind="stable")]
    rows, columns, images = rows[order], columns[order], images[order]
    return pd.DataFrame(
        {
            "target": [classes[r] for r in rows.tolist()],
            "prediction": [classes[c] for c in columns.tolist()],
            "images": images,
            "share": images / np.maximum(confusion.sum(axis=1)[rows], 1),
        }
    )
