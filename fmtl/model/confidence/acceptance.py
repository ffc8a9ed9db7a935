"""From which confidence on a label is accepted, so that of what is accepted a wanted share is right. N images."""

from collections.abc import Mapping

import numpy as np
from sklearn.isotonic import IsotonicRegression

from fmtl.model.confidence import NEVER
from fmtl.model.decisions import labels_of
from fmtl.tasks import DOES_NOT_APPLY, IGNORE_INDEX, Label, Tasks

FEWEST = 20  # labels to accept: of fewer nobody can say how many are right


def accepted_from(confidence: np.ndarray, right: np.ndarray, precision: float) -> float:
    """The lowest confidence from which on the wanted share is right; ``NEVER`` if there is none.

    Not every threshold that happens to hold on these images is looked at, since of very many one would by chance: only
    the steps of an isotonic regression, which takes a label to be at least as likely right as those less sure
    (Zadrozny & Elkan 2002, doi:10.1145/775047.775151).

    Args:
        confidence: ``(N,)``.
        right: ``(N,)`` bool.
        precision: The share.
    """
    if len(confidence) < FEWEST:
        return NEVER
    order = np.argsort(-confidence, kind="stable")
    sure, hits = confidence[order], np.cumsum(right[order])
    likely = IsotonicRegression(y_min=0, y_max=1).fit(sure, right[order].astype(float)).predict(sure)
    ends = np.append(np.flatnonzero((np.diff(likely) != 0) & (np.diff(sure) != 0)), len(sure) - 1)
    shares = hits[ends] / (ends + 1)
    holds = ends[(shares >= precision) & (ends + 1 >= FEWEST)]
    return float(sure[holds[-1]]) if len(holds) else NEVER


def judged(
    tasks: Tasks,
    probs: Mapping[str, np.ndarray],
    thresholds: Mapping[str, np.ndarray],
    targets: Mapping[str, np.ndarray],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of each attribute's images with a known label, the confidence in what is said and whether it is right, ``(n,)``
    each, by name.

    That an attribute does not apply is an answer, too, right where it does not.
    """
    said, found = labels_of(tasks, probs, thresholds), {}
    for task in tasks:
        if task.applies_to:
            continue
        rows = targets[task.name].reshape(-1, len(task.columns))
        labels: list[Label | None] = [task.label(row) for row in rows.tolist()]
        known = np.array([label is not None for label in labels], bool)
        if limits := tasks.applicability.get(task.name):
            applies = targets[limits.name]
            known |= (applies != IGNORE_INDEX) & (applies == limits.classes.index(DOES_NOT_APPLY))
        answers = [tuple(cell) if isinstance(cell, list) else cell for cell in said[task.slug]]
        right = np.array([a == b for a, b in zip(answers, labels, strict=True)], bool)
        found[task.name] = np.array(said[f"{task.slug}/confidence"], float)[known], right[known]
    return found
