"""Labels that may be wrong: heads that never saw an image say what they would have called it.

The idea is that of confident learning (Northcutt et al. 2021, arXiv:1911.00068), for several tasks with gaps.
R rows of the dataset, D features, T tasks, K classes of a task.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fmtl.loading.batches import Batches
from fmtl.loading.pacing import Paced
from fmtl.loading.sources import Features
from fmtl.model.decisions import MIDDLE
from fmtl.model.network import MultiTaskNet
from fmtl.tasks import IGNORE_INDEX, Task, Tasks
from fmtl.training import engine, evaluating
from fmtl.training.criterion import MultiTaskLoss
from fmtl.training.optim import Recipe, Updater

FOLDS, BATCH_SIZE, RATE, WEIGHT_DECAY = 5, 256, 3e-3, 1e-2
LEAST_EPOCHS, LEAST_STEPS = 20, 400


def find(
    features: Tensor,
    targets: np.ndarray,
    tasks: Tasks,
    *,
    groups: np.ndarray,
    seed: int,
    watch: Callable[[Iterable[int], str], Iterable[int]] = lambda folds, what: folds,
) -> pd.DataFrame:
    """Every known label that heads trained without its image would have given otherwise, the most suspect first.

    Args:
        features: ``(R, D)`` float32.
        targets: ``(R, columns)`` int64, ``IGNORE_INDEX`` where unknown.
        groups: ``(R,)``; rows of one group (the same photo twice) stay in one fold.
        watch: Shows progress over the folds.

    Returns:
        Columns row, task, label, suggestion, label_confidence, suggestion_confidence, ordered by the distance of the
        two confidences. Labels that no other fold has are left out: nothing could be learnt of them.
    """
    fold = folds(groups, seed=seed)
    probs = {task.name: np.zeros((len(targets), task.num_classes), np.float32) for task in tasks}
    judged = np.zeros(targets.shape, bool)
    standard = (features - features.mean(dim=0)) / features.std(dim=0).clamp(min=1e-6)
    for number in watch(range(FOLDS), "label suspects"):
        held, rest = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        if len(held) == 0 or len(rest) < 2:
            continue
        for name, found in _predict(standard, targets, tasks, rest, held, seed=seed).items():
            probs[name][held] = found
        for column in range(targets.shape[1]):
            judged[held, column] = np.isin(targets[held, column], targets[rest, column])
    return _table(probs, np.where(judged, targets, IGNORE_INDEX), tasks)


def folds(groups: np.ndarray, *, seed: int) -> np.ndarray:
    """The fold of each row, ``(R,)``, groups dealt out in a random order."""
    unique, which = np.unique(groups, return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(unique)) % FOLDS)[which]


def num_steps(rows: int) -> int:
    """How many of so many rows are taken in all."""
    num_batches = max(-(-rows * (FOLDS - 1) // (FOLDS * BATCH_SIZE)), 1)
    return FOLDS * num_batches * _epochs(num_batches)


def _epochs(num_batches: int) -> int:
    return max(LEAST_EPOCHS, -(-LEAST_STEPS // num_batches))


def _predict(
    features: Tensor, targets: np.ndarray, tasks: Tasks, rest: np.ndarray, held: np.ndarray, *, seed: int
) -> Mapping[str, np.ndarray]:
    """Probabilities for the held rows by heads trained on the rest."""
    torch.manual_seed(seed)
    device = features.device
    heads = MultiTaskNet(nn.Identity(), features.shape[1], tasks.num_classes, tasks.sets).to(device)
    loss = MultiTaskLoss(tasks.num_classes, tasks.sets).to(device)

    def batches_of(rows: np.ndarray, *, shuffle: bool = False) -> Batches:
        source = Features(features)
        return Batches(source, targets, rows, tasks=tasks, batch_size=BATCH_SIZE, shuffle=shuffle, seed=seed)

    batches = batches_of(rest, shuffle=True)
    epochs = _epochs(len(batches))
    recipe = Recipe(
        epochs=epochs, learning_rate=RATE, backbone_lr_scale=1.0, optimizer="adamw", weight_decay=WEIGHT_DECAY,
        schedule="onecycle", clip_norm=0.0, seed=seed,
    )  # fmt: skip
    updater = Updater(heads, loss, recipe, num_batches=len(batches))
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        engine.train_one_epoch(heads, Paced(batches), recipe=recipe, updater=updater, loss=loss, device=device)
    return evaluating.evaluate(heads, batches_of(held), loss=loss, device=device).probs


def _table(probs: Mapping[str, np.ndarray], targets: np.ndarray, tasks: Tasks) -> pd.DataFrame:
    of_tasks = tasks.by_name(targets)
    parts = [(_of_set if task.is_set else _of_single)(task, probs[task.name], of_tasks[task.name]) for task in tasks]
    table = pd.concat(parts, ignore_index=True)
    distance = table["suggestion_confidence"] - table["label_confidence"]
    return table.iloc[np.argsort(-distance.to_numpy(), kind="stable")].reset_index(drop=True)


def _of_single(task: Task, probs: np.ndarray, targets: np.ndarray) -> pd.DataFrame:
    best = probs.argmax(axis=1)
    rows = np.flatnonzero((targets != IGNORE_INDEX) & (targets != best))
    return pd.DataFrame(
        {
            "row": rows,
            "task": task.name,
            "label": [task.classes[k] for k in targets[rows]],
            "suggestion": [task.classes[k] for k in best[rows]],
            "label_confidence": probs[rows, targets[rows]],
            "suggestion_confidence": probs[rows, best[rows]],
        }
    )


def _of_set(task: Task, probs: np.ndarray, targets: np.ndarray) -> pd.DataFrame:
    """A row for each value that is there and should not be, or is missing."""
    rows, values = np.nonzero((targets != IGNORE_INDEX) & ((targets == 1) != (probs > MIDDLE)))
    said = targets[rows]
    other = said.copy()
    at = np.arange(len(rows)), values
    other[at] = 1 - said[at]
    confidence = np.where(said[at] == 1, probs[rows, values], 1 - probs[rows, values])
    return pd.DataFrame(
        {
            "row": rows,
            "task": task.name,
            "label": [task.text(row) for row in said.tolist()],
            "suggestion": [task.text(row) for row in other.tolist()],
            "label_confidence": confidence,
            "suggestion_confidence": 1 - confidence,
        }
    )
