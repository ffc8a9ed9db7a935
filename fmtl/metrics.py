"""Numbers from counts and scores. N images, T tasks, K classes; rows of a confusion matrix are targets."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from fmtl.tasks import IGNORE_INDEX

NAMES = ("accuracy", "f1", "precision", "recall")
MAX_CURVE_POINTS = 200


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
        return dict.fromkeys(NAMES, float("nan"))
    table = per_class(confusion)
    return {
        "accuracy": float(np.diag(confusion).sum() / total),
        **{name: float(table[name].mean()) for name in ("f1", "precision", "recall")},
    }


def all_metrics(confusions: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """``task_metrics`` by task name, and under ``avg`` their mean over the tasks that have any target."""
    by_task = {name: task_metrics(confusion) for name, confusion in confusions.items()}
    measured = [m for m in by_task.values() if not np.isnan(m["accuracy"])]
    average = {n: float(np.mean([m[n] for m in measured])) if measured else float("nan") for n in NAMES}
    return {**by_task, "avg": average}


def roc(probs: np.ndarray, targets: np.ndarray, classes: tuple[str, ...]) -> dict:
    """One-vs-rest ROC curves and areas.

    Args:
        probs: ``(N, K)``.
        targets: ``(N,)`` int64; rows with ``IGNORE_INDEX`` are left out.

    Returns:
        ``{"classes": [{"class", "support", "auc", "fpr", "tpr", "reason"}], "macro_auc", "num_undefined"}``.
        A class without a positive or without a negative has no curve: ``auc`` is None and ``reason`` says why.
        Curves keep at most ``MAX_CURVE_POINTS`` points; areas are of the whole curve.
    """
    known = targets != IGNORE_INDEX
    probs, targets = probs[known], targets[known]
    curves = []
    for k, label in enumerate(classes):
        positive = targets == k
        curve = {"class": label, "support": int(positive.sum()), "auc": None, "fpr": [], "tpr": [], "reason": None}
        if not positive.any():
            curve["reason"] = "no image of this class"
        elif positive.all():
            curve["reason"] = "every image is of this class"
        else:
            fpr, tpr, _ = roc_curve(positive, probs[:, k])
            keep = np.unique(np.linspace(0, len(fpr) - 1, MAX_CURVE_POINTS).round().astype(int))
            curve["auc"] = float(roc_auc_score(positive, probs[:, k]))
            curve["fpr"], curve["tpr"] = fpr[keep].round(5).tolist(), tpr[keep].round(5).tolist()
        curves.append(curve)
    areas = [c["auc"] for c in curves if c["auc"] is not None]
    return {
        "classes": curves,
        "macro_auc": float(np.mean(areas)) if areas else None,
        "num_undefined": len(curves) - len(areas),
    }
