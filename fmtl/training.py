"""One training run, from loaders and keyword settings to a result, checkpoints and metrics."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from tqdm.notebook import tqdm_notebook

from fmtl import checkpoints, engine, plots
from fmtl.engine import EpochResult, Evaluation, Loader, Paced
from fmtl.errors import DataError
from fmtl.losses import MultiTaskLoss
from fmtl.models import MultiTaskNet
from fmtl.optim import Recipe, Updater
from fmtl.tasks import IGNORE_INDEX, Task
from fmtl.tracking.run import Run


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Some epochs of a training, with an optimizer and a schedule of their own.

    Attributes:
        net: What is trained: the job's network, or its heads alone on features.
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
class Job:
    """What to train and where its files go.

    Attributes:
        net: The network, on its device.
        tasks: In the order of the network's heads.
        stages: One after the other.
        test: Loader of ``(images, targets)``.
        loss: What is minimised.
        device: Where.
        settings: Written into checkpoints, by name.
        checkpoint_stem: Path of the checkpoints without ``_best.pt`` and ``_last.pt``; None keeps the best in
            memory and writes none.
        run: MLflow run to log metrics to as they come, or None.
        draw: Log the validation's confusion matrices as pictures too, each epoch a step.
    """

    net: MultiTaskNet
    tasks: Sequence[Task]
    stages: Sequence[Stage]
    test: Loader
    loss: MultiTaskLoss
    device: torch.device
    settings: Mapping[str, object] = field(default_factory=dict)
    checkpoint_stem: Path | None = None
    run: Run | None = None
    draw: bool = False

    @property
    def num_epochs(self) -> int:
        return sum(stage.recipe.epochs for stage in self.stages)

    def checkpoint(self, which: str) -> Path:
        return self.checkpoint_stem.with_name(f"{self.checkpoint_stem.name}_{which}.pt")


@dataclass(frozen=True)
class Outcome:
    """A finished training run; ``job.net`` holds the best epoch's weights.

    Attributes:
        history: Metrics per epoch by MLflow name, ``epoch`` (from 1) included.
        best: Those of the epoch with the lowest validation loss.
        test: Evaluation of the test split by that epoch's weights.
    """

    history: list[dict[str, float]]
    best: dict[str, float]
    test: Evaluation

    def final_metrics(self, tasks: Sequence[Task]) -> dict[str, float]:
        """What is logged once, at the end: ``best/...`` and ``test/...`` by MLflow name."""
        best = {f"best/{name}": value for name, value in self.best.items() if name.startswith("val/")}
        return {"best/epoch": self.best["epoch"], **best, **named_scores("test", self.test, tasks)}


def train(job: Job, *, resume: Mapping | None = None) -> Outcome:
    """Train, keep the epoch with the lowest validation loss, and evaluate the test split once with it.

    Args:
        resume: Content of a last checkpoint to go on from.

    Raises:
        Diverged: The loss is not finite.
        DataError: No validation image has a label.
    """
    job.loss.to(job.device)
    progress = _Progress(job, resume)
    for stage in job.stages:
        first = progress.begin(stage)
        if first > progress.end or progress.is_over(stage):  # done in an earlier attempt
            continue
        _train_stage(job, stage, progress, range(first, progress.end + 1))
    best = min(progress.history, key=lambda row: row["val/loss"])
    job.net.load_state_dict(progress.best_weights)
    test = engine.evaluate(job.net, job.test, loss=job.loss, device=job.device, watch=watch)
    return Outcome(progress.history, best, test)


class _Progress:
    """The epochs done so far, across stages.

    Attributes:
        history: Metrics of each.
        best_weights: Of the epoch with the lowest validation loss, on the CPU.
        end: Last epoch of the stage at hand.
        frames: Of the confusion matrices, by task name; empty where none are wanted.
    """

    def __init__(self, job: Job, resume: Mapping | None):
        self.history: list[dict[str, float]] = []
        self.best_weights: dict[str, Tensor] = {}
        self.end = self._start = 0
        self._num_epochs = job.num_epochs
        self._state: Mapping | None = None
        wanted = job.tasks if job.run and job.draw else ()
        self.frames = {task.name: plots.ConfusionFrames(task.name, task.classes) for task in wanted}
        self._begun, self._since = time.monotonic(), len(resume["training"]["history"]) if resume else 0
        if resume:
            job.net.load_state_dict(resume["model"])
            self.history = list(resume["training"]["history"])
            self.best_weights = checkpoints.load(job.checkpoint("best"))["model"]
            self._state = resume["training"]["updater"]
            job.loss.load_state_dict(self._state["loss"])

    def begin(self, stage: Stage) -> int:
        """Enter a stage. Returns its first epoch that is still to do."""
        self._start, self.end = self.end, self.end + stage.recipe.epochs
        if len(self.history) == self._start:
            self._state = None  # what was saved last belongs to the stage before
        return max(self._start, len(self.history)) + 1

    def restore(self, updater: Updater) -> None:
        if self._state is not None:
            updater.load_state_dict(self._state)

    def is_over(self, stage: Stage) -> bool:
        """Whether the patience ran out: no lower validation loss in so many epochs of this stage."""
        losses = [row["val/loss"] for row in self.history]
        patience = stage.recipe.patience
        return bool(patience and losses) and len(losses) - max(self._start, losses.index(min(losses)) + 1) >= patience

    def add(self, row: dict[str, float]) -> bool:
        """Returns whether it is the best so far."""
        is_best = all(row["val/loss"] < earlier["val/loss"] for earlier in self.history)
        self.history.append(row)
        return is_best

    @property
    def left(self) -> str:
        """How long the epochs to come will take, at the pace of those that this process has trained."""
        done = len(self.history) - self._since
        seconds = (time.monotonic() - self._begun) / max(done, 1) * (self._num_epochs - len(self.history))
        return f"{_duration(seconds)} left" if done and seconds else ""

    def watch(self, loader: Paced, what: str) -> Iterator:
        """``watch``, with the losses so far and the time that is left."""
        losses = [row["val/loss"] for row in self.history]
        note = f"val loss {losses[-1]:.3f} (best {min(losses):.3f}), {self.left}" if losses else ""
        return watch(
            loader, f"{what}/{self._num_epochs}" if what.startswith("epoch") else what, note.removesuffix(", ")
        )


def _train_stage(job: Job, stage: Stage, progress: _Progress, epochs: range) -> None:
    job.net.freeze_backbone(stage.frozen)
    updater = Updater(stage.net, job.loss, stage.recipe, num_batches=len(stage.train))
    progress.restore(updater)
    results = engine.fit(
        stage.net,
        stage.train,
        stage.val,
        recipe=stage.recipe,
        updater=updater,
        loss=job.loss,
        device=job.device,
        epochs=epochs,
        watch=progress.watch,
    )
    for result in results:
        if all((targets == IGNORE_INDEX).all() for targets in result.val.targets.values()):
            raise DataError("validation: no image has a label of any task, so that no epoch is better than another")
        row = epoch_metrics(result, job.tasks)
        is_best = progress.add(row)
        evaluated = job.net.state_dict() | updater.evaluated.state_dict()  # of heads alone only those
        if is_best:
            progress.best_weights = {k: v.detach().to("cpu", copy=True) for k, v in evaluated.items()}
        if job.checkpoint_stem:
            if is_best:
                _save(job, job.checkpoint("best"), row, evaluated)
            state = {"updater": updater.state_dict(), "history": progress.history}
            _save(job, job.checkpoint("last"), row, job.net.state_dict(), training=state)
        if job.run:
            log_epochs(job.run, [row])
        for task in job.tasks if progress.frames else ():
            frame = progress.frames[task.name].draw(result.val.confusion[task.name], epoch=result.epoch)
            job.run.log_image(frame, key=f"confusion/{task.slug}", step=result.epoch)
        print(_epoch_line(row, job.num_epochs, is_best, progress.left), flush=True)
        if progress.is_over(stage):
            print(f"stopped: no lower validation loss in {stage.recipe.patience} epochs", flush=True)
            return


def log_epochs(run: Run, history: Iterable[Mapping[str, float]]) -> None:
    """Log the metrics of epochs, each at its step."""
    for row in history:
        run.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=row["epoch"])


def _save(
    job: Job, path: Path, row: Mapping[str, float], model: Mapping[str, Tensor], training: Mapping | None = None
) -> None:
    checkpoints.save(
        path,
        model=model,
        tasks=job.tasks,
        settings=job.settings,
        epoch=row["epoch"],
        metrics=row,
        training=training,
    )


def watch(loader: Paced, what: str, note: str = "") -> Iterator:
    """The loader's batches under a ``bar`` with images per second and the share of time spent waiting for them.

    Args:
        note: Shown behind.
    """
    with bar(total=len(loader), desc=what, unit=" batches") as shown:
        for batch in loader:
            yield batch
            pace = f"{loader.images_per_second:.0f} images/s, data {loader.data_share:.0%}"
            shown.set_postfix_str(", ".join(filter(None, (pace, note))), refresh=False)
            shown.update()


def bar(*args: Any, **kwargs: Any) -> tqdm:
    """A progress bar that goes away: a widget in a notebook, a line in a terminal, nothing in a file."""
    off = False if issubclass(tqdm, tqdm_notebook) else None  # None: unless it is a terminal
    return tqdm(*args, **kwargs, leave=False, disable=off)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _epoch_line(row: Mapping[str, float], epochs: int, is_best: bool, left: str) -> str:
    end = f"{', ' + left if left else ''}{'  best' if is_best else ''}"
    return (
        f"epoch {row['epoch']}/{epochs}  train loss {row['train/loss']:.3f}  val loss {row['val/loss']:.3f}  "
        f"accuracy {row['val/avg/accuracy']:.3f}  F1 {row['val/avg/f1']:.3f}  {row['images_per_second']:.0f} images/s "
        f"(data {row['data_share']:.1%})  {row['epoch_seconds']:.0f} s{end}"
    )


def epoch_metrics(result: EpochResult, tasks: Sequence[Task]) -> dict[str, float]:
    """Metrics of an epoch by MLflow name, and ``epoch``."""
    rates = {f"learning_rate/{name}": rate for name, rate in result.learning_rates.items()}
    return {
        "epoch": result.epoch,
        "train/loss": result.train_loss,
        **named_scores("val", result.val, tasks),
        **rates,
        "images_per_second": result.images_per_second,
        "data_share": result.data_share,
        "epoch_seconds": result.epoch_seconds,
    }


def named_scores(split: str, evaluation: Evaluation, tasks: Sequence[Task]) -> dict[str, float]:
    """An evaluation's loss and scores by MLflow name: ``val/loss``, ``val/avg/f1``, ``val/<slug>/f1``, ..."""
    scores = evaluation.scores
    named = {f"{split}/loss": evaluation.loss}
    for key, name in (("avg", "avg"), *((task.slug, task.name) for task in tasks)):
        named |= {f"{split}/{key}/{score}": value for score, value in scores[name].items()}
        if name in evaluation.task_losses:
            named[f"{split}/{key}/loss"] = evaluation.task_losses[name]
    return named
