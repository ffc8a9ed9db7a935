"""Numbers from counts. N images, T tasks, K classes; rows of a confusion matrix are targets."""

from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from fmtl.metric_names import SCORES, SET_SCORES
from fmtl.tasks import AVERAGE, IGNORE_INDEX

LARGEST_DENSE = 512  # classes; above, K * K counts are kept sparse
Confusion: TypeAlias = np.ndarray | csr_array  # (K, K) int64; of a set (K, 2, 2)


def per_class(confusion: Confusion) -> pd.DataFrame:
    """A row per class: support, precision, recall, f1.

    A score whose denominator is 0 is 0, as in scikit-learn with ``zero_division=0``, but nan for a class with
    neither targets nor predictions: nothing was measured there.

    Args:
        confusion: ``(K, K)`` int64; of a set ``(K, 2, 2)``.
    """
    hits, support, predicted = _hits(confusion)
    scores = {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(support + predicted, 1),
    }
    seen = (support + predicted) > 0
    return pd.DataFrame({"support": support, **{k: np.where(seen, v, np.nan) for k, v in scores.items()}})


def _hits(confusion: Confusion) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each class: images that are said to be it and are, that are it, and that are said to be."""
    if confusion.ndim == 3:
        return confusion[:, 1, 1], confusion[:, 1].sum(axis=1), confusion[:, :, 1].sum(axis=1)
    return confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)


def never_right(confusion: Confusion) -> int:
    """How many classes that images are of are never named right."""
    hits, support, _ = _hits(confusion)
    return int(((hits == 0) & (support > 0)).sum())


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


def set_confusion(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """``(K, 2, 2)`` int64, as scikit-learn's ``multilabel_confusion_matrix``: by value, rows are targets, no and yes.

    Args:
        predicted: ``(N, K)``, 1 where an image is said to have the value.
        targets: ``(N, K)`` int64; where ``IGNORE_INDEX`` nothing is counted.
    """
    cases = [[(targets == want) & (predicted == said) for said in (0, 1)] for want in (0, 1)]
    return np.array(cases).sum(axis=2).transpose(2, 0, 1).astype(np.int64)


def set_metrics(predicted: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Scores of a set, each in [0, 1]; nan without any target.

    ``accuracy`` is the share of images whose whole set is right. ``f1``, ``precision`` and ``recall`` are means over
    the values that occur in targets or predictions, ``micro_f1`` is that of all values together, and ``jaccard`` the
    mean over images of what both sets share of what either has, 1 where both are empty.

    Args:
        predicted, targets: As of ``set_confusion``.
    """
    known = targets != IGNORE_INDEX
    rows = known.any(axis=1)
    if not rows.any():
        return dict.fromkeys((*SCORES, *SET_SCORES), float("nan"))
    table = per_class(confusion := set_confusion(predicted, targets))
    said, wanted = ((values == 1) & known for values in (predicted, targets))
    both, either = (said & wanted).sum(axis=1), (said | wanted).sum(axis=1)
    seen = table["f1"].notna().any()  # or no image has any value or is said to
    (_, over), (missed, hit) = confusion.sum(axis=0)
    return {
        "accuracy": float((said == wanted).all(axis=1)[rows].mean()),
        **{name: float(table[name].mean()) if seen else 1.0 for name in ("f1", "precision", "recall")},
        "micro_f1": float(2 * hit / (2 * hit + over + missed)) if seen else 1.0,
        "jaccard": float(np.where(either > 0, both / np.maximum(either, 1), 1.0)[rows].mean()),
    }


def all_metrics(confusions: Mapping[str, Confusion]) -> dict[str, dict[str, float]]:
    """``task_metrics`` by task name, with their average."""
    return with_average({name: task_metrics(confusion) for name, confusion in confusions.items()})


def with_average(
    by_task: Mapping[str, Mapping[str, float]], not_averaged: Collection[str] = ()
) -> dict[str, dict[str, float]]:
    """Scores by task name, and under ``avg`` the mean of ``SCORES`` over the tasks that have any target.

    Args:
        not_averaged: Names of tasks that are left out of the mean.
    """
    measured = [m for name, m in by_task.items() if name not in not_averaged and not np.isnan(m["accuracy"])]
    average = {n: float(np.mean([m[n] for m in measured])) if measured else float("nan") for n in SCORES}
    return {**{name: dict(scores) for name, scores in by_task.items()}, AVERAGE: average}


def cells(confusion: Confusion) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and counts of the cells that are not 0, row by row."""
    if isinstance(confusion, csr_array):
        confusion.sum_duplicates()
        found = confusion.tocoo()
        return found.row, found.col, found.data
    rows, columns = np.nonzero(confusion)
    return rows, columns, confusion[rows, columns]


def set_mistakes(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Images ``(K, K)`` int64 in which a set lacks one value (rows) and has another that it should not (columns).

    Args:
        predicted, targets: As of ``set_confusion``.
    """
    return together((targets == 1) & (predicted != 1), (targets == 0) & (predicted == 1))


def together(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Rows in which both are true, for each pair of their columns: ``(N, A)`` and ``(N, B)`` bool to ``(A, B)`` int64.

    Whole numbers are exact in float32 up to 2 ** 24, and their product is a hundred times as fast.
    """
    return (first.T.astype(np.float32) @ second.astype(np.float32)).astype(np.int64)


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
