"""Numbers from counts. N images, T tasks, K classes; rows of a confusion matrix are targets."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fmtl.metric_names import SCORES
from fmtl.tasks import AVERAGE, IGNORE_INDEX


def confusions(logits: Tensor, targets: Tensor, num_classes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Confusion counts of all tasks, made on the device in one go and read from it once.

    Args:
        logits: ``(N, T, K)``, -inf for classes that a task does not have.
        targets: ``(N, T)`` int64; where ``IGNORE_INDEX`` nothing is counted.
        num_classes: By task name, in the order of T.

    Returns:
        ``(classes, classes)`` int64 by task name.
    """
    _, num_tasks, most = logits.shape
    tasks = torch.arange(num_tasks, device=logits.device)
    cells = (tasks * most + targets.clamp(min=0)) * most + logits.argmax(dim=2)
    counts = torch.zeros(num_tasks * most * most, dtype=torch.int64, device=logits.device)
    counts.scatter_add_(0, cells.flatten(), (targets != IGNORE_INDEX).flatten().to(torch.int64))
    by_task = counts.view(num_tasks, most, most).cpu().numpy()
    return {name: by_task[t, :size, :size] for t, (name, size) in enumerate(num_classes.items())}


def per_class(confusion: np.ndarray) -> pd.DataFrame:
    """A row per class: support, precision, recall, f1.

    A score whose denominator is 0 is 0, as in scikit-learn with ``zero_division=0``, but nan for a class with
    neither targets nor predictions: nothing was measured there.

    Args:
        confusion: ``(K, K)`` int64.
    """
    hits, support, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    scores = {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(support + predicted, 1),
    }
    seen = (support + predicted) > 0
    return pd.DataFrame({"support": support, **{k: np.where(seen, v, np.nan) for k, v in scores.items()}})


def task_metrics(confusion: np.ndarray) -> dict[str, float]:
    """Accuracy and macro F1, precision, recall, each in [0, 1]; nan without any target.

    Macro is the plain mean over the classes that occur in targets or predictions: scikit-learn's default.
    Its F1 is the "averaged F1" of Opitz & Burst (2019), arXiv:1911.03347.
    """
    total = confusion.sum()
    if total == 0:
        return dict.fromkeys(SCORES, float("nan"))
    table = per_class(confusion)
    return {
        "accuracy": float(np.diag(confusion).sum() / total),
        **{name: float(table[name].mean()) for name in ("f1", "precision", "recall")},
    }


def all_metrics(confusions: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """``task_metrics`` by task name, and under ``avg`` their mean over the tasks that have any target."""
    by_task = {name: task_metrics(confusion) for name, confusion in confusions.items()}
    measured = [m for m in by_task.values() if not np.isnan(m["accuracy"])]
    average = {n: float(np.mean([m[n] for m in measured])) if measured else float("nan") for n in SCORES}
    return {**by_task, AVERAGE: average}


def largest_confusions(confusion: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Columns target, prediction, images, share (of the target's images); the most frequent mistake first.

    Args:
        confusion: ``(K, K)`` int64.
    """
    wrong = confusion * (1 - np.eye(len(confusion), dtype=confusion.dtype))
    rows, columns = np.nonzero(wrong)
    order = np.argsort(-wrong[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    images = wrong[rows, columns]
    return pd.DataFrame(
        {
            "target": [classes[r] for r in rows.tolist()],
            "prediction": [classes[c] for c in columns.tolist()],
            "images": images,
            "share": images / np.maximum(confusion.sum(axis=1)[rows], 1),
        }
    )
