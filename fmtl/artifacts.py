"""The files of a train run's page: numbers always, and a picture beside each where pictures are wanted."""

import contextlib
import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from fmtl import durable, metrics, plots, tables
from fmtl.engine import Evaluation
from fmtl.predictor import top_labels
from fmtl.tasks import IGNORE_INDEX, Task, tasks_to_json

AVERAGES = {"accuracy": "accuracy", "f1": "F1", "precision": "precision", "recall": "recall"}
History = Sequence[Mapping[str, float]]


def write(
    folder: Path,
    *,
    history: History,
    best_epoch: int,
    test: Evaluation,
    tasks: Sequence[Task],
    rows: pd.DataFrame,
    draw: bool,
) -> list[Path]:
    """Write everything that the run page shows besides checkpoints, gallery and model.

    Args:
        history: Metrics per epoch by MLflow name.
        rows: ``id`` and ``path`` of the test images, in the loader's order.
        draw: PNGs as well.

    Returns:
        The PNGs, those of the whole run first.
    """
    durable.write_json(folder / "tasks.json", tasks_to_json(tasks))
    durable.write_text(folder / "plots" / "history.csv", tables.to_csv(pd.DataFrame(list(history))))
    numbers = {task.name: _numbers(test, task) for task in tasks}
    for task in tasks:
        _write_numbers(folder, task, numbers[task.name])
    table = predictions_table(test, tasks, rows)
    with durable.replacing(folder / "predictions" / "test.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    pictures = []
    with _young_garbage():
        for name, figure in _figures(history, best_epoch, tasks, numbers) if draw else ():
            plots.save(folder / name, figure)
            pictures.append(folder / name)
    return pictures


@contextlib.contextmanager
def _young_garbage() -> Iterator[None]:
    """Collect only what is made inside.

    Figures hold themselves in cycles, so that drawing sets off collections, which would go through all objects of torch
    and MLflow each time.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _numbers(test: Evaluation, task: Task) -> dict[str, Any]:
    """What there is to know of a task, by kind of file."""
    counts, probs, targets = test.confusion[task.name], test.probs[task.name], test.targets[task.name]
    per_class = metrics.per_class(counts)
    per_class.insert(0, "class", list(task.classes))
    return {
        "confusion": counts,
        "per_class": per_class,
        "roc": metrics.roc(probs, targets, task.classes),
        "precision_recall": metrics.precision_recall(probs, targets, task.classes),
        "reliability": metrics.calibration(probs, targets),
    }


def _write_numbers(folder: Path, task: Task, numbers: Mapping[str, Any]) -> None:
    counts, classes = numbers["confusion"], list(task.classes)
    durable.write_json(folder / "confusion" / f"{task.slug}.json", {"classes": classes, "counts": counts.tolist()})
    largest = metrics.largest_confusions(counts, classes)
    durable.write_text(folder / "confusion" / f"{task.slug}.csv", tables.to_csv(largest))
    durable.write_text(folder / "per_class" / f"{task.slug}.csv", tables.to_csv(numbers["per_class"]))
    for kind in ("roc", "precision_recall", "reliability"):
        durable.write_json(folder / kind / f"{task.slug}.json", numbers[kind])


def _figures(
    history: History, best_epoch: int, tasks: Sequence[Task], numbers: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, Figure]]:
    for name, (wanted, title, unit) in _curves(history, tasks).items():
        series = {shown: [row.get(metric, math.nan) for row in history] for metric, shown in wanted.items()}
        epochs = [row["epoch"] for row in history]
        yield (
            f"plots/{name}.png",
            plots.curves(series, epochs=epochs, best_epoch=best_epoch, title=title, unit=unit),
        )
    for task in tasks:
        found, title = numbers[task.name], f"{task.name}, test"
        yield f"confusion/{task.slug}.png", plots.confusion(found["confusion"], task.classes, title=title)
        yield f"per_class/{task.slug}.png", plots.per_class(found["per_class"], title=title)
        yield f"roc/{task.slug}.png", plots.roc(found["roc"], title=title)
        yield (
            f"precision_recall/{task.slug}.png",
            plots.precision_recall(found["precision_recall"], title=title),
        )
        yield f"reliability/{task.slug}.png", plots.reliability(found["reliability"], title=title)


def _curves(history: History, tasks: Sequence[Task]) -> dict[str, tuple[dict[str, str], str, str]]:
    """By file name: shown names by metric, title, unit."""
    rates = [name for name in history[-1] if name.startswith("learning_rate/")]
    return {
        "averages": (
            {f"val/avg/{key}": shown for key, shown in AVERAGES.items()},
            "Validation, mean over tasks (F1, precision, recall: macro)",
            "score",
        ),
        "loss": ({f"{split}/loss": split for split in ("train", "val")}, "Loss, sum over tasks", "loss"),
        "task_losses": ({f"val/{t.slug}/loss": t.name for t in tasks}, "Validation loss by task", "loss"),
        "task_f1": ({f"val/{t.slug}/f1": t.name for t in tasks}, "Validation macro-F1 by task", "score"),
        "learning_rates": (
            {name: name.removeprefix("learning_rate/") for name in rates},
            "Learning rate at the end of each epoch",
            "learning rate",
        ),
    }


def predictions_table(evaluation: Evaluation, tasks: Sequence[Task], rows: pd.DataFrame) -> pd.DataFrame:
    """Labels, confidences, true labels and all probabilities per image; the target is None where unknown."""
    columns = {"id": rows["id"].to_numpy(), "path": rows["path"].to_numpy()}
    for task in tasks:
        columns |= top_labels(task, evaluation.probs[task.name])
        targets = evaluation.targets[task.name]
        columns[f"{task.slug}/target"] = [None if t == IGNORE_INDEX else task.classes[t] for t in targets]
        columns[f"{task.slug}/probs"] = list(evaluation.probs[task.name])
    return pd.DataFrame(columns)
