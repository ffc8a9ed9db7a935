"""Numbers from counts and scores. N images, T tasks, K classes; rows of a confusion matrix are targets."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import auc, precision_recall_curve, roc_curve
from torch import Tensor

from fmtl.tasks import IGNORE_INDEX

NAMES = ("accuracy", "f1", "precision", "recall")
MAX_CURVE_POINTS = 200
NUM_BINS = 15  # of confidences, as in Guo et al. 2017


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


def roc(probs: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> dict:
    """One-vs-rest ROC curves and areas.

    Args:
        probs: ``(N, K)``.
        targets: ``(N,)`` int64; rows with ``IGNORE_INDEX`` are left out.

    Returns:
        ``{"classes": [{"class", "support", "auc", "fpr", "tpr", "reason"}], "micro", "macro", "macro_auc",
        "num_undefined"}``. A class without a positive or without a negative has no curve: ``auc`` is None and
        ``reason`` says why. ``micro`` (every pair of image and class is one case) and ``macro`` (the mean of the
        classes' curves, and of their areas) are ``{"auc", "fpr", "tpr"}`` or None. Curves keep at most
        ``MAX_CURVE_POINTS`` points; areas are of the whole curve.
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
            curve |= _roc_curve(positive, probs[:, k])
        curves.append(curve)
    defined = [c for c in curves if c["auc"] is not None]
    macro = _mean_curve(defined) if defined else None
    return {
        "classes": [c | {"fpr": _round(c["fpr"]), "tpr": _round(c["tpr"])} for c in curves],
        "micro": _rounded(_roc_curve(*_all_cases(probs, targets))) if defined else None,
        "macro": _rounded(macro) if macro else None,
        "macro_auc": macro["auc"] if macro else None,
        "num_undefined": len(curves) - len(defined),
    }


def _roc_curve(positive: np.ndarray, scores: np.ndarray) -> dict:
    fpr, tpr, _ = roc_curve(positive, scores)
    return {"auc": float(auc(fpr, tpr)), **_thinned(fpr=fpr, tpr=tpr)}


def _mean_curve(curves: Sequence[Mapping]) -> dict:
    """The mean of curves, at the same false positive rates, and the mean of their areas."""
    fpr = np.linspace(0, 1, MAX_CURVE_POINTS)
    tpr = np.mean([np.interp(fpr, c["fpr"], c["tpr"]) for c in curves], axis=0)
    tpr[0] = 0.0
    return {"auc": float(np.mean([c["auc"] for c in curves])), "fpr": fpr, "tpr": tpr}


def precision_recall(probs: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> dict:
    """One-vs-rest precision-recall curves and average precisions.

    Args:
        probs: ``(N, K)``.
        targets: ``(N,)`` int64; rows with ``IGNORE_INDEX`` are left out.

    Returns:
        ``{"classes": [{"class", "support", "ap", "recall", "precision", "reason"}], "micro", "macro_ap",
        "num_undefined"}``. A class without a positive has no curve: ``ap`` is None and ``reason`` says why. ``micro``
        (every pair of image and class is one case) is ``{"ap", "recall", "precision"}`` or None; ``macro_ap`` is the
        mean over the classes that have a curve.
    """
    known = targets != IGNORE_INDEX
    probs, targets = probs[known], targets[known]
    curves = []
    for k, label in enumerate(classes):
        positive = targets == k
        curve = {"class": label, "support": int(positive.sum()), "ap": None, "recall": [], "precision": []}
        curve["reason"] = None if positive.any() else "no image of this class"
        curves.append(curve | _rounded(_pr_curve(positive, probs[:, k])) if positive.any() else curve)
    found = [c["ap"] for c in curves if c["ap"] is not None]
    return {
        "classes": curves,
        "micro": _rounded(_pr_curve(*_all_cases(probs, targets))) if found else None,
        "macro_ap": float(np.mean(found)) if found else None,
        "num_undefined": len(curves) - len(found),
    }


def _pr_curve(positive: np.ndarray, scores: np.ndarray) -> dict:
    # Thresholds that find no further positive are dropped: points that are left lie evenly over the recall.
    precision, recall, _ = precision_recall_curve(positive, scores, drop_intermediate=True)
    average = float(-np.sum(np.diff(recall) * precision[:-1]))
    return {"ap": average, **_thinned(recall=recall, precision=precision)}


def _all_cases(probs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each pair of image and class is a match, and its score, ``(N * K,)`` each."""
    return (targets[:, None] == np.arange(probs.shape[1])).ravel(), probs.ravel()


def _thinned(**columns: np.ndarray) -> dict[str, np.ndarray]:
    """At most ``MAX_CURVE_POINTS`` points of a curve, its ends included."""
    size = len(next(iter(columns.values())))
    keep = np.unique(np.linspace(0, size - 1, MAX_CURVE_POINTS).round().astype(int))
    return {name: values[keep] for name, values in columns.items()}


def _rounded(curve: Mapping) -> dict:
    return {name: value if isinstance(value, float) else _round(value) for name, value in curve.items()}


def _round(values: Sequence[float]) -> list[float]:
    return np.asarray(values, dtype=float).round(5).tolist()


def calibration(probs: np.ndarray, targets: np.ndarray) -> dict:
    """How often predictions of some confidence are right, in ``NUM_BINS`` bins of equal width.

    Args:
        probs: ``(N, K)``; a prediction's confidence is its row's largest.
        targets: ``(N,)`` int64; rows with ``IGNORE_INDEX`` are left out.

    Returns:
        ``{"bins": [{"from", "to", "images", "confidence", "accuracy"}], "ece", "images"}``. Means of an empty bin, and
        all without any target, are None. ``ece`` is the expected calibration error of Guo et al. 2017,
        arXiv:1706.04599: the mean over images of the distance between their bin's accuracy and confidence.
    """
    known = targets != IGNORE_INDEX
    confidence, right = probs[known].max(axis=1, initial=0.0), probs[known].argmax(axis=1) == targets[known]
    edges = np.linspace(0, 1, NUM_BINS + 1)
    which = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, NUM_BINS - 1)
    images = np.bincount(which, minlength=NUM_BINS)
    sums = [np.bincount(which, weights=values, minlength=NUM_BINS) for values in (confidence, right)]
    bins = [
        {
            "from": float(edges[b]),
            "to": float(edges[b + 1]),
            "images": int(images[b]),
            "confidence": float(sums[0][b] / images[b]) if images[b] else None,
            "accuracy": float(sums[1][b] / images[b]) if images[b] else None,
        }
        for b in range(NUM_BINS)
    ]
    total = int(known.sum())
    error = float(np.abs(sums[1] - sums[0]).sum() / total) if total else None
    return {"bins": bins, "ece": error, "images": total}


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
            "target": [classes[r] for r in rows],
            "prediction": [classes[c] for c in columns],
            "images": images,
            "share": images / np.maximum(confusion.sum(axis=1)[rows], 1),
        }
    )
