"""A train run in ten lines: what it is, how good, what is wrong with it, and how to go on."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmtl.dataset.prepared import PreparedDataset
from fmtl.evaluation import baselines
from fmtl.metric_names import BY_CHOICE, EPOCH, called, in_words, is_loss, score
from fmtl.model.confidence import acceptance
from fmtl.reports import markdown
from fmtl.reports.error_gallery import Gallery
from fmtl.storage.tables import number_text
from fmtl.tasks import AVERAGE
from fmtl.training import metrics
from fmtl.training.history import best_by
from fmtl.training.run import TrainResult

MAX_TASKS = 12  # in a table
SURE = 0.8
MAX_NAME, MAX_NAMES = 48, 6  # characters of a name, names in a list


def of_training(
    dataset: PreparedDataset,
    settings: Mapping[str, Any],
    result: TrainResult,
    errors: Gallery | None,
    *,
    command: str,
    run_id: str,
) -> str:
    """Markdown for the top of the run's page.

    Args:
        settings: Of the run, by name.
        command: Repeats the run.
    """
    counts, source = dataset.manifest["counts"]["splits"], dataset.manifest["source"]["table"]
    majority, lookup = baselines.majority(dataset), baselines.lookup(dataset)
    without_photo = {
        baselines.MOST_FREQUENT: [majority[task.name] for task in dataset.tasks],
        baselines.LOOK_UP: [
            tuple(np.nanmax([*scores, -math.inf]) for scores in lookup[:, :, t]) for t in range(len(dataset.tasks))
        ],
    }
    faults = _faults(result)
    if errors is not None and len(errors.suspects):
        faults.append(f"{len(errors.suspects)} labels are doubtful (gallery/gallery.html)")
    return "\n\n".join(
        [
            f"{_what(settings)}, trained on {counts['train']} photos of {markdown.code(source)}.",
            _how_good(result, settings),
            _table(result, without_photo),
            _confidences(result),
            _others(result),
            _wrong([*_no_better(result, without_photo), *faults]),
            f"Repeat it: {markdown.code(command)}  \nRegister it: `fmtl register --run {run_id}`  \n"
            f"Use it: `fmtl predict --model {run_id} --images FOLDER`",
        ]
    )


def of_loaders(settings: Mapping[str, Any], result: TrainResult) -> str:
    """The note of a run on loaders that a notebook brought."""
    return "\n\n".join(
        [
            f"{_what(settings)}, trained in a notebook on loaders of its own.",
            _how_good(result, settings),
            _table(result, {}),
            _confidences(result),
            _others(result),
            _wrong(_faults(result)),
        ]
    )


def of_evaluation(result: TrainResult, *, model: str, data: str, num_photos: int, left_out: Sequence[str]) -> str:
    """The note of a model's evaluation on another dataset.

    Args:
        left_out: What was not counted, in words.
    """
    average = result.test.scores[AVERAGE]
    parts = [
        f"{markdown.code(model)} on {num_photos} photos of {markdown.code(data)}: average accuracy "
        f"**{average['accuracy']:.3f}**, average macro-F1 **{average['f1']:.3f}**, "
        f"{markdown.text(averaged(result), most=400)}.",
        _table(result, {}),
        _confidences(result),
        _wrong(_faults_of_test(result)),
    ]
    return "\n\n".join([*parts, *(f"Left out: {markdown.text(why)}." for why in left_out)])


def _what(settings: Mapping[str, Any]) -> str:
    return (
        f"**{markdown.text(settings['backbone'])}**, {settings['mode']}, weights {markdown.code(settings['weights'])}, "
        f"{settings['px']} px"
    )


def _how_good(result: TrainResult, settings: Mapping[str, Any]) -> str:
    num_images = len(next(iter(result.test.targets.values())))
    average, planned = result.test.scores[AVERAGE], settings.get("epochs", 0)
    early = f", {planned} were planned" * (len(result.history) < planned)
    return (
        f"On {num_images} test photos, with the weights of epoch {result.best_epoch} of {len(result.history)}{early} "
        f"({in_words(result.chosen_by)}): "
        f"average accuracy **{average['accuracy']:.3f}**, average macro-F1 **{average['f1']:.3f}**, "
        f"{markdown.text(averaged(result), most=400)}."
    )


def _others(result: TrainResult) -> str:
    """Which epochs other choices would have kept, with their scores on validation, on which they are chosen."""
    told = []
    for choice, metric in BY_CHOICE.items():
        if not all(metric in row for row in result.history):
            continue  # of an older version, from which the run goes on
        row = best_by(result.history, metric)
        accuracy, f1 = (row[score("val", None, name)] for name in ("accuracy", "f1"))
        mark = " (the choice of this run)" * (metric == result.chosen_by)
        told.append(f"`{choice}` epoch {row[EPOCH]}: {accuracy:.3f} and {f1:.3f}{mark}")
    return f"Accuracy and macro-F1 on validation of the epoch that `choose_by` keeps: {'; '.join(told)}."


def _wrong(faults: Sequence[str]) -> str:
    return "What is wrong with it: " + "; ".join(faults or ["no test label says"]) + "."


def averaged(result: TrainResult) -> str:
    """Which tasks the averages speak for."""
    scores = result.test.scores
    names = result.tasks.attributes
    without = [name for name in names if math.isnan(scores[name]["f1"])]
    shown = [*without[:MAX_NAMES], *([f"and {len(without) - MAX_NAMES} more"] if len(without) > MAX_NAMES else [])]
    left_out = f" (without any test label: {', '.join(shown)})" if without else ""
    return f"mean over {len(names) - len(without)} tasks{left_out}"


def _table(result: TrainResult, others: Mapping[str, Sequence[tuple[float, ...]]]) -> str:
    """Accuracy and macro-F1, each beside what they are held against, by heading and task; not finite where there is
    none."""
    heads = ["attribute", "classes", "accuracy", *others, "macro-F1", *others]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    tasks, scores = result.tasks, result.test.scores
    for t, task in enumerate(tasks[:MAX_TASKS]):
        found = scores[task.name]
        accuracies, f1s = ([values[t][metric] for values in others.values()] for metric in (0, 1))
        numbers = [found["accuracy"], *accuracies, found["f1"], *f1s]
        shown = [number_text(number, 3) for number in numbers]
        kind = f"set of {task.num_classes}" if task.is_set else str(task.num_classes)
        lines.append(f"| {markdown.text(task.name, MAX_NAME)} | {kind} | {' | '.join(shown)} |")
    if tasks.sets:
        lines.append(
            "\nOf a set, accuracy is the share of photos whose whole set is right, and macro-F1 is over its values."
        )
    if len(tasks) > MAX_TASKS:
        lines.append(f"\nand {len(tasks) - MAX_TASKS} more attributes")
    return "\n".join(lines)


def _confidences(result: TrainResult) -> str:
    """How often the model is sure, and how right it is then."""
    test, errors = result.test, result.calibration_errors
    judged = acceptance.judged(result.tasks, test.probs, test.thresholds, test.targets)
    lines = [f"| attribute | at confidence >= {SURE:g} | calibration error |", "|---|---|---|"]
    for task in [task for task in result.tasks if not task.applies_to][:MAX_TASKS]:
        confidence, right = judged[task.name]
        sure = confidence >= SURE
        share = f"{100 * sure.mean():.0f} % of the photos" if len(sure) else "no test label"
        hits = f", {100 * right[sure].mean():.0f} % right" if sure.any() else ""
        before, after = errors.get(task, (math.nan, math.nan))
        is_changed = math.isfinite(after) and before != after
        change = f"{before:.3f} -> {after:.3f}" if is_changed else number_text(after, 3)
        lines.append(f"| {markdown.text(task.name, MAX_NAME)} | {share}{hits} | {change} |")
    scaled = " (without -> with a temperature chosen on validation)" if result.temperatures else ""
    return "\n".join(lines) + (f"\n\nCalibration errors are the test photos'{scaled}." if errors else "")


def _no_better(result: TrainResult, others: Mapping[str, Sequence[tuple[float, ...]]]) -> list[str]:
    """Attributes that the table alone tells better than the model, by accuracy."""
    looked_up = others[baselines.LOOK_UP]
    named = [
        f"{markdown.text(task.name, MAX_NAME)} ({result.test.scores[task.name]['accuracy']:.3f} against "
        f"{looked_up[t][0]:.3f})"
        for t, task in enumerate(result.tasks)
        if result.test.scores[task.name]["accuracy"] < looked_up[t][0]
    ]
    return [f"worse than a look-up of another attribute: {', '.join(named[:MAX_NAMES])}"] if named else []


def _faults_of_test(result: TrainResult) -> list[str]:
    found, scores = [], result.test.scores
    measured = [task.name for task in result.tasks if not task.applies_to and not math.isnan(scores[task.name]["f1"])]
    if measured:
        weakest = min(measured, key=lambda name: scores[name]["f1"])
        found.append(f"weakest attribute {markdown.text(weakest, MAX_NAME)} (macro-F1 {scores[weakest]['f1']:.3f})")
    never = _never_right(result)
    if never:
        found.append(f"{never} classes with test photos are never named right")
    worst = _worst_confusion(result)
    if worst:
        found.append(worst)
    return found


def _faults(result: TrainResult) -> list[str]:
    found = _faults_of_test(result)
    if result.best_epoch == len(result.history):
        found.append("the last epoch was the best, so more epochs may help")
    elif is_loss(result.chosen_by) and result.history[-1][result.chosen_by] > 1.1 * result.best[result.chosen_by]:
        found.append(f"{called(result.chosen_by)} rose after epoch {result.best_epoch}: it overfits from there on")
    return found


def _never_right(result: TrainResult) -> int:
    return sum(metrics.never_right(result.test.confusion[task.name]) for task in result.tasks)


def _worst_confusion(result: TrainResult) -> str:
    firsts = [
        (task.name, metrics.largest_confusions(result.test.mistakes(task.name), task.classes).head(1))
        for task in result.tasks
    ]
    rows = [(name, table.iloc[0]) for name, table in firsts if len(table)]
    if not rows:
        return ""
    name, row = max(rows, key=lambda item: item[1]["images"])
    name, target, prediction = (markdown.text(words, MAX_NAME) for words in (name, row["target"], row["prediction"]))
    return f"most frequent confusion: {name} '{target}' taken for '{prediction}' ({row['images']} photos)"
