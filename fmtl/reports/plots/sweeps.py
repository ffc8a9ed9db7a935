"""How a sweep went: what each trial came to, and which settings decided it."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from fmtl.reports.plots.style import COLOURS, INK, MUTED, PALE, bare, in_style, new_figure, plain

MOST_BARS = 12


@in_style
def sweep(
    values: Sequence[float | None], importances: Mapping[str, float], *, metric: str, more: bool, title: str
) -> Figure:
    """Values by trial with the best so far, and beside them the settings' importances, where there are any.

    Args:
        values: In the order of the trials; None where one came to none.
        more: Whether more is better.
    """
    wide = bool(importances)
    figure = new_figure(9.6 if wide else 6.4, 3.8)
    axes = figure.subplots(1, 2, width_ratios=[1.6, 1])[0] if wide else figure.subplots()
    known = np.array([np.nan if value is None else value for value in values], dtype=float)
    numbers = np.arange(len(known))
    if np.isfinite(known).any():
        so_far = (np.fmax if more else np.fmin).accumulate(known)
        axes.step(numbers, so_far, where="post", color=INK, linewidth=1.4, label="best so far")
        axes.scatter(numbers, known, s=18, color=COLOURS[0], label="trial", zorder=3)
        axes.legend(frameon=False, fontsize=8)
    lost = numbers[~np.isfinite(known)]
    axes.plot(lost, np.zeros(len(lost)), "|", color=MUTED, transform=axes.get_xaxis_transform(), markersize=9)
    axes.set(xlabel="trial (marks at the foot: ended early or failed)", ylabel=plain(metric))
    axes.grid(axis="y", color=PALE, linewidth=0.5)
    bare(axes)
    if wide:
        beside = figure.axes[1]
        shown = list(importances.items())[:MOST_BARS][::-1]
        beside.barh([plain(name) for name, _ in shown], [share for _, share in shown], color=COLOURS[0], height=0.6)
        beside.set(xlabel="share of the values' variance", xlim=(0, 1))
        beside.tick_params(axis="y", labelsize=8)
        bare(beside)
    figure.suptitle(plain(title), fontsize=11)
    return figure
