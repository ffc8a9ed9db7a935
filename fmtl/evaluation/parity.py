"""Whether two ways to compute the same model say the same of the same photos. N images, K classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fmtl.tasks import Tasks

TIE = 1e-4  # probabilities that differ by less may change places
MOST_NAMED = 50  # photos in a report


@dataclass
class Parity:
    """What was found on some photos.

    Attributes:
        compared: What of, in words.
        images: How many photos.
        labels: Answers compared: a label each, of a set one for each value.
        equal: Answers that are the same.
        ties: Of the others those where both ways see two answers within ``TIE`` of each other: photo, task, answers.
        others: The same of those where they don't.
        largest: The largest difference of two probabilities, by slug.
    """

    compared: str
    images: int = 0
    labels: int = 0
    equal: int = 0
    ties: list[dict[str, Any]] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)
    largest: dict[str, float] = field(default_factory=dict)

    @property
    def largest_difference(self) -> float:
        return max(self.largest.values(), default=0.0)

    @property
    def share_equal(self) -> float:
        return self.equal / self.labels if self.labels else 1.0

    def add(
        self,
        tasks: Tasks,
        names: Sequence[str],
        ours: Mapping[str, np.ndarray],
        theirs: Mapping[str, np.ndarray],
        thresholds: Mapping[str, np.ndarray],
    ) -> None:
        """
        Args:
            names: Of the photos.
            ours, theirs: ``(N, K)`` by task name.
            thresholds: ``(K,)`` by name of each set.
        """
        self.images += len(names)
        for task in tasks:
            a, b = ours[task.name].astype(np.float64), theirs[task.name].astype(np.float64)
            if len(a):
                difference = float(np.nan_to_num(np.abs(a - b), nan=np.inf).max())  # a number against none
                self.largest[task.slug] = max(self.largest.get(task.slug, 0.0), difference)
            if task.is_set:
                limits = thresholds[task.name]
                said = [ours[task.name] >= limits, theirs[task.name] >= limits]
                margin = np.abs(a - limits)
                self._count(task.slug, names, said[0], said[1], margin, [f"{v}: yes" for v in task.classes])
            else:
                first, second = a.argmax(axis=1)[:, None], b.argmax(axis=1)[:, None]
                margin = np.take_along_axis(a, first, 1) - np.take_along_axis(a, second, 1)
                self._count(task.slug, names, first, second, margin, task.classes)

    def _count(
        self,
        slug: str,
        names: Sequence[str],
        ours: np.ndarray,
        theirs: np.ndarray,
        margin: np.ndarray,
        answers: Sequence[str],
    ) -> None:
        """
        Args:
            ours, theirs: ``(N, answers)``: classes, or of a set whether it has each value.
        """
        self.labels += ours.size
        self.equal += int((ours == theirs).sum())
        for row, column in np.argwhere(ours != theirs).tolist():
            a, b = ours[row, column], theirs[row, column]
            if ours.dtype == bool:
                told = [answers[column] if has else answers[column].replace(": yes", ": no") for has in (a, b)]
            else:
                told = [answers[a], answers[b]]
            found = {"image": names[row], "task": slug, "engine": told[0], "file": told[1]}
            (self.ties if margin[row, column] <= TIE else self.others).append(found)

    def to_json(self) -> dict[str, Any]:
        return {
            "compared": self.compared,
            "images": self.images,
            "labels": self.labels,
            "equal": self.equal,
            "share_equal": self.share_equal,
            "largest_difference": self.largest_difference,
            "largest_difference_by_task": self.largest,
            "ties": self.ties[:MOST_NAMED],
            "num_ties": len(self.ties),
            "different": self.others[:MOST_NAMED],
            "num_different": len(self.others),
        }

    def __str__(self) -> str:
        ties = f", {len(self.ties)} ties" if self.ties else ""
        return (
            f"{self.compared}: {self.equal} of {self.labels} labels of {self.images} photos equal{ties}, "
            f"largest difference of probabilities {self.largest_difference:.1e}"
        )
