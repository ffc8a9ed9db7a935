"""Whether confidences are true. N images, K classes."""

import numpy as np

from fmtl.tasks import IGNORE_INDEX

NUM_BINS = 15  # of confidences, as in Guo et al. 2017


def of_set(probs: np.ndarray, targets: np.ndarray) -> dict:
    """How often images have a value that they are said to have with some probability; see ``calibration``, whose
    ``images`` are pairs of an image and a value here, and which has no ``of``.

    Args:
        probs: ``(N, K)``, of each value by itself.
        targets: ``(N, K)`` int64, 1 where an image has the value; ``IGNORE_INDEX`` is left out.
    """
    known = targets != IGNORE_INDEX
    return {"of": "values", **_binned(probs[known], targets[known] == 1)}


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
    return _binned(confidence, right)


def _binned(confidence: np.ndarray, right: np.ndarray) -> dict:
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
    total = len(confidence)
    error = float(np.abs(sums[1] - sums[0]).sum() / total) if total else None
    return {"bins": bins, "ece": error, "images": total}
