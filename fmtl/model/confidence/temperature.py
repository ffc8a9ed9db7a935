"""One temperature per task, under which its confidences are as true as they get. N images, K classes.

Guo et al. 2017, arXiv:1706.04599. The cross-entropy that is left under it is the part of the loss that no temperature
mends: Berta et al. 2025, arXiv:2501.19195.
"""

import math
from dataclasses import dataclass

import numpy as np

from fmtl.tasks import IGNORE_INDEX

FOLDS = 5  # of cross-fitting
LEAST_KEPT = 0.5  # of a temperature that a model gets
FEWEST = 50  # labelled images that say anything of a temperature
LEAST, MOST = 0.1, 10.0  # a temperature: few images that are all right would ask for 0
TOLERANCE, MOST_STEPS = 1e-4, 50  # of the search, relative; half of that are needed at the edges
BLOCK = 1 << 22  # probabilities worked on at once
ENOUGH_ANSWERS = 400_000  # of sets, likewise
ENOUGH = 1 << 25  # probabilities to fit one number to; of more, rows are taken evenly


@dataclass(frozen=True)
class Fit:
    """What the best temperature is, and what it leaves.

    Attributes:
        temperature: What logits are divided by; above 1 where a network is too sure of itself.
        loss: Mean cross-entropy under it.
    """

    temperature: float
    loss: float


def fit(probs: np.ndarray, targets: np.ndarray) -> Fit:
    """The temperature in [``LEAST``, ``MOST``] with the lowest cross-entropy, and that; both nan without any target.

    The logits times 1 / temperature have a convex loss, of which Newton's steps find the lowest point; a step that
    leaves what is known to hold it is replaced by half the way to that end.

    Args:
        probs: ``(N, K)``, softmax of the logits.
        targets: ``(N,)`` int64; rows with ``IGNORE_INDEX`` are left out.
    """
    known = np.flatnonzero(targets != IGNORE_INDEX)
    if not len(known):
        return Fit(math.nan, math.nan)
    rows = known[:: -(-len(known) * probs.shape[1] // ENOUGH)]
    low, high, scale = 1 / MOST, 1 / LEAST, 1.0
    for _ in range(MOST_STEPS):
        _, slope, curvature = _at(probs, targets, rows, scale)
        low, high = (low, scale) if slope > 0 else (scale, high)
        newton = scale - slope / curvature if curvature > 0 else math.inf
        before, scale = scale, newton if low < newton < high else math.sqrt(low * high)
        if abs(scale - before) <= TOLERANCE * before:
            break
    return Fit(1 / scale, _at(probs, targets, rows, scale)[0])


def fit_set(probs: np.ndarray, targets: np.ndarray) -> Fit:
    """``fit`` of a set, whose values share one temperature; its loss is the sum over values.

    Args:
        probs: ``(N, K)``, sigmoid of the logits.
        targets: ``(N, K)`` int64, 1 where an image has the value; ``IGNORE_INDEX`` is left out.
    """
    rows = slice(None, None, -(-probs.size // ENOUGH_ANSWERS) or 1)
    found = fit(_answers(probs[rows]), targets[rows].reshape(-1))
    return Fit(found.temperature, found.loss * probs.shape[1])


def cross_fitted(probs: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> float:
    """The best temperature, if temperatures fitted on other images lower the cross-entropy of all folds; else 1.

    Not below ``LEAST_KEPT``: a task whose few images are all told right would ask for certainty, which no image of
    another kind deserves.

    Args:
        probs, targets: As ``fit`` has them, or of a set as ``fit_set``.
        groups: ``(N,)``; images of one group are of one fold.
    """
    is_set = targets.ndim == 2
    known = (targets != IGNORE_INDEX).any(axis=1) if is_set else targets != IGNORE_INDEX
    numbers, of_group = np.unique(groups, return_inverse=True)
    if known.sum() < FEWEST or len(numbers) < FOLDS:
        return 1.0
    fold = np.random.default_rng(0).permutation(len(numbers))[of_group] % FOLDS
    fit_to = fit_set if is_set else fit
    gained = 0.0
    for k in range(FOLDS):
        rest, left_out = known & (fold != k), known & (fold == k)
        if not rest.any() or not left_out.any():
            continue
        found = max(fit_to(probs[rest], targets[rest]).temperature, LEAST_KEPT)
        before, after = (loss(probs[left_out], targets[left_out], value) for value in (1.0, found))
        gained += (before - after) * left_out.sum()
    return max(fit_to(probs[known], targets[known]).temperature, LEAST_KEPT) if gained > 0 else 1.0


def loss(probs: np.ndarray, targets: np.ndarray, temperature: float) -> float:
    """Mean cross-entropy under a temperature; of a set over all answers that are known."""
    if targets.ndim == 2:
        probs, targets = _answers(probs), targets.reshape(-1)
    return _at(probs, targets, np.flatnonzero(targets != IGNORE_INDEX), 1 / temperature)[0]


def rescaled(probs: np.ndarray, temperature: float, *, is_set: bool) -> np.ndarray:
    """Probabilities as they would be under another temperature, ``(N, K)`` float32.

    Args:
        temperature: What their logits are to be divided by.
    """
    if is_set:
        return rescaled(_answers(probs), temperature, is_set=False)[:, 1].reshape(probs.shape)
    logits = np.log(np.maximum(probs, np.finfo(np.float32).tiny)) / temperature
    weights = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _answers(probs: np.ndarray) -> np.ndarray:
    """Of each value of each set, no and yes as two classes, ``(N * K, 2)``."""
    return np.stack([1 - probs, probs], axis=2).reshape(-1, 2)


def _at(probs: np.ndarray, targets: np.ndarray, rows: np.ndarray, scale: float) -> tuple[float, float, float]:
    """Mean cross-entropy of some rows' logits times ``scale``, its first and its second derivative by ``scale``."""
    sums = np.zeros(3)
    for part in np.array_split(rows, -(-len(rows) * probs.shape[1] // BLOCK)):
        logits = np.log(np.maximum(probs[part], np.finfo(np.float32).tiny))  # but for a constant a row
        scaled = logits * scale
        scaled -= scaled.max(axis=1, keepdims=True)
        weights = np.exp(scaled)
        totals = weights.sum(axis=1, dtype=np.float64)
        first = np.einsum("nk,nk->n", weights, logits) / totals
        second = np.einsum("nk,nk,nk->n", weights, logits, logits) / totals
        at = np.arange(len(logits)), targets[part]
        sums += [
            (np.log(totals) - scaled[at]).sum(dtype=np.float64),
            (first - logits[at]).sum(dtype=np.float64),
            (second - first**2).sum(dtype=np.float64),
        ]
    loss, slope, curvature = sums / len(rows)
    return float(loss), float(slope), float(curvature)
