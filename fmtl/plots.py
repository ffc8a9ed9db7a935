"""Pure functions from numbers to figures, and one that saves a figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fmtl import durable

COLOURS = ("#2f6db5", "#e3a33b", "#4b9a6a", "#b5495b", "#7a5da8", "#4aa5b5", "#9c7a4b", "#d97ba6", "#6b7280", "#97b53c")
MAX_CLASSES_WITH_COUNTS = 25
MAX_CURVES_IN_COLOUR = 10
MAX_LABEL_CHARS = 28
DPI = 110


def _figure(width: float, height: float) -> Figure:
    """A figure of its own, in inches; nothing global, so plots may be drawn beside training."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG."""
    with durable.replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _plain(text: str) -> str:
    """Text that matplotlib takes as it is: between two dollar signs it would read mathematics."""
    return text.replace("$", r"\$")


def _short(label: str) -> str:
    return _plain(label if len(label) <= MAX_LABEL_CHARS else label[: MAX_LABEL_CHARS - 1] + "…")


def curves(
    series: Mapping[str, Sequence[float]], *, epochs: Sequence[int], best_epoch: int, title: str, unit: str
) -> Figure:
    """Lines over epochs, each named at its end, with the best epoch marked.

    Args:
        series: A value per epoch, by name; nan leaves a gap.
        unit: Label of the vertical axis; ``score`` fixes it to [0, 1].
    """
    figure = _figure(7.5, 4.2)
    axes = figure.subplots()
    for (name, values), colour in zip(series.items(), COLOURS, strict=False):
        at_best = values[list(epochs).index(best_epoch)]
        label = f"{name} {at_best:.3f}"
        axes.plot(epochs, values, color=colour, linewidth=2, marker="o", markersize=3.5, label=label)
    axes.axvline(best_epoch, color="#98a2b3", linestyle="--", linewidth=1, zorder=0)
    axes.set(xlabel="epoch", ylabel=unit, title=title)
    axes.set_xlim(min(epochs) - 0.3, max(epochs) + 0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if unit == "score":
        axes.set_ylim(0, 1)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title=f"at epoch {best_epoch} (best)", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def confusion(counts: np.ndarray, classes: Sequence[str], *, title: str) -> Figure:
    """Confusion matrix, rows normalised: colour is the share of a class's images, numbers are counts.

    Classes with neither targets nor predictions are left out and counted in the title.

    Args:
        counts: ``(K, K)`` int64, rows are targets.
    """
    seen = np.flatnonzero((counts.sum(axis=0) + counts.sum(axis=1)) > 0)
    hidden = len(classes) - len(seen)
    counts, labels = counts[np.ix_(seen, seen)], [_short(classes[i]) for i in seen]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.42 * len(labels) if len(labels) <= MAX_CLASSES_WITH_COUNTS else 0.19 * len(labels), 2.6, 30))
    figure = _figure(side + 2.6, side + 2.2)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    font = 8 if len(labels) <= MAX_CLASSES_WITH_COUNTS else 7
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=font)
    axes.set_yticks(range(len(labels)), labels, fontsize=font)
    axes.tick_params(length=0)
    axes.set(xlabel="prediction", ylabel="target")
    are = "classes without test images are" if hidden > 1 else "class without test images is"
    note = f"\n{hidden} {are} not shown" if hidden else ""
    figure.suptitle(_plain(title) + note, fontsize=11)
    axes.spines[:].set_visible(False)
    if len(labels) <= MAX_CLASSES_WITH_COUNTS:
        for i, j in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[i, j] > 0.55 else "#1d2433"
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=7, color=colour)
    bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 4 / side), pad=0.02)
    bar.set_label("share of the target class", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    return figure


def roc(result: dict, *, title: str) -> Figure:
    """One-vs-rest ROC curves as ``metrics.roc`` gives them.

    Up to ten classes each have a colour; of more, the five with the lowest area do and the rest are grey.
    Classes without a curve are named with the reason.
    """
    defined = sorted((c for c in result["classes"] if c["auc"] is not None), key=lambda c: c["auc"])
    undefined = [c for c in result["classes"] if c["auc"] is None]
    few = len(defined) <= MAX_CURVES_IN_COLOUR
    named = defined if few else defined[:5]
    figure = _figure(8.2, 5.4)
    axes = figure.subplots()
    for curve in defined[len(named) :]:
        axes.plot(curve["fpr"], curve["tpr"], color="#c3c9d4", linewidth=0.8, zorder=1)
    for curve, colour in zip(named, COLOURS, strict=False):
        label = f"{_short(curve['class'])}  {curve['auc']:.3f}  (n={curve['support']})"
        axes.plot(curve["fpr"], curve["tpr"], color=colour, linewidth=1.8, label=label, zorder=2)
    axes.plot([0, 1], [0, 1], color="#98a2b3", linestyle=":", linewidth=1)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal")
    axes.spines[["top", "right"]].set_visible(False)
    macro = result["macro_auc"]
    title = _plain(title)
    heading = f"{title}: macro AUC {macro:.3f}" if macro is not None else f"{title}: no curve is defined"
    axes.set_title(heading, fontsize=11)
    if named:
        legend_title = "AUC by class" if few else f"lowest 5 of {len(defined)} classes (others grey)"
        axes.legend(frameon=False, title=legend_title, fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    if undefined:
        shown = "\n".join(f"{_short(c['class'])}: {c['reason']}" for c in undefined[:8])
        rest = f"\nand {len(undefined) - 8} more" if len(undefined) > 8 else ""
        axes.text(1.04, 0.0, f"without a curve:\n{shown}{rest}", fontsize=7.5, color="#667085",
                  transform=axes.transAxes, va="bottom")  # fmt: skip
    return figure


def ranking(names: Sequence[str], values: Sequence[float], *, title: str, unit: str) -> Figure:
    """Horizontal bars, best on top, each with its value."""
    figure = _figure(7.5, 1.2 + 0.34 * len(names))
    axes = figure.subplots()
    positions = np.arange(len(names))[::-1]
    axes.barh(positions, values, color=[COLOURS[0]] + ["#a9c3e4"] * (len(names) - 1), height=0.66)
    for position, value in zip(positions, values, strict=True):
        axes.text(value, position, f" {value:.3f}", va="center", fontsize=8.5)
    axes.set_yticks(positions, [_short(name) for name in names], fontsize=9)
    axes.set(title=title, xlabel=unit)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
