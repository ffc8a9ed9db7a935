"""Where a training's epochs go: a list of publishers, each of which takes every ``EpochRecord``.

``train`` and the notebook functions choose from the same ones.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fmtl import interruption
from fmtl.errors import EnvironmentFault
from fmtl.metric_names import EPOCH, REFINED_LOSS, SKIPPED_STEPS, TRAIN_LOSS, VAL_LOSS, in_words, score
from fmtl.reports.plots import ConfusionFrames
from fmtl.tasks import Tasks
from fmtl.together import collectives
from fmtl.tracking.recording import Recorded
from fmtl.training import checkpoints, skipping
from fmtl.training.checkpoints import Checkpoint
from fmtl.training.history import Row
from fmtl.training.progress import time_left, watch
from fmtl.training.run import EpochRecord, Training
from fmtl.training.skipping import SkippedStep

log = logging.getLogger(__name__)

MOST_STEPS_KEPT = 3  # of those that were not taken: each is as large as the network
MOST_OFTEN = 20  # times the seconds of a save are between two within an epoch, at least
MOST_IN_FRAMES = 300  # classes
Publisher = Callable[[EpochRecord], None]


def publish(
    training: Training,
    publishers: Iterable[Publisher],
    *,
    keeper: "Keeper | None" = None,
    on_skip: Callable[[SkippedStep], SkippedStep] = lambda step: step,
    ends_after: Callable[[EpochRecord], bool] | None = None,
) -> None:
    """Train to the end, under progress bars, and hand each epoch to every publisher.

    A signal that asks for the end is answered between two steps, when what is done is on the disk.

    Args:
        keeper: Writes checkpoints, before anything else is done with an epoch.
        on_skip: Takes every step that is not taken.
        ends_after: Whether an epoch is to be the last, though more were planned.
    """
    at_step = keeper.at_step if keeper else collectives.check
    takers = [keeper.keep, *publishers] if keeper else list(publishers)
    with interruption.deferred():
        for record in training.epochs(watch, at_step=at_step, on_skip=on_skip):
            for take in takers:
                take(record)
            collectives.check()
            if ends_after and ends_after(record):
                break


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

    def generations(self, which: str) -> Iterator[tuple[Path, Checkpoint]]:
        """See ``checkpoints.generations``."""
        return checkpoints.generations(self.path(which))

    def save_best(self, model: Mapping[str, Tensor], tasks: Tasks, metrics: Row) -> None:
        """Write the best epoch's weights alone."""
        self._save("best", model, tasks, metrics)

    def save_last(self, model: Mapping[str, Tensor], tasks: Tasks, metrics: Row, state: Mapping[str, Any]) -> None:
        """Write the weights of now, and all that it takes to go on with them.

        Args:
            metrics: Of the last whole epoch; empty before the first.
        """
        self._save("last", model, tasks, metrics, state)

    def settle(self) -> None:
        """The training is over: of its checkpoints the last generation is enough."""
        for which in ("best", "last"):
            if self.path(which).is_file():
                checkpoints.forget_older(self.path(which))

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
            epoch=metrics.get(EPOCH, 0),
            metrics=metrics,
            training=state,
        )


class Keeper:
    """Keeps a training on the disk: after each epoch, every so many minutes, and when a signal asks for the end.

    Args:
        files: None for one that follows another process, which writes them.
        more: What checkpoints say besides the training's own state.
        minutes: Between two checkpoints within an epoch; 0 for none there.
    """

    def __init__(
        self, files: CheckpointFiles | None, training: Training, *, more: Mapping[str, Any], minutes: float = 0
    ):
        self._files, self._training, self._more, self._seconds = files, training, dict(more), 60 * minutes
        self._saved, self._took = time.monotonic(), 0.0

    def keep(self, record: EpochRecord) -> None:
        """Write what an epoch has brought: its weights, where it is the best, and the state."""
        if self._files is None:
            return
        if record.is_best:
            self._files.save_best(self._training.evaluated_weights, self._training.tasks, record.metrics)
        self._save()

    def at_step(self) -> None:
        """Between two steps: write the state where it is time, or the end is asked for."""
        wait = max(self._seconds, MOST_OFTEN * self._took)  # on a slow disk less often
        is_due = self._seconds > 0 and time.monotonic() - self._saved >= wait
        is_asked, is_due = collectives.any_of(interruption.is_asked(), is_due)
        if (is_due or is_asked) and self._training.can_be_kept:
            self._save()
            log.debug("saved within epoch %d, in %.1f s", len(self._training.history.rows) + 1, self._took)
        collectives.check(is_asked=is_asked)

    def _save(self) -> None:
        started = time.monotonic()
        self._training.settle()
        rows = self._training.history.rows
        state = self._training.state | self._more
        if self._files is None:
            return
        self._files.save_last(self._training.net.state_dict(), self._training.tasks, rows[-1] if rows else {}, state)
        self._saved = time.monotonic()
        self._took = self._saved - started


