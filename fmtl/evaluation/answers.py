"""What labellers say of the same photos, as numbers: models, people, a table look-up. N photos, K classes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fmtl.dataset.prepared import GROUP
from fmtl.tasks import IGNORE_INDEX, Task, Tasks

WRONG = -1  # stands for a label that is no class, and where nothing is said
METRICS = ("accuracy", "f1")  # of a task, in this order
PHOTO = ["id", "path"]  # columns that say which photo a row is of

Codes = Mapping[str, np.ndarray]  # by task name (N,) class indices, or of a set (N, K) zeros and ones


@dataclass(frozen=True)
class Photos:
    """The photos that labellers are compared on.

    Attributes:
        rows: ``id`` and ``path`` of each.
        groups: ``(N,)``, equal where photos are twins or show one product.
        tasks: What there is to tell of them.
        targets: ``Codes``, with ``IGNORE_INDEX`` where the label is not known.
    """

    rows: pd.DataFrame
    groups: np.ndarray
    tasks: Tasks
    targets: Codes

    @classmethod
    def of(cls, table: pd.DataFrame, tasks: Tasks) -> "Photos":
        """Those of a predictions table."""
        alone = pd.Series(np.arange(len(table)))  # where nobody knows which are twins
        targets = {task.name: codes(task, table[f"{task.slug}/target"], blank=IGNORE_INDEX) for task in tasks}
        return cls(table[PHOTO], table.get(GROUP, alone).to_numpy(), tasks, targets)

    def __len__(self) -> int:
        return len(self.rows)

    def are_those_of(self, other: "Photos") -> bool:
        """Whether photos, their order and what is known of them are the same."""
        return (
            self.rows.reset_index(drop=True).equals(other.rows.reset_index(drop=True))
            and self.tasks == other.tasks
            and all(np.array_equal(values, other.targets[name]) for name, values in self.targets.items())
        )


def said(table: pd.DataFrame, tasks: Tasks) -> dict[str, np.ndarray]:
    """``Codes`` of a predictions table; ``WRONG`` where nothing is said."""
    return {task.name: codes(task, table[task.slug], blank=WRONG) for task in tasks}


def codes(task: Task, labels: pd.Series, *, blank: int) -> np.ndarray:
    """Labels of a predictions table as ``Task.targets``, ``WRONG`` for one that is no class.

    Args:
        blank: What stands where nothing is said.
    """
    if task.is_set:
        rows = [None if np.ndim(cell) == 0 else tuple(cell) for cell in labels]
        found = np.array(task.targets(rows), np.int64).reshape(len(labels), task.num_classes)
        return np.where(found == IGNORE_INDEX, blank, found)
    index = {label: k for k, label in enumerate(task.classes)}
    found = np.array([index.get(cell, WRONG) for cell in labels.tolist()], np.int64)
    return np.where(labels.isna(), blank, found)


def known(targets: np.ndarray) -> np.ndarray:
    """Photos of which something is known, ``(N,)`` bool."""
    return targets != IGNORE_INDEX if targets.ndim == 1 else (targets != IGNORE_INDEX).any(axis=1)


def right(targets: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Photos of which a task's answer is right, of a set all of it, ``(N,)`` bool; of unknown ones nothing is meant."""
    return targets == answers if targets.ndim == 1 else (targets == answers).all(axis=1)


def all_right(photos: Photos, answers: Codes) -> tuple[np.ndarray, np.ndarray]:
    """Photos of which any attribute is known, as row numbers, and whether all that are known are told right."""
    is_known = np.zeros(len(photos), bool)
    has_fault = np.zeros(len(photos), bool)
    for name in photos.tasks.attributes:
        there = known(photos.targets[name])
        is_known |= there
        has_fault |= there & ~right(photos.targets[name], answers[name])
    rows = np.flatnonzero(is_known)
    return rows, ~has_fault[rows]
