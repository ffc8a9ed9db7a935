"""The epochs of a training that are done, across its stages: which was the best, and whether more are worth it."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fmtl import metric_names
from fmtl.metric_names import EPOCH, REFINED_LOSS, TRAIN_LOSS
from fmtl.tasks import Tasks
from fmtl.training.engine import EpochResult
from fmtl.training.evaluating import Evaluation

Row = dict[str, Any]  # metrics of an epoch by name, and its number


class History:
    """Metrics of the epochs done so far.

    A training may have several stages, each with an optimizer of its own, and may have been interrupted in any of them.
    So a row's place in ``rows`` is its epoch across all stages, ``start`` and ``end`` are the bounds of the stage at
    hand, and what an earlier process did is told apart only for the estimate of the time that is left.

    Args:
        num_epochs: Of all stages.
        chosen_by: Name of the metric that the best epoch is chosen by.
        rows: Of an earlier attempt.
    """

    def __init__(self, num_epochs: int, chosen_by: str, rows: Sequence[Mapping[str, Any]] = ()):
        self.rows: list[Row] = [dict(row) for row in rows]
        self.num_epochs, self.chosen_by = num_epochs, chosen_by
        self.start = self.end = 0
        self._begun, self._since = time.monotonic(), len(self.rows)

    def begin_stage(self, epochs: int) -> range:
        """Enter a stage of so many epochs. Returns those that are still to do, counted across stages."""
        self.start, self.end = self.end, self.end + epochs
        return range(max(self.start, len(self.rows)) + 1, self.end + 1)

    @property
    def is_in_stage(self) -> bool:
        """Whether an epoch of the stage at hand is done: then what was saved last belongs to it."""
        return len(self.rows) > self.start

    def add(self, row: Row) -> bool:
        """Returns whether it is the best so far."""
        self.rows.append(row)
        return self.best is row

    @property
    def best(self) -> Row:
        """The first of the best ones."""
        return best_by(self.rows, self.chosen_by)

    def is_over(self, patience: int) -> bool:
        """Whether no epoch was better in so many of this stage; never with a patience of 0."""
        if not patience or not self.rows:
            return False
        return len(self.rows) - max(self.start, self.best[EPOCH]) >= patience

    @property
    def seconds_left(self) -> float:
        """For the epochs to come, at the pace of those that this process has trained; nan before the first."""
        done = len(self.rows) - self._since
        if not done:
            return float("nan")
        return (time.monotonic() - self._begun) / done * (self.num_epochs - len(self.rows))


def best_by(rows: Sequence[Mapping[str, Any]], metric: str) -> Any:
    """The first of those epochs that are best by a metric (``metric_names.BY_CHOICE``)."""
    return min(rows, key=lambda row: metric_names.cost(row, metric))


def epoch_metrics(result: EpochResult, tasks: Tasks) -> Row:
    """Metrics of an epoch by name, and its number."""
    return {
        EPOCH: result.epoch,
        TRAIN_LOSS: result.train_loss,
        **split_metrics("val", result.val, tasks),
        REFINED_LOSS: result.val.refined_loss,
        **_temperatures(result.val, tasks),
        **metric_names.learning_rates(result.learning_rates),
        "images_per_second": result.images_per_second,
        "data_share": result.data_share,
        "epoch_seconds": result.epoch_seconds,
        **({metric_names.SKIPPED_STEPS: result.num_skipped} if result.num_skipped else {}),
    }


def _temperatures(found: Evaluation, tasks: Tasks) -> dict[str, float]:
    fitted = {task: found.temperatures[task.name].temperature for task in tasks if task.name in found.temperatures}
    return {metric_names.temperature(task): value for task, value in fitted.items() if not math.isnan(value)}


def split_metrics(split: str, found: Evaluation, tasks: Tasks) -> dict[str, float]:
    """An evaluation's loss and scores by name."""
    return metric_names.of_split(
        split, total_loss=found.loss, task_losses=found.task_losses, scores=found.scores, tasks=tasks
    )
