"""What scores are worth at every threshold: ROC and precision-recall curves. N images, K classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from fmtl.tasks import IGNORE_INDEX

MAX_CURVE_POINTS = 200
MOST_CASES = 20_000_000  # pairs of image and class of which a micro-average is computed


def _cases(probs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities of rows that are known, and which classes or values they have, ``(n, K)`` each."""
    if targets.ndim == 2:
        known = (targets != IGNORE_INDEX).all(axis=1)
        return probs[known], targets[known] == 1
    known = targets != IGNORE_INDEX
    return probs[known], targets[known][:, None] == np.arange(probs.shape[1])


def roc(probs: np.ndarray, targets: np.ndarray, classes: Sequence[str]) -> dict:
    """One-vs-rest ROC curves and areas.

    Args:
        probs: ``(N, K)``.
        targets: ``(N,)`` int64; rows with ``IGNORE_INDEX`` are left out. Of a set ``(N, K)``, 1 where an image has the
            value; rows that are known in part are left out, too.

    Returns:
        ``{"classes": [{"class", "support", "auc", "fpr", "tpr", "reason"}], "micro", "macro", "macro_auc",
        "num_undefined"}``. A class without a positive or without a negative has no curve: ``auc`` is None and
        ``reason`` says why. ``micro`` (every pair of image and class is one case) and ``macro`` (the mean of the
        classes' curves, and of their areas) are ``{"auc", "fpr", "tpr"}`` or None. Curves keep at most
        ``MAX_CURVE_POINTS`` points; areas are of the whole curve.
    """
    probs, cases = _cases(probs, targets)
    curves = []
    for k, label in enumerate(classes):
        positive = cases[:, k]
        curve: dict[str, Any] = {
            "class": label,
            "support": int(positive.sum()),
            "auc": None,
            "fpr": [],
            "tpr": [],
            "reason": None,
        }
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
        "micro": _rounded(_roc_curve(*_all_cases(probs, cases))) if defined else None,
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
        targets: ``(N,)`` int64; rows with ``IGNORE_INDEX`` are left out. Of a set ``(N, K)``, 1 where an image has the
            value; rows that are known in part are left out, too.

    Returns:
        ``{"classes": [{"class", "support", "ap", "recall", "precision", "reason"}], "micro", "macro_ap",
        "num_undefined"}``. A class without a positive has no curve: ``ap`` is None and ``reason`` says why. ``micro``
        (every pair of image and class is one case) is ``{"ap", "recall", "precision"}`` or None; ``macro_ap`` is the
        mean over the classes that have a curve.
    """
    probs, cases = _cases(probs, targets)
    curves = []
    for k, label in enumerate(classes):
        positive = cases[:, k]
        curve: dict[str, Any] = {
            "class": label,
            "support": int(positive.sum()),
            "ap": None,
            "recall": [],
            "precision": [],
        }
        curve["reason"] = None if positive.any() else "no image of this class"
        curves.append(curve | _rounded(_pr_curve(positive, probs[:, k])) if positive.any() else curve)
    found = [c["ap"] for c in curves if c["ap"] is not None]
    return {
        "classes": curves,
        "micro": _rounded(_pr_curve(*_all_cases(probs, cases))) if found else None,
        "macro_ap": float(np.mean(found)) if found else None,
        "num_undefined": len(curves) - len(found),
    }


def _pr_curve(positive: np.ndarray, scores: np.ndarray) -> dict:
    # Thresholds that find no further positive are dropped: points that are left lie evenly over the recall.
    precision, recall, _ = precision_recall_curve(positive, scores, drop_intermediate=True)
    average = float(-np.sum(np.diff(recall) * precision[:-1]))
    return {"ap": average, **_thinned(recall=recall, precision=precision)}


def _all_cases(probs: np.ndarray, cases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each pair of image and class is a match, and its score, ``(N * K,)`` each; of some images if many."""
    every = max(-(-probs.size // MOST_CASES), 1)
    return cases[::every].ravel(), probs[::every].ravel()


def _thinned(**columns: np.ndarray) -> dict[str, np.ndarray]:
    """At most ``MAX_CURVE_POINTS`` points of a curve, its ends included."""
    size = len(next(iter(columns.values())))
    keep = np.unique(np.linspace(0, size - 1, MAX_CURVE_POINTS).round().astype(int))
    return {name: values[keep] for name, values in columns.items()}


def _rounded(curve: Mapping) -> dict:
    return {name: value if isinstance(value, float) else _round(value) for name, value in curve.items()}


def _round(values: Sequence[float]) -> list[float]:
    return np.asarray(values, dtype=float).round(5).tolist()
