"""A train run in ten lines: what it is, how good, what is wrong with it, and how to go on."""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmtl import baselines, metrics
from fmtl.dataset import PreparedDataset
from fmtl.gallery import Gallery
from fmtl.tasks import Task
from fmtl.training import Outcome

MAX_TASKS = 12  # in the table


def of_training(
    dataset: PreparedDataset,
    settings: Mapping[str, Any],
    outcome: Outcome,
    scores: Mapping[str, float],
    errors: Gallery | None,
    *,
    command: str,
    run_id: str,
) -> str:
    """Markdown for the top of the run's page.

    Args:
        settings: Of the run, by name.
        scores: ``test/...`` by MLflow name.
        command: Repeats the run.
    """
    counts, source = dataset.manifest["counts"]["splits"], dataset.manifest["source"]["table"]
    return "\n\n".join(
        [
            f"**{settings['backbone']}**, {settings['mode']}, weights `{settings['weights']}`, {settings['px']} px, "
            f"trained on {counts['train']} photos of `{source}`.",
            f"On {counts['test']} test photos, with the weights of epoch {outcome.best['epoch']} of "
            f"{len(outcome.history)}: average accuracy **{scores['test/avg/accuracy']:.3f}**, average macro-F1 "
            f"**{scores['test/avg/f1']:.3f}**, {averaged(dataset.tasks, scores)}.",
            _table(dataset, scores),
            "What is wrong with it: " + "; ".join(_faults(dataset, outcome, scores, errors)) + ".",
            f"Repeat it: `{command}`  \nRegister it: `fmtl register --run {run_id}`  \n"
            f"Use it: `fmtl predict --model {run_id} --images FOLDER`",
        ]
    )


def averaged(tasks: Sequence[Task], scores: Mapping[str, float]) -> str:
    """Which tasks the averages speak for."""
    without = [task.name for task in tasks if math.isnan(scores[f"test/{task.slug}/f1"])]
    left_out = f" (without any test label: {', '.join(without)})" if without else ""
    return f"mean over {len(tasks) - len(without)} tasks{left_out}"


def command(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """``fmtl train`` with all that differs from the defaults."""
    options = [
        f"--{name.replace('_', '-')} {shlex.quote(_option(value))}"
        for name, value in settings.items()
        if value != defaults.get(name) and value is not None
    ]
    return " ".join(["fmtl train", *options])


def _option(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list | tuple) else str(value)


def _table(dataset: PreparedDataset, scores: Mapping[str, float]) -> str:
    """Scores beside what needs no photo: the most frequent class, and the best look-up from another attribute."""
    majority, lookup = baselines.majority(dataset), baselines.lookup(dataset)
    lines = [
        "| attribute | classes | accuracy | most frequent class | best look-up | macro-F1 |",
        "|---|---|---|---|---|---|",
    ]
    for t, task in enumerate(dataset.tasks[:MAX_TASKS]):
        known = lookup[:, t][~np.isnan(lookup[:, t])]
        best = f"{known.max():.3f}" if len(known) else "n/a"
        accuracy, f1 = (scores[f"test/{task.slug}/{name}"] for name in ("accuracy", "f1"))
        lines.append(
            f"| {task.name} | {task.num_classes} | {accuracy:.3f} | {majority[task.name]:.3f} | {best} | {f1:.3f} |"
        )
    if len(dataset.tasks) > MAX_TASKS:
        lines.append(f"\nand {len(dataset.tasks) - MAX_TASKS} more attributes")
    return "\n".join(lines)


def _faults(
    dataset: PreparedDataset, outcome: Outcome, scores: Mapping[str, float], errors: Gallery | None
) -> list[str]:
    """At least one: no model is without."""
    found = []
    measured = [t for t in dataset.tasks if not math.isnan(scores[f"test/{t.slug}/f1"])]
    if measured:
        weakest = min(measured, key=lambda task: scores[f"test/{task.slug}/f1"])
        found.append(f"weakest attribute {weakest.name} (macro-F1 {scores[f'test/{weakest.slug}/f1']:.3f})")
    never = _never_right(dataset.tasks, outcome)
    if never:
        found.append(f"{never} classes with test photos are never named right")
    worst = _worst_confusion(dataset.tasks, outcome)
    if worst:
        found.append(worst)
    if outcome.best["epoch"] == len(outcome.history):
        found.append("the last epoch was the best, so more epochs may help")
    elif outcome.history[-1]["val/loss"] > 1.1 * outcome.best["val/loss"]:
        found.append(f"validation loss rose after epoch {outcome.best['epoch']}: it overfits from there on")
    if errors is not None and len(errors.suspects):
        found.append(f"{len(errors.suspects)} labels are doubtful (gallery/gallery.html)")
    return found or ["no test label says"]


def _never_right(tasks: Sequence[Task], outcome: Outcome) -> int:
    counts = [outcome.test.confusion[task.name] for task in tasks]
    return int(sum(((np.diag(c) == 0) & (c.sum(axis=1) > 0)).sum() for c in counts))


def _worst_confusion(tasks: Sequence[Task], outcome: Outcome) -> str:
    firsts = [
        (task.name, metrics.largest_confusions(outcome.test.confusion[task.name], task.classes).head(1))
        for task in tasks
    ]
    firsts = [(name, row.iloc[0]) for name, row in firsts if len(row)]
    if not firsts:
        return ""
    name, row = max(firsts, key=lambda item: item[1]["images"])
    return f"most frequent confusion: {name} '{row['target']}' taken for '{row['prediction']}' ({row['images']} photos)"
