"""What can be scored without looking at a photo: the level that a model has to beat."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from fmtl.dataset.prepared import PreparedDataset
from fmtl.evaluation.answers import METRICS
from fmtl.tasks import IGNORE_INDEX

MOST_PAIRS = 25_000_000  # of classes of two tasks; beyond, a look-up table has 200 MB
MOST_FREQUENT, LOOK_UP = "most frequent class", "best look-up"


@dataclass(frozen=True)
class LabelCodes:
    """Labels of a task as numbers; of a set each combination of values that occurs has one.

    Attributes:
        of_rows: ``(N,)`` int64, negative where unknown.
        num: How many there are.
        values: ``(num, K)`` bool, of a set the values of each combination.
    """

    of_rows: np.ndarray
    num: int
    values: np.ndarray | None = None

    def scores(self, rows: np.ndarray, answers: np.ndarray) -> tuple[float, float]:
        """Accuracy and macro-F1, as ``training.metrics`` has them, of answers for some rows; nan without any label."""
        targets = self.of_rows[rows]
        answers, targets = answers[targets >= 0], targets[targets >= 0]
        if not len(targets):
            return np.nan, np.nan
        if self.values is None:
            count = partial(np.bincount, minlength=self.num)
            hits, sizes = count(targets[answers == targets]), count(targets) + count(answers)
        else:
            said, wanted = self.values[answers], self.values[targets]
            hits, sizes = (said & wanted).sum(axis=0), said.sum(axis=0) + wanted.sum(axis=0)
        f1 = (2 * hits[sizes > 0] / sizes[sizes > 0]).mean() if sizes.any() else 1.0
        return float((answers == targets).mean()), float(f1)


def majority(dataset: PreparedDataset, split: str = "test") -> dict[str, tuple[float, float]]:
    """Accuracy and macro-F1 per task of always answering with train's most frequent class, or whole set; nan where the
    split has no label."""
    train, there = dataset.rows("train"), dataset.rows(split)
    return {
        task.name: codes.scores(there, np.full(len(there), _most_frequent(codes.of_rows[train], codes.num)))
        for task, codes in zip(dataset.tasks, label_codes(dataset), strict=True)
    }


def lookup(dataset: PreparedDataset, split: str = "test") -> np.ndarray:
    """Accuracy and macro-F1 of naming one attribute when another is known, ``(2, T, T)``: from the row's task to the
    column's.

    The answer is the most frequent class, or whole set, in train beside the known label, else train's most frequent;
    nan where the split has no label, or two tasks have too many classes for a table; and where it is asked whether an
    attribute applies and the known one is known only where something applies: that it is blank would be the answer.
    """
    there = dataset.rows(split)
    num_tasks, all_codes = len(dataset.tasks), label_codes(dataset)
    found = np.full((len(METRICS), num_tasks, num_tasks), np.nan)
    for a in range(num_tasks):
        for b, asked in enumerate(all_codes):
            if (answers := _looked_up(dataset, all_codes, a, b, there)) is not None:
                found[:, a, b] = asked.scores(there, answers)
    return found


def _looked_up(
    dataset: PreparedDataset, all_codes: Sequence[LabelCodes], a: int, b: int, rows: np.ndarray
) -> np.ndarray | None:
    """Of some rows, codes of task ``b`` as task ``a``'s tell them; None where that is not asked."""
    known, asked = all_codes[a], all_codes[b]
    tells_itself = dataset.tasks[b].applies_to and dataset.tasks[a].name in dataset.tasks.applicability
    if a == b or tells_itself or known.num * asked.num > MOST_PAIRS:
        return None
    train = dataset.rows("train")
    table = cooccurrence(known.of_rows[train], asked.of_rows[train], known.num, asked.num)
    most_frequent = _most_frequent(asked.of_rows[train], asked.num)
    best = np.where(table.any(axis=1), table.argmax(axis=1), most_frequent)
    label = known.of_rows[rows]
    return np.where(label >= 0, best[label.clip(0)], most_frequent)


def answers(dataset: PreparedDataset) -> dict[str, dict[str, np.ndarray]]:
    """What can be said of the test photos without a look at them, by what it is called and task name, as targets are.

    Which attribute a look-up goes by is chosen by macro-F1 on val, or on train where val has no label.
    """
    there, all_codes = dataset.rows("test"), label_codes(dataset)
    chosen = [lookup(dataset, split)[METRICS.index("f1")] for split in ("val", "train")]
    found: dict[str, dict[str, np.ndarray]] = {MOST_FREQUENT: {}, LOOK_UP: {}}
    for b, (task, codes) in enumerate(zip(dataset.tasks, all_codes, strict=True)):
        constant = np.full(len(there), _most_frequent(codes.of_rows[dataset.rows("train")], codes.num))
        f1s = next((f1[:, b] for f1 in chosen if np.isfinite(f1[:, b]).any()), None)
        looked_up = None if f1s is None else _looked_up(dataset, all_codes, int(np.nanargmax(f1s)), b, there)
        for name, said in ((MOST_FREQUENT, constant), (LOOK_UP, constant if looked_up is None else looked_up)):
            found[name][task.name] = said if codes.values is None else codes.values[said].astype(np.int64)
    return found


def label_codes(dataset: PreparedDataset) -> list[LabelCodes]:
    """By task."""
    found = []
    for task, place in dataset.tasks.places():
        targets = dataset.targets[:, place]
        if task.is_set:
            combinations, codes = np.unique(targets, axis=0, return_inverse=True)
            unknown = (targets == IGNORE_INDEX).any(axis=1)
            codes = np.where(unknown, IGNORE_INDEX, codes.reshape(-1))
            found.append(LabelCodes(codes, len(combinations), combinations == 1))
        else:
            found.append(LabelCodes(targets[:, 0], task.num_classes))
    return found


def cooccurrence(rows: np.ndarray, columns: np.ndarray, num_rows: int, num_columns: int) -> np.ndarray:
    """How often each pair of targets occurs, ``(num_rows, num_columns)``; unknown ones are left out."""
    known = (rows >= 0) & (columns >= 0)
    pairs = rows[known] * num_columns + columns[known]
    return np.bincount(pairs, minlength=num_rows * num_columns).reshape(num_rows, num_columns)


def _most_frequent(targets: np.ndarray, num_classes: int) -> int:
    return int(np.bincount(targets[targets >= 0], minlength=num_classes).argmax())
