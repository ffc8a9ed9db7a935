"""From which probability on an image is said to have a value of a set. N images, K values."""

import numpy as np

from fmtl.tasks import IGNORE_INDEX

MIDDLE = 0.5
ENOUGH = 5  # images that have a value: with fewer, a threshold of its own fits chance


def best(probs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """For each value the threshold with the highest F1, ``(K,)`` float32; of equals the one nearest to 0.5.

    Values that fewer than ``ENOUGH`` images have share the threshold with the highest F1 over all values together:
    thresholds of rare values overfit (Yang 2001, "A study of thresholding strategies for text categorization").

    Args:
        probs: ``(N, K)``.
        targets: ``(N, K)`` int64: 1 where an image has the value, 0 where it hasn't; ``IGNORE_INDEX`` is left out.
    """
    known = targets != IGNORE_INDEX
    shared = _best(probs[known], targets[known] == 1)
    found = [
        _best(probs[rows, k], targets[rows, k] == 1) if (targets[:, k] == 1).sum() >= ENOUGH else shared
        for k, rows in enumerate(known.T)
    ]
    return np.array(found, np.float32)


def _best(probs: np.ndarray, has: np.ndarray) -> float:
    """Of one question, ``(n,)``; 0.5 where none has it."""
    if not has.any():
        return MIDDLE
    order = np.argsort(-probs, kind="stable")
    descending, hits = probs[order].astype(np.float64), np.cumsum(has[order])
    lower = np.append(descending[1:], 0.0)
    is_cut = descending > lower
    if not is_cut.any():
        return MIDDLE
    f1 = np.where(is_cut, 2 * hits / (np.arange(1, len(probs) + 1) + hits[-1]), -1.0)
    cuts = ((descending + lower) / 2).astype(np.float32)
    cuts = np.where(cuts > lower, cuts, descending)  # of neighbours the middle is rounded to the lower one
    (equals,) = np.nonzero(f1 == f1.max())
    return float(cuts[equals[np.abs(cuts[equals] - MIDDLE).argmin()]])
