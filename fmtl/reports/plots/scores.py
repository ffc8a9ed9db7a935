"""What a network's scores are worth: ROC, precision-recall, reliability, scores per class, and rankings."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from fmtl.reports.plots.style import (
    COLOURS,
    INK,
    MUTED,
    PALE,
    bare,
    class_names,
    in_style,
    new_figure,
    plain,
    undrawable_note,
    with_panel,
    write_lines,
)
from fmtl.reports.words import shortened

MAX_CURVES_IN_COLOUR = 10
LOWEST = 5  # classes in colour where there are more
MAX_REASONS = 6
MAX_LINES = 14


@in_style
def roc(result: Mapping, *, title: str) -> Figure:
    """One-vs-rest ROC curves as ``metrics.roc`` gives them, with their micro and macro averages.

    Up to ten classes each have a colour; of more, the five with the lowest area do and the rest are grey.
    Classes without a curve are named with the reason.
    """
    figure, axes, side = _square("false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color="#98a2b3", linestyle=":", linewidth=1)
    averages = {name: result[name] for name in ("micro", "macro") if result[name]}
    for (name, curve), dashes in zip(averages.items(), ("--", "-."), strict=False):
        label = f"{name}  {curve['auc']:.3f}"
        axes.plot(curve["fpr"], curve["tpr"], color=INK, linestyle=dashes, linewidth=1.4, label=label, zorder=3)
    heading = f"macro AUC {result['macro_auc']:.3f}" if averages else "no curve is defined"
    figure.suptitle(f"{plain(title)}: {heading}", fontsize=11)
    _one_vs_rest(axes, side, result["classes"], ("fpr", "tpr", "auc"), "AUC")
    return figure


@in_style
def precision_recall(result: Mapping, *, title: str) -> Figure:
    """Precision-recall curves as ``metrics.precision_recall`` gives them, coloured as in ``roc``."""
    figure, axes, side = _square("recall", "precision")
    if result["micro"]:
        curve = result["micro"]
        label = f"micro  {curve['ap']:.3f}"
        axes.plot(curve["recall"], curve["precision"], color=INK, linestyle="--", linewidth=1.4, label=label, zorder=3)
    heading = f"mean average precision {result['macro_ap']:.3f}" if result["micro"] else "no curve is defined"
    figure.suptitle(f"{plain(title)}: {heading}", fontsize=11)
    _one_vs_rest(axes, side, result["classes"], ("recall", "precision", "ap"), "average precision")
    return figure


def _square(xlabel: str, ylabel: str) -> tuple[Figure, Axes, Axes]:
    figure, axes, side = with_panel(5.4, 5.4, 3.9)
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    return figure, axes, side


def _one_vs_rest(axes: Axes, side: Axes, classes: Sequence[Mapping], keys: tuple[str, str, str], what: str) -> None:
    """Draw a curve per class, and the legend in the panel. ``keys``: of x, y and the area."""
    x, y, area = keys
    names = class_names([c["class"] for c in classes])
    named = [{**c, "name": name} for c, name in zip(classes, names, strict=True)]
    defined = sorted((c for c in named if c[area] is not None), key=lambda c: c[area])
    undefined = [c for c in named if c[area] is None]
    few = len(defined) <= MAX_CURVES_IN_COLOUR
    coloured = defined if few else defined[:LOWEST]
    for curve in defined[len(coloured) :]:
        axes.plot(curve[x], curve[y], color=PALE, linewidth=0.8, zorder=1)
    for curve, colour in zip(coloured, COLOURS, strict=False):
        label = f"{curve['name']}  {curve[area]:.3f}  (n={curve['support']})"
        axes.plot(curve[x], curve[y], color=colour, linewidth=1.8, label=label, zorder=2)
    if defined:
        heading = f"{what} by class" if few else f"{what}: lowest {LOWEST} of {len(defined)} classes (others grey)"
        heading += undrawable_note([c["class"] for c in classes])
        side.legend(*axes.get_legend_handles_labels(), frameon=False, title=heading, fontsize=8, title_fontsize=8.5,
                    loc="upper left", borderaxespad=0, borderpad=0, alignment="left")  # fmt: skip
    if undefined:
        shown = "\n".join(f"{c['name']}: {c['reason']}" for c in undefined[:MAX_REASONS])
        rest = f"\nand {len(undefined) - MAX_REASONS} more" if len(undefined) > MAX_REASONS else ""
        side.text(0, 0, f"without a curve:\n{shown}{rest}", fontsize=7.5, color=MUTED, va="bottom")


@in_style
def reliability(result: Mapping, *, title: str) -> Figure:
    """How often predictions of some confidence are right, and how many there are, as ``calibration`` says; of a set how
    often an image has a value of some probability."""
    of_values = "of" in result
    right, unit = ("share that has it", "pairs of image and value") if of_values else ("share that is right", "images")
    figure = new_figure(5.6, 5.8)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    bins = [b for b in result["bins"] if b["images"]]
    width = result["bins"][0]["to"] - result["bins"][0]["from"]
    middles = [(b["from"] + b["to"]) / 2 for b in bins]
    axes.bar(middles, [b["accuracy"] for b in bins], width * 0.92, color=COLOURS[0], label=right)
    axes.plot([b["confidence"] for b in bins], [b["confidence"] for b in bins], "o", color=COLOURS[1], markersize=5,
              label="mean confidence")  # fmt: skip
    axes.plot([0, 1], [0, 1], color="#98a2b3", linestyle=":", linewidth=1)
    axes.set(ylabel="share" if of_values else "accuracy", xlim=(0, 1), ylim=(0, 1.02))
    if bins:
        figure.legend(frameon=False, fontsize=8.5, loc="outside lower center", ncols=2)
    below.bar(middles, [b["images"] for b in bins], width * 0.92, color=PALE)
    below.set(xlabel="probability" if of_values else "confidence", ylabel="pairs" if of_values else unit)
    for each in (axes, below):
        bare(each)
    error = result["ece"]
    heading = "no test label" if error is None else f"calibration error {error:.3f}, {result['images']} {unit}"
    if error is not None and result.get("ece_before", error) != error:
        heading = f"calibration error {result['ece_before']:.3f} without a temperature, {error:.3f} with it"
    figure.suptitle(f"{plain(title)}\n{heading}", fontsize=11)
    return figure


@in_style
def per_class(table: pd.DataFrame, *, title: str) -> Figure:
    """F1 of each class against its number of images, the lowest named.

    Args:
        table: Columns class, support, f1, as ``metrics.per_class`` gives them; classes without support are left out.
    """
    table = table.assign(name=class_names(list(table["class"]), 24))
    seen = table[table["support"] > 0].sort_values(["f1", "support"], ascending=[True, False])
    figure, axes, side = with_panel(5.6, 4.8, 3.2)
    axes.scatter(seen["support"], seen["f1"], s=26, color=COLOURS[0], alpha=0.75, linewidths=0)
    axes.set(xlabel="test images of the class", ylabel="F1", ylim=(-0.03, 1.03))
    if len(seen):
        axes.set_xscale("log")
        axes.set_xlim(seen["support"].min() * 0.6, seen["support"].max() * 1.6)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25)
    lines = [f"{row.f1:.2f}  {row.name}  (n={row.support})" for row in seen.head(MAX_LINES).itertuples(index=False)]
    heading = "F1 by class" if len(seen) <= MAX_LINES else f"lowest {MAX_LINES} of {len(seen)} classes"
    end = write_lines(side, heading, lines)
    if len(seen) < len(table):
        missing = len(table) - len(seen)
        write_lines(side, f"{missing} class{'es' if missing > 1 else ''} without test images", [], top=end)
    figure.suptitle(plain(title) + undrawable_note(list(seen["class"])), fontsize=11)
    return figure


@in_style
def ranking(names: Sequence[str], values: Sequence[float], *, title: str, unit: str) -> Figure:
    """Horizontal bars, best on top, each with its value."""
    figure = new_figure(7.5, 1.2 + 0.34 * len(names))
    axes = figure.subplots()
    positions = np.arange(len(names))[::-1]
    axes.barh(positions, values, color=[COLOURS[0]] + ["#a9c3e4"] * (len(names) - 1), height=0.66)
    for position, value in zip(positions, values, strict=True):
        axes.text(value, position, f" {value:.3f}", va="center", fontsize=8.5)
    axes.set_yticks(positions, [plain(shortened(name)) for name in names], fontsize=9)
    axes.set(title=plain(title), xlabel=unit)
    axes.margins(x=0.12)
    bare(axes)
    return figure
