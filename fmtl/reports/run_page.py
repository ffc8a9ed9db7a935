"""The files of a train run's page: numbers always, and a picture beside each where pictures are wanted."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from fmtl import machine, metric_names
from fmtl.evaluation import curves
from fmtl.metric_names import EPOCH, SCORES
from fmtl.model.decisions import labels_of
from fmtl.reports import plots
from fmtl.storage import durable, tables
from fmtl.tasks import Task, Tasks
from fmtl.training import metrics
from fmtl.training.evaluating import Evaluation
from fmtl.training.run import TrainResult

SHOWN = {"f1": "F1"}  # names of scores that people write otherwise


def write(folder: Path, result: TrainResult, *, rows: pd.DataFrame, draw: bool) -> list[Path]:
    """Write everything that the run page shows besides checkpoints, gallery and model.

    Args:
        rows: ``id``, ``path`` and group of twins of the test images, in the loader's order.
        draw: PNGs as well.

    Returns:
        The PNGs, those of the whole run first.
    """
    durable.write_text(folder / "plots" / "history.csv", tables.to_csv(pd.DataFrame(result.history)))
    pictures = []
    with machine.young_garbage():
        for name, figure in _of_history(result) if draw else ():
            plots.save(folder / name, figure)
            pictures.append(folder / name)
    return [*pictures, *write_test(folder, result, rows=rows, draw=draw)]


def write_test(folder: Path, result: TrainResult, *, rows: pd.DataFrame, draw: bool) -> list[Path]:
    """What there is to see of the test alone. Returns the PNGs.

    Args:
        rows, draw: As of ``write``.
    """
    tasks = result.tasks
    durable.write_json(folder / "tasks.json", tasks.to_json())
    before = {task.name: pair[0] for task, pair in result.calibration_errors.items()}
    numbers = {task.name: _numbers(result.test, task, before) for task in tasks}
    for task in tasks:
        _write_numbers(folder, task, numbers[task.name])
    table = predictions_table(result.test, tasks, rows)
    with durable.replacing(folder / "predictions" / "test.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    pictures = []
    with machine.young_garbage():
        for name, figure in _of_tasks(tasks, numbers) if draw else ():
            plots.save(folder / name, figure)
            pictures.append(folder / name)
    return pictures


def _numbers(test: Evaluation, task: Task, before: Mapping[str, float]) -> dict[str, Any]:
    """What there is to know of a task, by kind of file.

    Args:
        before: Calibration error without a temperature, by task name.
    """
    counts, probs, targets = test.confusion[task.name], test.probs[task.name], test.targets[task.name]
    per_class = metrics.per_class(counts)
    per_class.insert(0, "class", list(task.classes))
    said = {"mistakes": test.mistakes(task.name)}
    if task.is_set:
        per_class["threshold"] = test.thresholds[task.name]
        labels, predicted = targets == 1, test.predicted(task.name) == 1
        said |= {"labels": metrics.together(labels, labels), "predictions": metrics.together(predicted, predicted)}
    return said | {
        "confusion": counts,
        "per_class": per_class,
        "roc": curves.roc(probs, targets, task.classes),
        "precision_recall": curves.precision_recall(probs, targets, task.classes),
        "reliability": test.reliability(task.name) | ({"ece_before": before[task.name]} if task.name in before else {}),
    }


def _write_numbers(folder: Path, task: Task, numbers: Mapping[str, Any]) -> None:
    counts, classes = numbers["confusion"], list(task.classes)
    together = {name: numbers[name].tolist() for name in ("labels", "predictions") if task.is_set}
    durable.write_json(folder / "confusion" / f"{task.slug}.json", {"classes": classes, **_compact(counts), **together})
    largest = metrics.largest_confusions(numbers["mistakes"], classes)
    durable.write_text(folder / "confusion" / f"{task.slug}.csv", tables.to_csv(largest))
    durable.write_text(folder / "per_class" / f"{task.slug}.csv", tables.to_csv(numbers["per_class"]))
    for kind in ("roc", "precision_recall", "reliability"):
        durable.write_json(folder / kind / f"{task.slug}.json", numbers[kind])


def _compact(counts: metrics.Confusion) -> dict[str, list]:
    """Counts as rows of a matrix; of very many classes the cells that are not 0: target, prediction, images."""
    if isinstance(counts, np.ndarray):
        return {"counts": counts.tolist()}
    return {"cells": np.stack(metrics.cells(counts), axis=1).tolist()}


def _of_history(result: TrainResult) -> Iterator[tuple[str, Figure]]:
    """File name and picture: lines over epochs."""
    history = result.history
    for name, (wanted, title, unit) in _lines(result).items():
        series = {shown: [row.get(metric, math.nan) for row in history] for metric, shown in wanted.items()}
        epochs = [row[EPOCH] for row in history]
        figure = plots.curves(series, epochs=epochs, best_epoch=result.best_epoch, title=title, unit=unit)
        yield f"plots/{name}.png", figure


def _of_tasks(tasks: Tasks, numbers: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Figure]]:
    """File name and picture: five of each task."""
    for task in tasks:
        found, title = numbers[task.name], f"{task.name}, test"
        yield (
            f"confusion/{task.slug}.png",
            (
                plots.cooccurrence(found["labels"], found["predictions"], task.classes, title=title)
                if task.is_set
                else plots.confusion(found["confusion"], task.classes, title=title)
            ),
        )
        yield f"per_class/{task.slug}.png", plots.per_class(found["per_class"], title=title)
        yield f"roc/{task.slug}.png", plots.roc(found["roc"], title=title)
        figure = plots.precision_recall(found["precision_recall"], title=title)
        yield f"precision_recall/{task.slug}.png", figure
        yield f"reliability/{task.slug}.png", plots.reliability(found["reliability"], title=title)


def _lines(result: TrainResult) -> dict[str, tuple[dict[str, str], str, str]]:
    """By file name: shown names by metric, title, unit."""
    tasks = result.tasks
    return {
        "averages": (
            {metric_names.score("val", None, name): SHOWN.get(name, name) for name in SCORES},
            "Validation, mean over tasks (F1, precision, recall: macro)",
            "score",
        ),
        "loss": ({metric_names.loss(split): split for split in ("train", "val")}, "Loss, sum over tasks", "loss"),
        "task_losses": ({metric_names.loss("val", t): t.name for t in tasks}, "Validation loss by task", "loss"),
        "task_f1": (
            {metric_names.score("val", t, "f1"): t.name for t in tasks},
            "Validation macro-F1 by task",
            "score",
        ),
        "learning_rates": (
            metric_names.rate_groups(result.history[-1]),
            "Learning rate at the end of each epoch",
            "learning rate",
        ),
    }


def predictions_table(evaluation: Evaluation, tasks: Tasks, rows: pd.DataFrame) -> pd.DataFrame:
    """Labels, confidences, true labels and all probabilities per image; the target is None where unknown."""
    columns = {name: rows[name].to_numpy() for name in rows}
    found = labels_of(tasks, evaluation.probs, evaluation.thresholds)
    for task in tasks:
        columns |= {name: found[name] for name in (task.slug, f"{task.slug}/confidence")}
        targets = evaluation.targets[task.name].reshape(-1, len(task.columns))
        columns[f"{task.slug}/target"] = [task.label(target) for target in targets.tolist()]
        columns[f"{task.slug}/probs"] = list(evaluation.probs[task.name])
    return pd.DataFrame(columns)
