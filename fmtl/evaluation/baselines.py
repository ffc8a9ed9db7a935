"""What can be scored without looking at a photo: the level that a model has to beat."""

import numpy as np

from fmtl.dataset.prepared import PreparedDataset

MOST_PAIRS = 25_000_000  # of classes of two tasks; beyond, a look-up table has 200 MB


def majority(dataset: PreparedDataset, split: str = "test") -> dict[str, float]:
    """Accuracy per task of always answering with train's most frequent class; nan where the split has no label."""
    train, there = (dataset.targets[dataset.rows(name)] for name in ("train", split))
    return {
        task.name: _accuracy(np.full(len(there), _most_frequent(train[:, t], task.num_classes)), there[:, t])
        for t, task in enumerate(dataset.tasks)
    }


def lookup(dataset: PreparedDataset, split: str = "test") -> np.ndarray:
    """Accuracy of naming one attribute when another is known, ``(T, T)``: from the row's task to the column's.

    The answer is the most frequent class in train beside the known label, else train's most frequent class;
    nan where the split has no label, or two tasks have too many classes for a table.
    """
    train, there = (dataset.targets[dataset.rows(name)] for name in ("train", split))
    num_tasks = len(dataset.tasks)
    found = np.full((num_tasks, num_tasks), np.nan)
    for a, known in enumerate(dataset.tasks):
        for b, asked in enumerate(dataset.tasks):
            if a != b and known.num_classes * asked.num_classes <= MOST_PAIRS:
                table = cooccurrence(train[:, a], train[:, b], known.num_classes, asked.num_classes)
                most_frequent = _most_frequent(train[:, b], asked.num_classes)
                best = np.where(table.any(axis=1), table.argmax(axis=1), most_frequent)
                answers = np.where(there[:, a] >= 0, best[there[:, a].clip(0)], most_frequent)
                found[a, b] = _accuracy(answers, there[:, b])
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
