"""Where a training's epochs go: a list of publishers, each of which takes every ``EpochRecord``.

``train`` and the notebook functions choose from the same ones.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fmtl.metric_names import EPOCH, TRAIN_LOSS, VAL_LOSS, score
from fmtl.reports.plots import ConfusionFrames
from fmtl.tasks import Tasks
from fmtl.tracking.recording import Recorded
from fmtl.training import checkpoints
from fmtl.training.history import Row
from fmtl.training.progress import time_left, watch
from fmtl.training.run import EpochRecord, Training

MOST_IN_FRAMES = 300  # classes
Publisher = Callable[[EpochRecord], None]


def publish(training: Training, publishers: Iterable[Publisher]) -> None:
    """Train to the end, under progress bars, and hand each epoch to every publisher."""
    for record in training.epochs(watch):
        for take in publishers:
            take(record)


@dataclass(frozen=True)
class CheckpointFiles:
    """``<stem>_best.pt`` and ``<stem>_last.pt``.

    Attributes:
        stem: Path without the ends of their names.
        settings: Written into them, by name.
    """

    stem: Path
    settings: Mapping[str, Any]

    def path(self, which: str) -> Path:
        return self.stem.with_name(f"{self.stem.name}_{which}.pt")

    def of(self, training: Training) -> Publisher:
        """Writes the best epoch's weights where this is it, and all that it takes to go on."""

        def save(record: EpochRecord) -> None:
            if record.is_best:
                self.save_best(training.evaluated_weights, training.tasks, record.metrics)
            self._save("last", training.net.state_dict(), training.tasks, record.metrics, training.state)

        return save

    def save_best(self, model: Mapping[str, Tensor], tasks: Tasks, metrics: Row) -> None:
        """Write the best epoch's weights alone."""
        self._save("best", model, tasks, metrics)

    def _save(
        self,
        which: str,
        model: Mapping[str, Tensor],
        tasks: Tasks,
        metrics: Row,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        checkpoints.save(
            self.path(which),
            model=model,
            tasks=tasks,
            settings=self.settings,
            epoch=metrics[EPOCH],
            metrics=metrics,
            training=state,
        )


def metrics_to(run: Recorded) -> Publisher:
    """Logs the metrics of each epoch at its step."""
    return lambda record: log_epochs(run, [record.metrics])


def log_epochs(run: Recorded, history: Iterable[Row]) -> None:
    for row in history:
        run.log_metrics({k: v for k, v in row.items() if k != EPOCH}, step=row[EPOCH])


def frames_to(run: Recorded, tasks: Tasks) -> Publisher:
    """Logs the validation's confusion matrices as a series of pictures per task, each epoch a step.

    Not of tasks with more than ``MOST_IN_FRAMES`` classes, where nothing could be told apart.
    """
    drawn = [task for task in tasks if task.num_classes <= MOST_IN_FRAMES]
    frames = {task.name: ConfusionFrames(task.name, task.classes) for task in drawn}

    def draw(record: EpochRecord) -> None:
        for task in drawn:
            picture = frames[task.name].draw(record.val.confusion[task.name], epoch=record.epoch)
            run.log_image(picture, key=f"confusion/{task.slug}", step=record.epoch)

    return draw


def lines_to(say: Callable[[str], object], num_epochs: int) -> Publisher:
    """Says each epoch in a line, and that the patience ran out."""

    def tell(record: EpochRecord) -> None:
        say(_line(record, num_epochs))
        if record.stopped_after:
            say(f"stopped: no lower validation loss in {record.stopped_after} epochs")

    return tell


def _line(record: EpochRecord, num_epochs: int) -> str:
    row, left = record.metrics, time_left(record.seconds_left)
    end = f"{', ' + left if left else ''}{'  best' if record.is_best else ''}"
    accuracy, f1 = (row[score("val", None, name)] for name in ("accuracy", "f1"))
    return (
        f"epoch {record.epoch}/{num_epochs}  train loss {row[TRAIN_LOSS]:.3f}  val loss {row[VAL_LOSS]:.3f}  "
        f"accuracy {accuracy:.3f}  F1 {f1:.3f}  {row['images_per_second']:.0f} images/s "
        f"(data {row['data_share']:.1%})  {row['epoch_seconds']:.0f} s{end}"
    )
