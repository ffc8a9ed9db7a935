"""How long the parts of a training take on this machine, by doing a few of each."""

import contextlib
import io
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from typing import TypeVar

from fmtl.commands.publisher import MOST_IN_FRAMES
from fmtl.commands.training.work import Work
from fmtl.errors import EnvironmentFault
from fmtl.loading.batches import Batch
from fmtl.loading.pacing import Paced
from fmtl.reports import plots
from fmtl.reports.plots import ConfusionFrames
from fmtl.storage import durable
from fmtl.training import checkpoints, engine, evaluating
from fmtl.training.evaluating import Evaluation
from fmtl.training.history import split_metrics
from fmtl.training.metrics import Confusion
from fmtl.training.optim import Updater

T = TypeVar("T")

FIRST_BATCHES = 2  # they pay for what is made once
LEAST_BATCHES, LEAST_SECONDS = 4, 2.0  # of those that count
EVALUATED_BATCHES = 2


@dataclass(frozen=True)
class Pace:
    """Seconds that the parts of a training take.

    Attributes:
        trained: Of an image in training, with its loading.
        evaluated: Of an image without gradients.
        kept: Of what is written and drawn of an epoch.
        figure: Of one of the pictures at the end.
    """

    trained: float
    evaluated: float
    kept: float
    figure: float

    def epoch(self, num_trained: int, num_evaluated: int) -> float:
        return self.trained * num_trained + self.evaluated * num_evaluated + self.kept

    def times(self, factor: float) -> "Pace":
        """Of a network whose photos take so many times as long."""
        return replace(self, trained=self.trained * factor, evaluated=self.evaluated * factor)


def measure(work: Work) -> Pace:
    """Time real steps. The network's weights are other ones afterwards."""
    stage = work.data.stages()[-1]
    recipe, loss = replace(stage.recipe, accumulate=1), work.setup.loss.to(work.setup.device)
    updater = Updater(stage.net, loss, recipe, num_batches=len(stage.train))

    def train(batches: Iterable[Batch]) -> None:  # returns when the device is done: the mean loss was read
        engine.train_one_epoch(
            stage.net, Paced(batches), recipe=recipe, updater=updater, loss=loss, device=work.setup.device
        )

    def evaluate(num_batches: int) -> Evaluation:
        found = evaluating.evaluate(
            updater.evaluated, islice(stage.val, num_batches), loss=loss, device=work.setup.device
        )
        split_metrics("val", found, work.dataset.tasks)
        return found

    train(islice(stage.train, FIRST_BATCHES))
    timed = _Timed(stage.train)
    train(timed)
    trained = timed.seconds / timed.num_images
    evaluate(1)
    evaluated, found = _seconds(lambda: evaluate(EVALUATED_BATCHES))
    refined, _ = _seconds(lambda: found.refined_loss)
    num_evaluated = len(next(iter(found.targets.values())))
    kept = _seconds(lambda: _save(work, updater))[0] + refined * len(stage.val) / EVALUATED_BATCHES
    if work.settings.extra_plots:
        kept += _frames(work, found)
    return Pace(trained, evaluated / num_evaluated, kept, _figure(work, found))


class _Timed:
    """So many batches as the clock asks for."""

    def __init__(self, batches: Iterable[Batch]):
        self._batches, self.num_images, self._started = batches, 0, 0.0

    def __iter__(self) -> Iterator[Batch]:
        self._started = time.monotonic()
        batches = iter(self._batches)
        for number in count():
            if number >= LEAST_BATCHES and self.seconds >= LEAST_SECONDS:
                return
            if (batch := next(batches, None)) is None:
                return
            self.num_images += len(batch[0])
            yield batch

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started


def _save(work: Work, updater: Updater) -> None:
    """What an epoch that is the best so far has written."""
    if not work.settings.save_checkpoints:
        return
    with contextlib.suppress(OSError, EnvironmentFault), durable.temporary_folder() as folder:
        for name, state in (("best", None), ("last", {"updater": updater.state_dict()})):
            checkpoints.save(
                folder / f"{name}.pt", model=work.setup.net.state_dict(), tasks=work.setup.tasks, settings={},
                epoch=1, metrics={}, training=state,
            )  # fmt: skip


def _frames(work: Work, found: Evaluation) -> float:
    """Seconds of an epoch's pictures."""
    total = 0.0
    for task in work.dataset.tasks:
        if not task.is_set and task.num_classes <= MOST_IN_FRAMES:
            total += _second(partial(_frame, ConfusionFrames(task.name, task.classes), found.confusion[task.name]))
    return total


def _frame(frames: ConfusionFrames, counts: Confusion) -> None:
    frames.draw(counts, epoch=1).save(io.BytesIO(), "PNG")


def _figure(work: Work, found: Evaluation) -> float:
    """Seconds of one of the middling ones."""
    task = sorted(work.dataset.tasks, key=lambda task: task.num_classes)[len(work.dataset.tasks) // 2]
    counts = found.mistakes(task.name)
    with durable.temporary_folder() as folder:
        return _second(lambda: plots.save(folder / "figure.png", plots.confusion(counts, task.classes, title="")))


def _second(do: Callable[[], object]) -> float:
    """Seconds of the second time: the first makes what all others share."""
    do()
    return _seconds(do)[0]


def _seconds(do: Callable[[], T]) -> tuple[float, T]:
    started = time.monotonic()
    found = do()
    return time.monotonic() - started, found
