"""Confusion matrices."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fmtl.reports.plots.style import INK, bare, class_names, in_style, new_figure, plain, undrawable_note
from fmtl.training import metrics

MAX_CLASSES_WITH_COUNTS = 25
MAX_NAMES = 150  # along an axis; of more classes every second, third, ... is named
MOST_CONFUSIONS, MAX_CHARS_IN_LIST = 12, 24
LIST_INCHES = 5.2
LARGEST_DRAWN, MOST_DRAWN = 512, 150  # classes: with more than the first, so many are drawn


@in_style
def confusion(counts: metrics.Confusion, classes: Sequence[str], *, title: str) -> Figure:
    """Confusion matrix, rows normalised, and its largest confusions as a list.

    Colour is the share of a class's images, numbers are counts. Classes with neither targets nor predictions are left
    out and counted in the title; of very many the ``MOST_DRAWN`` with most images are shown.

    Args:
        counts: ``(K, K)`` int64, rows are targets; may be sparse.
    """
    images = counts.sum(axis=0) + counts.sum(axis=1)
    seen = np.flatnonzero(images > 0)
    if len(seen) > LARGEST_DRAWN:
        seen = np.sort(seen[np.argsort(-images[seen], kind="stable")[:MOST_DRAWN]])
    names, short = class_names(classes), class_names(classes, MAX_CHARS_IN_LIST)
    labels = [names[i] for i in seen.tolist()]
    matrix = counts[np.ix_(seen, seen)] if isinstance(counts, np.ndarray) else counts[seen][:, seen].toarray()
    inches_per_class = 0.42 if len(labels) <= MAX_CLASSES_WITH_COUNTS else 0.19
    side = float(np.clip(inches_per_class * len(labels), 3.4, 30))
    figure = new_figure(side + 2.9 + LIST_INCHES, side + 2.6, layout="compressed")
    left, right = figure.subplots(1, 2, width_ratios=[side + 2.9, LIST_INCHES])
    _matrix(left, matrix, labels, side, shares=matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1))
    _largest(right, matrix, [short[i] for i in seen.tolist()], side)
    hidden = len(classes) - int((images > 0).sum())
    are = "classes without test images are" if hidden > 1 else "class without test images is"
    note = f"\n{hidden} {are} not shown" if hidden else ""
    if left := len(classes) - hidden - len(seen):
        note += f"\n{left} more with fewer images are not shown"
    figure.suptitle(plain(title) + note + undrawable_note([classes[i] for i in seen.tolist()]), fontsize=11)
    return figure


@in_style
def cooccurrence(labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str], *, title: str) -> Figure:
    """Which values of a set occur together, in the labels and in what was said: alike where the network has learnt it.

    Colour is the share of the images with a row's value that have the column's, too; numbers are images. Of very many
    values the ``MOST_DRAWN`` with most images are shown.

    Args:
        labels, predictions: ``(K, K)`` int64, images that have both values; those of one value in the diagonal.
    """
    images = labels.diagonal() + predictions.diagonal()
    seen = np.sort(np.argsort(-images, kind="stable")[: (images > 0).sum()][:MOST_DRAWN])
    names = class_names(classes)
    shown = [names[i] for i in seen.tolist()]
    side = float(np.clip((0.42 if len(shown) <= MAX_CLASSES_WITH_COUNTS else 0.19) * len(shown), 3.4, 30))
    figure = new_figure(2 * (side + 2.9), side + 2.6, layout="compressed")
    for axes, counts, what in zip(figure.subplots(1, 2), (labels, predictions), ("labels", "predictions"), strict=True):
        matrix = counts[np.ix_(seen, seen)]
        shares = matrix / np.maximum(matrix.diagonal()[:, None], 1)
        _matrix(axes, matrix, shown, side, shares=shares, names=("has, too", "images with"), unit="share of the row")
        axes.set_title(what, fontsize=10)
    hidden = f"\n{len(classes) - len(seen)} values are not shown" if len(seen) < len(classes) else ""
    figure.suptitle(plain(title) + hidden + undrawable_note([classes[i] for i in seen.tolist()]), fontsize=11)
    return figure


def _matrix(
    axes: Axes,
    counts: np.ndarray,
    labels: Sequence[str],
    side: float,
    *,
    shares: np.ndarray,
    names: tuple[str, str] = ("prediction", "target"),
    unit: str = "share of the target class",
) -> None:
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    few = len(labels) <= MAX_CLASSES_WITH_COUNTS
    step = -(-len(labels) // MAX_NAMES) or 1
    axes.set_xticks(range(0, len(labels), step), labels[::step], rotation=90, fontsize=8 if few else 7)
    axes.set_yticks(range(0, len(labels), step), labels[::step], fontsize=8 if few else 7)
    axes.tick_params(length=0)
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.spines[:].set_visible(False)
    if few:
        for i, j in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[i, j] > 0.55 else INK
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=7, color=colour)
    bar = axes.figure.colorbar(image, ax=axes, shrink=min(1.0, 4 / side), pad=0.02)
    bar.set_label(unit, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)


def _largest(axes: Axes, counts: np.ndarray, labels: Sequence[str], side: float) -> None:
    """Bars: images per mistake, the most frequent on top."""
    found = metrics.largest_confusions(counts, labels)
    shown = found.head(MOST_CONFUSIONS)
    positions = list(range(len(shown)))
    axes.barh(positions, shown["images"], color="#a9c3e4", height=0.62)
    for position, row in zip(positions, shown.itertuples(), strict=True):
        axes.text(0, position - 0.42, f"{row.target} → {row.prediction}", fontsize=7.5)
        axes.text(row.images, position, f" {row.images} ({row.share:.0%})", va="center", fontsize=7.5)
    rows = max(MOST_CONFUSIONS, side / 0.42)  # as high a row in a tall figure as in a small one
    axes.set_ylim(rows - 0.5, -1)
    axes.set_xlim(0, max(shown["images"].max() * 1.3, 1) if len(shown) else 1)
    of = f"the largest {len(shown)} of {len(found)}" if len(found) > len(shown) else "all"
    axes.set_title(f"confusions ({of}): target → prediction" if len(found) else "no confusions", fontsize=9)
    axes.set_yticks([])
    axes.xaxis.set_visible(False)
    axes.spines[["bottom", "left"]].set_visible(False)
    bare(axes)
