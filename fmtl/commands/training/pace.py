"""How long the parts of a training take on this machine, by doing a few of each."""

import io
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from fmtl.commands.publisher import MOST_IN_FRAMES
from fmtl.commands.training.work import Work
from fmtl.loading.batches import Batch
from fmtl.loading.pacing import Paced
from fmtl.reports import plots
from fmtl.reports.plots import ConfusionFrames
from fmtl.training import checkpoints, engine, evaluating
from fmtl.training.evaluating import Evaluation
from fmtl.training.metrics import Confusion
from fmtl.training.optim import Updater
from fmtl.training.run import Stage

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
        kept: Of the checkpoints and pictures of an epoch.
        figure: Of one of the pictures at the end.
    """

    trained: float
    evaluated: float
    kept: float
    figure: float

    def epoch(self, num_trained: int, num_evaluated: int) -> float:
        return self.trained * num_trained + self.evaluated * num_evaluated + self.kept

    def at(self, px: int, of: int) -> "Pace":
        """A guess for another side of the input: what a network does goes by the area.

        Args:
            of: Side that was timed.
        """
        area = (px / of) ** 2
        return replace(self, trained=self.trained * area, evaluated=self.evaluated * area)


def measure(work: Work) -> Pace:
    """Time real steps. The network's weights are other ones afterwards."""
    stage = work.data.stages()[-1]
    updater = Updater(stage.net, work.setup.loss, stage.recipe, num_batches=len(stage.train))
    _train(work, stage, updater, islice(stage.train, FIRST_BATCHES))
    timed = _Timed(stage.train)
    _train(work, stage, updater, timed)
    trained = timed.seconds / timed.num_images
    _evaluate(work, stage, 1)
    evaluated, found = _seconds(lambda: _evaluate(work, stage, EVALUATED_BATCHES))
    num_evaluated = len(next(iter(found.targets.values())))
    kept, figure = _seconds(lambda: _save(work, updater))[0], 0.0
    if work.settings.extra_plots:
        kept, figure = kept + _frames(work, found), _figure(work, found)
    return Pace(trained, evaluated / num_evaluated, kept, figure)


def _train(work: Work, stage: Stage, updater: Updater, batches: Iterable[Batch]) -> None:
    """Returns when the device is done: the mean loss was read."""
    engine.train_one_epoch(
        stage.net, Paced(batches), recipe=stage.recipe, updater=updater, loss=work.setup.loss, device=work.setup.device
    )


class _Timed:
    """So many batches as the clock asks for."""

    def __init__(self, batches: Iterable[Batch]):
        self._batches, self.num_images, self._started = batches, 0, 0.0

    def __iter__(self) -> Iterator[Batch]:
        self._started = time.monotonic()
        for number, batch in enumerate(self._batches):
            if number >= LEAST_BATCHES and self.seconds >= LEAST_SECONDS:
                return
            self.num_images += len(batch[0])
            yield batch

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started


def _evaluate(work: Work, stage: Stage, num_batches: int) -> Evaluation:
    return evaluating.evaluate(
        stage.net, islice(stage.val, num_batches), loss=work.setup.loss, device=work.setup.device
    )


def _save(work: Work, updater: Updater) -> None:
    """What an epoch that is the best so far has written."""
    if not work.settings.save_checkpoints:
        return
    with TemporaryDirectory() as folder:
        for name, state in (("best", None), ("last", {"updater": updater.state_dict()})):
            checkpoints.save(
                Path(folder) / f"{name}.pt", model=work.setup.net.state_dict(), tasks=work.setup.tasks, settings={},
                epoch=1, metrics={}, training=state,
            )  # fmt: skip


def _frames(work: Work, found: Evaluation) -> float:
    """Seconds of an epoch's pictures."""
    total = 0.0
    for task in work.dataset.tasks:
        if task.num_classes <= MOST_IN_FRAMES:
            total += _second(partial(_frame, ConfusionFrames(task.name, task.classes), found.confusion[task.name]))
    return total


def _frame(frames: ConfusionFrames, counts: Confusion) -> None:
    frames.draw(counts, epoch=1).save(io.BytesIO(), "PNG")


def _figure(work: Work, found: Evaluation) -> float:
    """Seconds of one of the middling ones."""
    task = sorted(work.dataset.tasks, key=lambda task: task.num_classes)[len(work.dataset.tasks) // 2]
    with TemporaryDirectory() as folder:
        return _second(
            lambda: plots.save(
                Path(folder) / "figure.png", plots.confusion(found.confusion[task.name], task.classes, title="")
            )
        )


def _second(do: Callable[[], object]) -> float:
    """Seconds of the second time: the first makes what all others share."""
    do()
    return _seconds(do)[0]


def _seconds(do: Callable[[], T]) -> tuple[float, T]:
    started = time.monotonic()
    found = do()
    return time.monotonic() - started, found
