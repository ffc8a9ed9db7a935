"""One training run, from loaders and keyword settings to a result, checkpoints, artifacts and metrics."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fmtl import checkpoints, durable, engine, metrics, plots, tables
from fmtl.engine import EpochResult, Evaluation, Loader
from fmtl.hardware import MEMORY_FORMAT
from fmtl.losses import Criterion
from fmtl.models import MultiTaskNet
from fmtl.optim import Recipe, build_optimizer, build_schedule
from fmtl.predictor import top_labels
from fmtl.tasks import IGNORE_INDEX, Task, tasks_to_json
from fmtl.tracking.run import Run


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train and where its files go.

    Attributes:
        net: The network, on any device.
        tasks: In the order of the network's heads.
        train, val, test: Loaders of ``(images, targets)``.
        recipe: How to train.
        device: Where.
        criterions: Loss by task name; tasks without one use masked cross-entropy.
        settings: Written into checkpoints, by name.
        checkpoint_stem: Path of the checkpoints without ``_best.pt`` and ``_last.pt``; None keeps the best in
            memory and writes none.
        run: MLflow run to log metrics to as they come, or None.
    """

    net: MultiTaskNet
    tasks: Sequence[Task]
    train: Loader
    val: Loader
    test: Loader
    recipe: Recipe
    device: torch.device
    criterions: Mapping[str, Criterion] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    checkpoint_stem: Path | None = None
    run: Run | None = None

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
    """
    history, best_weights = _fit(job, resume)
    best = min(history, key=lambda row: row["val/loss"])
    job.net.load_state_dict(best_weights)
    test = engine.evaluate(job.net, job.test, criterions=job.criterions, device=job.device, watch=watch)
    return Outcome(history, best, test)


def _fit(job: Job, resume: Mapping | None) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Train to the last epoch. Returns the metrics of each and the weights of the best."""
    job.net.to(job.device, memory_format=MEMORY_FORMAT)
    optimizer = build_optimizer(job.net, job.recipe)
    schedule = build_schedule(optimizer, job.recipe, len(job.train))
    history: list[dict[str, float]] = []
    best_weights: dict[str, Tensor] = {}
    if resume:
        job.net.load_state_dict(resume["model"])
        optimizer.load_state_dict(resume["training"]["optimizer"])
        schedule.load_state_dict(resume["training"]["schedule"])
        history = list(resume["training"]["history"])
        best_weights = checkpoints.load(job.checkpoint("best"))["model"]
    epochs = engine.fit(
        job.net,
        job.train,
        job.val,
        recipe=job.recipe,
        optimizer=optimizer,
        schedule=schedule,
        criterions=job.criterions,
        device=job.device,
        first_epoch=len(history) + 1,
        watch=watch,
    )
    for result in epochs:
        row = epoch_metrics(result, job.tasks)
        is_best = all(row["val/loss"] < earlier["val/loss"] for earlier in history)
        history.append(row)
        if is_best:
            best_weights = {k: v.detach().to("cpu", copy=True) for k, v in job.net.state_dict().items()}
        if job.checkpoint_stem:
            if is_best:
                _save(job, job.checkpoint("best"), row)
            state = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "history": history}
            _save(job, job.checkpoint("last"), row, training=state)
        if job.run:
            log_epochs(job.run, [row])
        print(_epoch_line(row, job.recipe.epochs, is_best), flush=True)
    return history, best_weights


def log_epochs(run: Run, history: Iterable[Mapping[str, float]]) -> None:
    """Log the metrics of epochs, each at its step."""
    for row in history:
        run.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=row["epoch"])


def _save(job: Job, path: Path, row: Mapping[str, float], training: Mapping | None = None) -> None:
    checkpoints.save(
        path,
        model=job.net.state_dict(),
        tasks=job.tasks,
        settings=job.settings,
        epoch=row["epoch"],
        metrics=row,
        training=training,
    )


def watch(loader: Loader, what: str) -> Iterable:
    """The loader with a progress bar; none where the output is a file."""
    return tqdm(loader, desc=what, unit=" batches", leave=False, disable=None)


