"""Lines over epochs."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from fmtl.reports.plots.style import COLOURS, bare, in_style, new_figure, plain
from fmtl.reports.words import shortened

LINES = ("-", "--", ":", "-.")
ROWS = 22  # of the legend in one column


@in_style
def curves(
    series: Mapping[str, Sequence[float]], *, epochs: Sequence[int], best_epoch: int, title: str, unit: str
) -> Figure:
    """Lines over epochs, each named with its value at the best epoch, which is marked.

    Args:
        series: A value per epoch, by name; nan leaves a gap.
        unit: Label of the vertical axis; ``score`` fixes it to [0, 1], ``learning rate`` makes it logarithmic.
    """
    columns = -(-len(series) // ROWS)
    figure = new_figure(7.5 + 1.9 * (columns - 1), max(4.2, 0.22 * min(len(series), ROWS) + 0.8))
    axes = figure.subplots()
    for i, (name, values) in enumerate(series.items()):
        value = values[list(epochs).index(best_epoch)]
        axes.plot(
            epochs, values, color=COLOURS[i % len(COLOURS)], linestyle=LINES[i // len(COLOURS) % len(LINES)],
            linewidth=2, marker="o", markersize=3.5, label=f"{plain(shortened(name, 22))} {_value(value, unit)}",
        )  # fmt: skip
    axes.axvline(best_epoch, color="#98a2b3", linestyle="--", linewidth=1, zorder=0)
    axes.set(xlabel="epoch", ylabel=unit, title=plain(title))
    axes.set_xlim(min(epochs) - 0.3, max(epochs) + 0.3)
    ticks: Any = axes.xaxis.get_major_locator()
    ticks.set_params(integer=True)
    if unit == "score":
        axes.set_ylim(0, 1)
    elif unit == "learning rate":
        axes.set_yscale("log")
    axes.grid(alpha=0.25)
    bare(axes)
    axes.legend(
        frameon=False, title=f"at epoch {best_epoch} (best)", loc="center left", bbox_to_anchor=(1.0, 0.5),
        ncols=columns, fontsize=8.5,
    )  # fmt: skip
    return figure


def _value(value: float, unit: str) -> str:
    return f"{value:.2g}" if unit == "learning rate" else f"{value:.3f}"