def skipped_to(folder: Path) -> Callable[[SkippedStep], SkippedStep]:
    """Says that a step was not taken; of the first ones keeps, in a folder, all that it takes to repeat it."""
    num = 0

    def take(step: SkippedStep) -> SkippedStep:
        nonlocal num
        num += 1
        if num <= MOST_STEPS_KEPT:
            path = folder / f"epoch-{step.epoch}-batch-{step.first_batch}.pt"
            try:
                skipping.save(path, step)
                share = " (this process's share of the batch)" if collectives.size() > 1 else ""
                kept = f"Kept to be repeated{share}: {path}"
            except EnvironmentFault as fault:
                kept = f"It could not be kept: {fault}"
            log.warning("%s; the step is not taken. %s", step, kept)
        return step

    return take


def metrics_to(run: Recorded, *, but: Collection[int] = ()) -> Publisher:
    """Logs the metrics of each epoch at its step.

    Args:
        but: Epochs that are recorded already, of a run that begins anew.
    """
    return lambda record: log_epochs(run, [] if record.epoch in but else [record.metrics])


def log_epochs(run: Recorded, history: Iterable[Row]) -> None:
    for row in history:
        run.log_metrics({k: v for k, v in row.items() if k != EPOCH}, step=row[EPOCH])


def frames_to(run: Recorded, tasks: Tasks) -> Publisher:
    """Logs the validation's confusion matrices as a series of pictures per task, each epoch a step.

    Not of sets, which have none, and of tasks with more than ``MOST_IN_FRAMES`` classes, where nothing could be told
    apart.
    """
    drawn = [task for task in tasks if not task.is_set and task.num_classes <= MOST_IN_FRAMES]
    frames = {task.name: ConfusionFrames(task.name, task.classes) for task in drawn}

    def draw(record: EpochRecord) -> None:
        for task in drawn:
            picture = frames[task.name].draw(record.val.confusion[task.name], epoch=record.epoch)
            run.log_image(picture, key=f"confusion/{task.slug}", step=record.epoch)

    return draw


def lines_to(say: Callable[[str], object], num_epochs: int, chosen_by: str) -> Publisher:
    """Says each epoch in a line, and that the patience ran out.

    Args:
        chosen_by: Name of the metric that the best epoch is chosen by.
    """

    def tell(record: EpochRecord) -> None:
        say(_line(record, num_epochs, chosen_by))
        if record.stopped_after:
            say(f"stopped: no {in_words(chosen_by, more=True)} in {record.stopped_after} epochs")

    return tell


def _line(record: EpochRecord, num_epochs: int, chosen_by: str) -> str:
    row, left = record.metrics, time_left(record.seconds_left)
    refined = f" (refined {row[chosen_by]:.3f})" if chosen_by == REFINED_LOSS else ""
    skipped = f"  {row[SKIPPED_STEPS]} steps not finite, not taken" if SKIPPED_STEPS in row else ""
    end = f"{', ' + left if left else ''}{'  best' if record.is_best else ''}{skipped}"
    accuracy, f1 = (row[score("val", None, name)] for name in ("accuracy", "f1"))
    return (
        f"epoch {record.epoch}/{num_epochs}  train loss {row[TRAIN_LOSS]:.3f}  val loss {row[VAL_LOSS]:.3f}{refined}  "
        f"accuracy {accuracy:.3f}  F1 {f1:.3f}  {row['images_per_second']:.0f} images/s "
        f"(data {row['data_share']:.1%})  {row['epoch_seconds']:.0f} s{end}"
    )