def _epoch_line(row: Mapping[str, float], epochs: int, is_best: bool) -> str:
    return (
        f"epoch {row['epoch']}/{epochs}  train loss {row['train/loss']:.3f}  val loss {row['val/loss']:.3f}  "
        f"accuracy {row['val/avg/accuracy']:.3f}  F1 {row['val/avg/f1']:.3f}  "
        f"{row['images_per_second']:.0f} images/s  {row['epoch_seconds']:.0f} s{'  best' if is_best else ''}"
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
        "epoch_seconds": result.epoch_seconds,
    }


def named_scores(split: str, evaluation: Evaluation, tasks: Sequence[Task]) -> dict[str, float]:
    """An evaluation's loss and scores by MLflow name: ``val/loss``, ``val/avg/f1``, ``val/<slug>/f1``, ..."""
    scores = evaluation.scores
    named = {f"{split}/loss": evaluation.loss}
    for key, name in (("avg", "avg"), *((task.slug, task.name) for task in tasks)):
        named |= {f"{split}/{key}/{score}": value for score, value in scores[name].items()}
    return named


def write_artifacts(
    folder: Path, outcome: Outcome, tasks: Sequence[Task], *, rows: pd.DataFrame, extra_plots: bool
) -> None:
    """Write everything that the run page shows besides checkpoints and the model.

    Args:
        rows: ``id`` and ``path`` of the test images, in the loader's order.
        extra_plots: Draw PNGs as well; numbers are written either way.
    """
    durable.write_json(folder / "tasks.json", tasks_to_json(tasks))
    for task in tasks:
        _write_task(folder, outcome.test, task, extra_plots)
    table = predictions_table(outcome.test, tasks, rows)
    with durable.replacing(folder / "predictions" / "test.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    if extra_plots:
        _plot_history(folder / "plots", outcome)


def _write_task(folder: Path, test: Evaluation, task: Task, extra_plots: bool) -> None:
    counts = test.confusion[task.name]
    durable.write_json(
        folder / "confusion" / f"{task.slug}.json", {"classes": list(task.classes), "counts": counts.tolist()}
    )
    table = metrics.per_class(counts)
    table.insert(0, "class", list(task.classes))
    durable.write_text(folder / "per_class" / f"{task.slug}.csv", tables.to_csv(table))
    result = metrics.roc(test.probs[task.name], test.targets[task.name], task.classes)
    durable.write_json(folder / "roc" / f"{task.slug}.json", result)
    if extra_plots:
        drawn = {
            "confusion": plots.confusion(counts, task.classes, title=f"{task.name}, test"),
            "roc": plots.roc(result, title=f"{task.name}, test"),
        }
        for kind, figure in drawn.items():
            plots.save(folder / kind / f"{task.slug}.png", figure)


def _plot_history(folder: Path, outcome: Outcome) -> None:
    epochs = [row["epoch"] for row in outcome.history]
    names = {"accuracy": "accuracy", "f1": "F1", "precision": "precision", "recall": "recall"}
    averages = {shown: [row[f"val/avg/{key}"] for row in outcome.history] for key, shown in names.items()}
    lost = {name: [row[f"{name}/loss"] for row in outcome.history] for name in ("train", "val")}
    common = {"epochs": epochs, "best_epoch": outcome.best["epoch"]}
    title = "Validation, mean over tasks (F1, precision, recall: macro)"
    plots.save(folder / "averages.png", plots.curves(averages, title=title, unit="score", **common))
    plots.save(folder / "loss.png", plots.curves(lost, title="Loss, sum over tasks", unit="loss", **common))


def predictions_table(evaluation: Evaluation, tasks: Sequence[Task], rows: pd.DataFrame) -> pd.DataFrame:
    """Labels, confidences, true labels and all probabilities per image; the target is None where unknown."""
    columns = {"id": rows["id"].to_numpy(), "path": rows["path"].to_numpy()}
    for task in tasks:
        columns |= top_labels(task, evaluation.probs[task.name])
        targets = evaluation.targets[task.name]
        columns[f"{task.slug}/target"] = [None if t == IGNORE_INDEX else task.classes[t] for t in targets]
        columns[f"{task.slug}/probs"] = list(evaluation.probs[task.name])
    return pd.DataFrame(columns)
