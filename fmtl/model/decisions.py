"""From probabilities to what is said of an image: thresholds of sets, labels, confidences. N images, K classes."""

from collections.abc import Mapping

import numpy as np

from fmtl.tasks import APPLIES, IGNORE_INDEX, Task, Tasks

MIDDLE = 0.5
ENOUGH = 5  # images that have a value: with fewer, a threshold of its own fits chance


def best_thresholds(probs: np.ndarray, targets: np.ndarray) -> np.ndarray:
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


def labels_of(
    tasks: Tasks, probs: Mapping[str, np.ndarray], thresholds: Mapping[str, np.ndarray], top_k: int = 1
) -> dict[str, list]:
    """Columns of a predictions table: of each task its label and confidence, and of ``top_k`` labels the others.

    A set has with ``top_k`` above 1 besides ``<slug>/value/1`` and the value's own confidence, the likeliest first,
    whether or not the set has it. An attribute that is likelier not to apply to an image has no label, and the
    confidence in that; where it applies, a confidence is the probability that it applies and is so.

    Args:
        probs: ``(N, K)`` by task name.
        thresholds: ``(K,)`` by name of each set.
    """
    columns: dict[str, list] = {}
    for task in tasks:
        of_task = probs[task.name]
        if task.is_set:
            found = _values(task, of_task, thresholds[task.name], top_k)
        else:
            found = _top_labels(task, of_task, top_k)
        if limits := tasks.applicability.get(task.name):
            found = _where_it_applies(found, task, probs[limits.name][:, limits.classes.index(APPLIES)])
        columns |= found
    return columns


def confidences(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How sure a network is of labels, ``(N,)``: of a set as sure as of the answer that it is least sure of.

    Args:
        probs: ``(N, K)``.
        labels: ``(N,)`` class indices, or of a set ``(N, K)``, 1 where it has the value; unknown ones give any
            number.
    """
    if labels.ndim == 2:
        return np.where(labels == 1, probs, 1 - probs).min(axis=1)
    return np.take_along_axis(probs, labels.clip(min=0)[:, None], axis=1)[:, 0]


def _values(task: Task, probs: np.ndarray, thresholds: np.ndarray, top_k: int) -> dict[str, list]:
    has = (probs >= thresholds).astype(np.int64)
    columns: dict[str, list] = {
        task.slug: [list(task.label(row) or ()) for row in has.tolist()],
        f"{task.slug}/confidence": confidences(probs, has).tolist(),
    }
    order = np.argsort(-probs, axis=1, kind="stable")
    for k in range(min(top_k, task.num_classes) if top_k > 1 else 0):
        columns[f"{task.slug}/value/{k + 1}"] = [task.classes[i] for i in order[:, k]]
        columns[f"{task.slug}/value/{k + 1}/confidence"] = np.take_along_axis(probs, order, axis=1)[:, k].tolist()
    return columns


def _top_labels(task: Task, probs: np.ndarray, top_k: int) -> dict[str, list]:
    # Either way the first of equals; one label alone needs no sorting.
    order = probs.argmax(axis=1)[:, None] if top_k == 1 else np.argsort(-probs, axis=1, kind="stable")
    columns = {}
    for k in range(min(top_k, task.num_classes)):
        name = task.slug if k == 0 else f"{task.slug}/{k + 1}"
        columns[name] = [task.classes[i] for i in order[:, k]]
        columns[f"{name}/confidence"] = np.take_along_axis(probs, order[:, k : k + 1], axis=1)[:, 0].tolist()
    return columns


def _where_it_applies(columns: Mapping[str, list], task: Task, applies: np.ndarray) -> dict[str, list]:
    """
    Args:
        applies: ``(N,)``, the probability that it does.
    """
    has, found = applies > 1 - applies, {}
    for name, values in columns.items():
        if not name.endswith("/confidence"):
            found[name] = [value if there else None for value, there in zip(values, has, strict=True)]
        else:
            elsewhere = 1 - applies if name == f"{task.slug}/confidence" else np.full(len(applies), np.nan)
            found[name] = np.where(has, applies * np.array(values, np.float32), elsewhere).astype(float).tolist()
    return found
