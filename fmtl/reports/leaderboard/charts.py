"""Small charts as SVG, for a page that loads nothing. Sizes are in CSS pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

from fmtl.errors import neutral

COLOURS = (
    "#2f6db5", "#e3a33b", "#4b9a6a", "#b5495b", "#7a5ea8", "#3b9aa5", "#c46a2c", "#6b7280", "#d17fae", "#8a9a2d",
    "#1f3d63", "#a58b6f",
)  # fmt: skip
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 560, 300, 52, 40, 12, 14
NUM_TICKS = 5
NAMES_WIDTH, LEAST_NAMED, MOST_LETTERS = 110, 13, 18  # of a matrix whose cells are large enough for names beside them


@dataclass(frozen=True)
class Point:
    """What is drawn in a scatter chart.

    Attributes:
        low, high: Bounds of ``y``; nan for none.
        number: Which row of the table it is; 0 for none.
    """

    name: str
    x: float
    y: float
    low: float = math.nan
    high: float = math.nan
    number: int = 0


def interval(low: float, middle: float, high: float, bounds: tuple[float, float]) -> Markup:
    """A line from ``low`` to ``high`` with a dot, on the scale of ``bounds``; the dashed line is at 0."""
    width, start = 150, min(bounds[0], 0.0)
    scale = (width - 10) / (max(bounds[1], 0.0) - start or 1)
    x = [5 + (value - start) * scale for value in (low, middle, high, 0.0)]
    return Markup(
        '<svg class="interval" width="{w}" height="16" viewBox="0 0 {w} 16" role="img" aria-label="{label}">'
        '<line x1="{zero:.1f}" x2="{zero:.1f}" y1="0" y2="16" class="zero"/>'
        '<line x1="{low:.1f}" x2="{high:.1f}" y1="8" y2="8" class="reach"/>'
        '<circle cx="{middle:.1f}" cy="8" r="3.5" class="dot"/></svg>'
    ).format(w=width, label=f"{low:+.3f} to {high:+.3f}", low=x[0], middle=x[1], high=x[2], zero=x[3])


def scatter(points: Sequence[Point], *, x_label: str, y_label: str) -> Markup:
    """Scores against a cost, on a logarithmic scale; the line joins those that none is better and cheaper than."""
    there = [replace(p, name=neutral(p.name)) for p in points if math.isfinite(p.x) and p.x > 0 and math.isfinite(p.y)]
    if len(there) < 2:
        return Markup("")
    xs = np.log10([p.x for p in there])
    ends = [value for p in there for value in (p.y, p.low, p.high) if math.isfinite(value)]
    axes = _Axes(_padded(xs.min(), xs.max(), 0.06), _padded(min(ends), max(ends), 0.06))
    front = pareto(there)
    parts = [axes.frame(x_label, y_label, x_is_log=True), axes.steps([(math.log10(p.x), p.y) for p in front])]
    for p in there:
        x, y = axes.x(math.log10(p.x)), axes.y(p.y)
        if math.isfinite(p.low):
            parts.append(
                Markup('<line x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}" class="reach"/>').format(
                    x, axes.y(p.low), axes.y(p.high)
                )
            )
        kind = "front" if p in front else "dot"
        parts.append(
            Markup(
                '<circle cx="{:.1f}" cy="{:.1f}" r="4.5" class="{}"><title>{}: {:.4g}, {:.3f}</title></circle>'
            ).format(x, y, kind, p.name, p.x, p.y)
        )
        parts.append(Markup('<text x="{:.1f}" y="{:.1f}">{}</text>').format(x + 7, y + 4, p.number or p.name))
    return _svg(parts, f"{y_label} against {x_label}")


def pareto(points: Sequence[Point]) -> list[Point]:
    """Those that no other is both at least as good and at most as dear as, the cheapest first."""
    found: list[Point] = []
    for p in sorted(points, key=lambda p: (p.x, -p.y)):
        if not found or p.y > found[-1].y:
            found.append(p)
    return found


def lines(series: Sequence[tuple[str, Sequence[float], Sequence[float]]], *, x_label: str, y_label: str) -> Markup:
    """Lines by name, ``(name, x, y)``."""
    ys = [value for _, _, values in series for value in values if math.isfinite(value)]
    xs = [value for _, values, _ in series for value in values]
    if not ys:
        return Markup("")
    series = [(neutral(name), x, y) for name, x, y in series]
    axes = _Axes((min(xs), max(xs)), _padded(min(ys), max(ys), 0.05))
    parts = [axes.frame(x_label, y_label)]
    for n, (name, x, y) in enumerate(series):
        path = " ".join(f"{axes.x(a):.1f},{axes.y(b):.1f}" for a, b in zip(x, y, strict=True) if math.isfinite(b))
        parts.append(
            Markup(
                '<polyline points="{}" fill="none" stroke="{}" stroke-width="1.8"><title>{}</title></polyline>'
            ).format(path, COLOURS[n % len(COLOURS)], name)
        )
    return _svg(parts, f"{y_label} over {x_label}")


def matrix(counts: np.ndarray, classes: Sequence[str], title: str) -> Markup:
    """Photos of a class (rows) that were said to be another (columns); negative ones are fewer than elsewhere.

    Args:
        counts: ``(K, K)``.
    """
    size, classes, title = len(classes), [neutral(name) for name in classes], neutral(title)
    cell = max(5, min(26, 380 // max(size, 1)))
    margin, side = (NAMES_WIDTH if cell >= LEAST_NAMED else 0), size * cell
    most = max(int(np.abs(counts).max(initial=0)), 1)
    parts = [Markup('<rect x="{}" width="{s}" height="{s}" class="ground"/>').format(margin, s=side)]
    for row, name in enumerate(classes if margin else ()):
        shown = name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + "…"
        parts.append(
            Markup('<text x="{}" y="{:.1f}" class="end">{}</text>').format(margin - 5, (row + 0.5) * cell + 4, shown)
        )
    for row, column in zip(*np.nonzero(counts), strict=True):
        value = int(counts[row, column])
        parts.append(
            Markup(
                '<rect x="{}" y="{}" width="{s}" height="{s}" fill="{}" fill-opacity="{:.2f}">'
                "<title>{} as {}: {}</title></rect>"
            ).format(
                margin + column * cell, row * cell, fill(value, row == column),
                0.15 + 0.85 * math.sqrt(abs(value) / most), classes[row], classes[column], value, s=cell,
            )
        )  # fmt: skip
    return Markup(
        '<figure class="matrix"><figcaption>{}</figcaption><svg width="{width}" height="{side}" '
        'viewBox="0 0 {width} {side}" role="img" aria-label="{}">{}</svg></figure>'
    ).format(title, title, Markup("").join(parts), side=side, width=margin + side)


def fill(value: int, is_right: bool) -> str:
    """Of a cell: blue on the diagonal and red beside it, the other way round where it is less than elsewhere."""
    return COLOURS[0] if is_right == (value > 0) else COLOURS[3]


class _Axes:
    def __init__(self, x: tuple[float, float], y: tuple[float, float]):
        self._x, self._y = x, y

    def x(self, value: float) -> float:
        return LEFT + (value - self._x[0]) / (self._x[1] - self._x[0] or 1) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self._y[0]) / (self._y[1] - self._y[0] or 1) * (HEIGHT - BOTTOM - TOP)

    def frame(self, x_label: str, y_label: str, *, x_is_log: bool = False) -> Markup:
        parts = []
        for value in MaxNLocator(NUM_TICKS).tick_values(*self._y):
            if self._y[0] <= value <= self._y[1]:
                parts.append(
                    Markup(
                        '<line x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>'
                        '<text x="{}" y="{:.1f}" class="end">{:.3g}</text>'
                    ).format(LEFT, WIDTH - RIGHT, LEFT - 6, self.y(value) + 4, value, y=self.y(value))
                )
        for value in _logarithmic(*self._x) if x_is_log else MaxNLocator(NUM_TICKS, integer=True).tick_values(*self._x):
            if self._x[0] <= value <= self._x[1]:
                shown = f"{10**value:g}" if x_is_log else f"{value:g}"
                parts.append(
                    Markup('<text x="{:.1f}" y="{}" class="middle">{}</text>').format(
                        self.x(value), HEIGHT - BOTTOM + 16, shown
                    )
                )
        parts.append(
            Markup('<text x="{}" y="{}" class="middle">{}</text><text x="{}" y="{}" class="soft">{}</text>').format(
                (LEFT + WIDTH) / 2, HEIGHT - 6, x_label, LEFT + 4, TOP + 6, y_label
            )
        )
        return Markup("").join(parts)

    def steps(self, points: Sequence[tuple[float, float]]) -> Markup:
        corners = [(x, y) for before, (x, y) in zip([points[0], *points], points, strict=False) for y in (before[1], y)]
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in corners)
        return Markup('<polyline points="{}" class="steps"/>').format(path)


def _logarithmic(low: float, high: float) -> list[float]:
    """Logarithms of 1, 2 and 5 times powers of ten; of fewer where they are many."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    steps = (1,) if high - low > NUM_TICKS else (1, 3) if high - low > NUM_TICKS / 2 else (1, 2, 5)
    found = [decade + math.log10(step) for decade in decades for step in steps]
    within = [value for value in found if low <= value <= high]
    return (
        [round(value, 9) for value in within]
        if len(within) > 1
        else [math.log10(float(f"{10**v:.2g}")) for v in (low, high)]
    )


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
    margin = (high - low) * share or 0.05
    return low - margin, high + margin


def _svg(parts: Sequence[Markup], label: str) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, escape(label), Markup("").join(parts)
    )
