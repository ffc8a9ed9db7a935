"""What can be scored without looking at a photo: the level that a model has to beat."""

import numpy as np

from fmtl.dataset.prepared import PreparedDataset
from fmtl.tasks import IGNORE_INDEX

MOST_PAIRS = 25_000_000  # of classes of two tasks; beyond, a look-up table has 200 MB


def majority(dataset: PreparedDataset, split: str = "test") -> dict[str, float]:
    """Accuracy per task of always answering with train's most frequent class, or whole set; nan where the split has no
    label."""
    train, there = dataset.rows("train"), dataset.rows(split)
    return {
        task.name: _accuracy(np.full(len(there), _most_frequent(codes[train], num)), codes[there])
        for task, (codes, num) in zip(dataset.tasks, label_codes(dataset), strict=True)
    }


def lookup(dataset: PreparedDataset, split: str = "test") -> np.ndarray:
    """Accuracy of naming one attribute when another is known, ``(T, T)``: from the row's task to the column's.

    The answer is the most frequent class, or whole set, in train beside the known label, else train's most frequent;
    nan where the split has no label, or two tasks have too many classes for a table.
    """
    train, there = dataset.rows("train"), dataset.rows(split)
    num_tasks, codes = len(dataset.tasks), label_codes(dataset)
    found = np.full((num_tasks, num_tasks), np.nan)
    for a, (known, num_known) in enumerate(codes):
        for b, (asked, num_asked) in enumerate(codes):
            if a != b and num_known * num_asked <= MOST_PAIRS:
                table = cooccurrence(known[train], asked[train], num_known, num_asked)
                most_frequent = _most_frequent(asked[train], num_asked)
                best = np.where(table.any(axis=1), table.argmax(axis=1), most_frequent)
                answers = np.where(known[there] >= 0, best[known[there].clip(0)], most_frequent)
                found[a, b] = _accuracy(answers, asked[there])
    return found


def label_codes(dataset: PreparedDataset) -> list[tuple[np.ndarray, int]]:
    """A number for the label of each row, ``(N,)`` int64, negative where unknown, and how many there are; by task.

    Of a set each combination of values that occurs has one.
    """
    found = []
    for task, place in dataset.tasks.places():
        targets = dataset.targets[:, place]
        if task.is_set:
            combinations, codes = np.unique(targets, axis=0, return_inverse=True)
            unknown = (targets == IGNORE_INDEX).any(axis=1)
            found.append((np.where(unknown, IGNORE_INDEX, codes.reshape(-1)), len(combinations)))
        else:
            found.append((targets[:, 0], task.num_classes))
    return found


def cooccurrence(rows: np.ndarray, columns: np.ndarray, num_rows: int, num_columns: int) -> np.ndarray:
    """How often each pair of targets occurs, ``(num_rows, num_columns)``; unknown ones are left out."""
    known = (rows >= 0) & (columns >= 0)
    pairs = rows[known] * num_columns + columns[known]
    return np.bincount(pairs, minlength=num_rows * num_columns).reshape(num_rows, num_columns)


def _most_frequent(targets: np.ndarray, num_classes: int) -> int:
    return int(np.bincount(targets[targets >= 0], minlength=num_classes).argmax())


def _accuracy(answers: np.ndarray, targets: np.ndarray) -> float:
    known = targets >= 0
    return float((answers == targets)[known].mean()) if known.any() else float("nan")
