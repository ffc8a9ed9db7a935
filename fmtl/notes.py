"""A train run in ten lines: what it is, how good, what is wrong with it, and how to go on."""

import html
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmtl import baselines, metrics
from fmtl.dataset import PreparedDataset
from fmtl.gallery import Gallery
from fmtl.plots.style import one_line, shortened
from fmtl.tasks import Task
from fmtl.training import Outcome

MAX_TASKS = 12  # in the table
MAX_NAME, MAX_NAMES = 48, 6  # characters of a name, names in a list


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
    majority, lookup = baselines.majority(dataset), baselines.lookup(dataset)
    without_photo = {
        "most frequent class": [majority[task.name] for task in dataset.tasks],
        "best look-up": [np.nanmax([*column, -math.inf]) for column in lookup.T],
    }
    faults = _faults(dataset.tasks, outcome, scores)
    if errors is not None and len(errors.suspects):
        faults.append(f"{len(errors.suspects)} labels are doubtful (gallery/gallery.html)")
    return "\n\n".join(
        [
            f"{_what(settings)}, trained on {counts['train']} photos of {_code(source)}.",
            _how_good(dataset.tasks, outcome, scores),
            _table(dataset.tasks, scores, without_photo),
            _wrong(faults),
            f"Repeat it: {_code(command)}  \nRegister it: `fmtl register --run {run_id}`  \n"
            f"Use it: `fmtl predict --model {run_id} --images FOLDER`",
        ]
    )


def of_loaders(
    tasks: Sequence[Task], settings: Mapping[str, Any], outcome: Outcome, scores: Mapping[str, float]
) -> str:
    """The note of a run on loaders that a notebook brought."""
    return "\n\n".join(
        [
            f"{_what(settings)}, trained in a notebook on loaders of its own.",
            _how_good(tasks, outcome, scores),
            _table(tasks, scores, {}),
            _wrong(_faults(tasks, outcome, scores)),
        ]
    )


def _what(settings: Mapping[str, Any]) -> str:
    return (
        f"**{_text(settings['backbone'])}**, {settings['mode']}, weights {_code(settings['weights'])}, "
        f"{settings['px']} px"
    )


def _how_good(tasks: Sequence[Task], outcome: Outcome, scores: Mapping[str, float]) -> str:
    num_images = len(next(iter(outcome.test.targets.values())))
    return (
        f"On {num_images} test photos, with the weights of epoch {outcome.best['epoch']} of {len(outcome.history)}: "
        f"average accuracy **{scores['test/avg/accuracy']:.3f}**, average macro-F1 "
        f"**{scores['test/avg/f1']:.3f}**, {_text(averaged(tasks, scores), most=400)}."
    )


def _wrong(faults: Sequence[str]) -> str:
    return "What is wrong with it: " + "; ".join(faults or ["no test label says"]) + "."


def averaged(tasks: Sequence[Task], scores: Mapping[str, float]) -> str:
    """Which tasks the averages speak for."""
    without = [task.name for task in tasks if math.isnan(scores[f"test/{task.slug}/f1"])]
    shown = [*without[:MAX_NAMES], *([f"and {len(without) - MAX_NAMES} more"] if len(without) > MAX_NAMES else [])]
    left_out = f" (without any test label: {', '.join(shown)})" if without else ""
    return f"mean over {len(tasks) - len(without)} tasks{left_out}"


def _text(text: str, most: int = MAX_NAME) -> str:
    """A catalogue's words, as themselves: neither HTML nor Markdown."""
    text = html.escape(shortened(one_line(text), most), quote=False)
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", text)


def _code(text: str) -> str:
    """As code, between more backticks than it has in a row."""
    text = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if len(fence) > 1 else f"`{text}`"


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


def _table(tasks: Sequence[Task], scores: Mapping[str, float], others: Mapping[str, Sequence[float]]) -> str:
    """Scores, and accuracies to hold them against, by heading and task; not finite where there is none."""
    heads = ["attribute", "classes", "accuracy", *others, "macro-F1"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for t, task in enumerate(tasks[:MAX_TASKS]):
        accuracy, f1 = (scores[f"test/{task.slug}/{name}"] for name in ("accuracy", "f1"))
        numbers = [accuracy, *(values[t] for values in others.values()), f1]
        shown = [f"{number:.3f}" if math.isfinite(number) else "n/a" for number in numbers]
        lines.append(f"| {_text(task.name)} | {task.num_classes} | {' | '.join(shown)} |")
    if len(tasks) > MAX_TASKS:
        lines.append(f"\nand {len(tasks) - MAX_TASKS} more attributes")
    return "\n".join(lines)


def _faults(tasks: Sequence[Task], outcome: Outcome, scores: Mapping[str, float]) -> list[str]:
    found = []
    measured = [t for t in tasks if not math.isnan(scores[f"test/{t.slug}/f1"])]
    if measured:
        weakest = min(measured, key=lambda task: scores[f"test/{task.slug}/f1"])
        found.append(f"weakest attribute {_text(weakest.name)} (macro-F1 {scores[f'test/{weakest.slug}/f1']:.3f})")
    never = _never_right(tasks, outcome)
    if never:
        found.append(f"{never} classes with test photos are never named right")
    worst = _worst_confusion(tasks, outcome)
    if worst:
        found.append(worst)
    if outcome.best["epoch"] == len(outcome.history):
        found.append("the last epoch was the best, so more epochs may help")
    elif outcome.history[-1]["val/loss"] > 1.1 * outcome.best["val/loss"]:
        found.append(f"validation loss rose after epoch {outcome.best['epoch']}: it overfits from there on")
    return found


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
    target, prediction = _text(row["target"]), _text(row["prediction"])
    return f"most frequent confusion: {_text(name)} '{target}' taken for '{prediction}' ({row['images']} photos)"
