"""One training, epoch by epoch: who iterates over it logs, saves, draws and stops."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fmtl import interruption
from fmtl.errors import DataError
from fmtl.loading.pacing import Loader
from fmtl.metric_names import BEST_EPOCH, BY_CHOICE, EPOCH, best, calibration_error, called, of_val
from fmtl.model.confidence import temperature
from fmtl.model.network import MultiTaskNet
from fmtl.tasks import IGNORE_INDEX, Task, Tasks
from fmtl.together import collectives
from fmtl.training import engine, evaluating
from fmtl.training.criterion import MultiTaskLoss
from fmtl.training.engine import Between
from fmtl.training.evaluating import Evaluation
from fmtl.training.history import History, Row, epoch_metrics, split_metrics
from fmtl.training.optim import Recipe, Updater
from fmtl.training.position import Position
from fmtl.training.progress import Watch, time_left, unwatched
from fmtl.training.skipping import SkippedStep


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Some epochs of a training, with an optimizer and a schedule of their own.

    Attributes:
        net: What is trained: the training's network, or its heads alone on features.
        train, val: Loaders of ``(images, targets)``, or of features instead of images.
        recipe: How to train; its epochs are those of this stage.
        frozen: The backbone stays as it is.
    """

    net: MultiTaskNet
    train: Loader
    val: Loader
    recipe: Recipe
    frozen: bool = False


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What one epoch gave. ``Training`` stands at its end until the next one is asked for.

    Attributes:
        epoch: From 1, across stages.
        metrics: By name, ``epoch`` included.
        val: Evaluation of the validation split.
        is_best: No epoch before was as good.
        seconds_left: Estimate for the epochs to come; nan where there is none.
        stopped_after: Epochs without a better one after which this stage ends here; 0 if it goes on.
    """

    epoch: int
    metrics: Row
    val: Evaluation
    is_best: bool
    seconds_left: float
    stopped_after: int = 0


@dataclass(frozen=True)
class TrainResult:
    """A finished training; its network holds the best epoch's weights.

    Attributes:
        history: Metrics per epoch by name, ``epoch`` (from 1) included.
        best: Those of the best epoch.
        test: Evaluation of the test split by that epoch's weights.
        tasks: In the order of the network's heads.
        chosen_by: Name of the metric that the best epoch was chosen by.
        val: Evaluation of the validation split under the temperatures, where they were fitted.
        temperatures: By task name, what ``test`` and the network have.
        test_seconds: That the test took, decoding left out.
    """

    history: list[Row]
    best: Row
    test: Evaluation
    tasks: Tasks
    chosen_by: str
    val: Evaluation | None = None
    temperatures: Mapping[str, float] = field(default_factory=dict)
    test_seconds: float = math.nan

    @property
    def best_epoch(self) -> int:
        return self.best[EPOCH]

    @property
    def final_metrics(self) -> dict[str, float]:
        """What is logged once, at the end: ``best/...`` and ``test/...``."""
        chosen = {best(name): value for name, value in of_val(self.best).items()}
        errors = {calibration_error("test", task): value for task, (_, value) in self.calibration_errors.items()}
        return {BEST_EPOCH: self.best_epoch, **chosen, **split_metrics("test", self.test, self.tasks), **errors}

    @cached_property
    def calibration_errors(self) -> dict[Task, tuple[float, float]]:
        """Expected calibration errors on test, without temperatures and with them, of the tasks that have labels."""
        found = {}
        for task in self.tasks:
            now = self.test.calibration_error(task.name)
            if task.name not in self.test.own and now is not None:
                scale = 1 / self.temperatures.get(task.name, 1.0)
                before = self.test if scale == 1 else self.test.rescaled({task.name: scale}, {})
                found[task] = (before.calibration_error(task.name) or 0.0, now)
        return found


@dataclass(frozen=True)
class Resumed:
    """What it takes to go on with a training whose network holds its last weights again.

    Attributes:
        history: Metrics of the epochs done.
        updater: State of what moves the weights; None where the stages to come have one of their own.
        best_weights: Of the best of those epochs; empty before the first.
        position: In the epoch that is not over, if there is one.
    """

    history: Sequence[Mapping[str, Any]]
    updater: Mapping[str, Any] | None
    best_weights: Mapping[str, Tensor]
    position: Mapping[str, Any] | None = None


class Training:
    """Stages of epochs on one network.

    Args:
        net: The network, on its device.
        tasks: In the order of the network's heads.
        stages: One after the other.
        loss: What is minimised.
        choose_by: What the best epoch is chosen by; see ``metric_names.BY_CHOICE``.
        resumed: Of an earlier attempt.
        before: Epochs of another training that this one goes on from: they belong to no stage.
    """

    def __init__(
        self,
        net: MultiTaskNet,
        tasks: Tasks,
        stages: Sequence[Stage],
        *,
        loss: MultiTaskLoss,
        device: torch.device,
        choose_by: str = "loss",
        resumed: Resumed | None = None,
        before: int = 0,
    ):
        self.net, self.tasks, self.stages, self.device = net, tasks, stages, device
        self.loss = loss.to(device)
        self._before = before
        num_epochs = before + sum(stage.recipe.epochs for stage in stages)
        self.history = History(num_epochs, BY_CHOICE[choose_by], resumed.history if resumed else ())
        self._best_weights: Mapping[str, Tensor] = resumed.best_weights if resumed else {}
        self._saved: Mapping[str, Any] | None = resumed.updater if resumed else None
        self._updater: Updater | None = None
        self._position = Position(device)
        self._goes_on_at = 0  # the epoch in which an earlier process was interrupted
        self._can_stop_within = False
        if self._saved is not None:
            self.loss.load_state_dict(self._saved["loss"])
        if resumed and resumed.position:
            self._position.load_state_dict(resumed.position)
            self._goes_on_at = resumed.position["epoch"]

    def epochs(
        self,
        watch: Watch = unwatched,
        *,
        at_step: Callable[[], object] = interruption.check,
        on_skip: Callable[[SkippedStep], SkippedStep] = lambda step: step,
    ) -> Iterator[EpochRecord]:
        """Train what is still to do, one epoch each time the next record is asked for.

        Args:
            at_step: See there; ``state`` and the weights agree when it is called.
            on_skip: See ``engine.Between``.

        Raises:
            Diverged: The loss is not finite.
            DataError: No validation image has a label.
        """
        self.history.begin_stage(self._before)
        for stage in self.stages:
            to_do = self.history.begin_stage(stage.recipe.epochs)
            if not self.history.is_in_stage and self._goes_on_at not in to_do:
                self._saved = None  # what was saved last belongs to the stage before
            if to_do and not self.history.is_over(stage.recipe.patience):
                yield from self._train(stage, to_do, watch, at_step, on_skip)

    def _train(
        self,
        stage: Stage,
        epochs: range,
        watch: Watch,
        at_step: Callable[[], object],
        on_skip: Callable[[SkippedStep], SkippedStep],
    ) -> Iterator[EpochRecord]:
        self.net.freeze_backbone(stage.frozen)
        self._updater = updater = Updater(stage.net, self.loss, stage.recipe, num_batches=len(stage.train))
        self._can_stop_within = hasattr(stage.train, "after")
        if self._saved is not None:
            updater.load_state_dict(dict(self._saved))
        results = engine.fit(
            stage.net,
            stage.train,
            stage.val,
            recipe=stage.recipe,
            updater=updater,
            loss=self.loss,
            device=self.device,
            epochs=epochs,
            between=Between(self._position, at_step, on_skip),
            watch=lambda loader, what: watch(loader, self._heading(what), self._so_far),
        )
        for counted in results:
            result = replace(counted, val=counted.val.averaged_over(self.tasks))
            if all((targets == IGNORE_INDEX).all() for targets in result.val.targets.values()):
                raise DataError(
                    "no image has a label of any task, so that no epoch is better than another", where="validation"
                )
            row = collectives.hand_out(
                epoch_metrics(result, self.tasks)
            )  # on another machine the last digit may differ
            is_best = self.history.add(row)
            if is_best and collectives.place().is_first:
                self._best_weights = {k: v.detach().to("cpu", copy=True) for k, v in self.evaluated_weights.items()}
            over = self.history.is_over(stage.recipe.patience)
            yield EpochRecord(
                epoch=result.epoch,
                metrics=row,
                val=result.val,
                is_best=is_best,
                seconds_left=self.history.seconds_left,
                stopped_after=stage.recipe.patience if over else 0,
            )
            if over:
                return

    @property
    def evaluated_weights(self) -> dict[str, Tensor]:
        """What the last epoch was evaluated with: the weights, or their moving average where there is one."""
        if self._updater is None:
            return self.net.state_dict()
        return self.net.state_dict() | self._updater.evaluated.state_dict()  # of heads alone only those

    @property
    def best_weights(self) -> Mapping[str, Tensor]:
        """Of the best epoch so far, on the CPU."""
        return self._best_weights

    @property
    def state(self) -> dict[str, Any]:
        """What ``Resumed`` needs besides the best weights, as a checkpoint keeps it; all that train together must ask
        for it."""
        if self._updater is None:
            raise AssertionError("no step was taken: there is nothing to go on from")
        position = self._position.state_dict() if self._position.is_within else None
        return {"updater": self._updater.state_dict(), "history": self.history.rows, "position": position}

    def settle(self) -> None:
        """Make sure that ``state`` and the weights agree."""
        self._position.settle()

    @property
    def can_be_kept(self) -> bool:
        """Whether ``state`` is one that a training can go on from: in an epoch, not every loader can."""
        return self._updater is not None and (self._can_stop_within or not self._position.is_within)

    def finish(
        self,
        test: Loader,
        watch: Watch = unwatched,
        *,
        val: Loader | None = None,
        groups: np.ndarray | None = None,
    ) -> TrainResult:
        """Take the weights of the best epoch, and evaluate the test split once with them.

        Args:
            val: The validation split, for a temperature per task; None to leave confidences as they are.
            groups: Of its images, equal for twins.
        """
        if collectives.place().is_first:
            self.net.load_state_dict(self._best_weights)
        collectives.spread(self.net)
        calibrated = None if val is None or groups is None else self._calibrate(self._evaluated(val, watch), groups)
        since = time.monotonic()
        found = self._evaluated(test, watch).averaged_over(self.tasks)
        return TrainResult(
            self.history.rows, self.history.best, found, self.tasks, self.history.chosen_by, calibrated,
            dict(self.net.temperatures), time.monotonic() - since,
        )  # fmt: skip

    def _evaluated(self, loader: Loader, watch: Watch) -> Evaluation:
        return evaluating.evaluate(
            self.net, loader, loss=self.loss, device=self.device,
            watch=lambda loader, what: interruption.checked(watch(loader, what, ""), collectives.check),
        )  # fmt: skip

    def _calibrate(self, found: Evaluation, groups: np.ndarray) -> Evaluation:
        """Give the network temperatures that lower the loss of images that they were not fitted on. Returns the
        evaluation under them."""
        fitted = {
            name: temperature.cross_fitted(probs, found.targets[name], groups)
            for name, probs in found.probs.items()
            if name not in found.own
        }
        self.net.calibrate({name: value for name, value in fitted.items() if value != 1})
        return found.rescaled(self.net.temperatures, {n: t.cpu().numpy() for n, t in self.net.thresholds_of.items()})

    def _heading(self, what: str) -> str:
        return f"{what}/{self.history.num_epochs}" if what.startswith("epoch") else what

    @property
    def _so_far(self) -> str:
        """The losses so far and the time that is left, to stand behind a bar."""
        if not self.history.rows:
            return ""
        chosen_by = self.history.chosen_by
        last, chosen = self.history.rows[-1][chosen_by], self.history.best[chosen_by]
        told = f"{called(chosen_by)} {last:.3f} (best {chosen:.3f})"
        return ", ".join(filter(None, (told, time_left(self.history.seconds_left))))
