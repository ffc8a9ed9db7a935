"""What all figures share: size, colours, fonts, and names that fit."""

from collections.abc import Callable, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Literal

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fmtl.reports.words import MAX_LABEL_CHARS, one_line, shortened
from fmtl.storage import durable

COLOURS = ("#2f6db5", "#e3a33b", "#4b9a6a", "#b5495b", "#7a5da8", "#4aa5b5", "#9c7a4b", "#d97ba6", "#6b7280", "#97b53c")
INK, MUTED, PALE = "#1d2433", "#667085", "#c3c9d4"
DPI = 110
# Tried in this order for what the first does not have; those that are not installed are skipped.
FAMILIES = (
    "DejaVu Sans", "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
    "Source Han Sans SC", "IPAexGothic", "NanumGothic", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic",
    "Malgun Gothic", "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Hebrew",
    "Noto Sans Arabic",
    "Nirmala UI", "Leelawadee UI", "Symbola", "Noto Sans Symbols 2",
)  # fmt: skip


@cache
def families() -> list[str]:
    """The installed ones of ``FAMILIES``."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in FAMILIES if name in installed]


@cache
def _characters() -> frozenset[int]:
    """Code points that the installed families can draw."""
    paths = [font_manager.findfont(name) for name in families()]
    return frozenset().union(*(font_manager.get_font(path).get_charmap() for path in paths))


def is_drawable(text: str) -> bool:
    return all(ord(character) in _characters() for character in text)


def in_style(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw with the families' fonts, and leave the process's own settings as they were."""

    @wraps(draw)
    def styled(*args: object, **kwargs: object) -> Figure:
        with mpl.rc_context({"font.family": families()}):
            return draw(*args, **kwargs)

    return styled


def new_figure(width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained") -> Figure:
    """A figure of its own, in inches; nothing global, so plots may be drawn beside training.

    Args:
        layout: matplotlib's; ``compressed`` where axes have a fixed aspect.
    """
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save(path: Path, figure: Figure) -> None:
    """Write a figure of ``new_figure`` as a PNG."""
    with durable.replacing(path) as temporary, mpl.rc_context({"font.family": families()}):
        FigureCanvasAgg(figure).print_png(temporary)  # savefig draws twice, for formats that need it


def plain(text: str) -> str:
    """Text that matplotlib takes as it is.

    Between two dollar signs it would read mathematics, and it leaves names with an underscore in front out of legends.
    """
    text = one_line(text)
    text = f" {text}" if text.startswith("_") else text
    drawable = "".join(character if is_drawable(character) else "□" for character in text)
    return drawable.replace("$", r"\$")


def class_names(classes: Sequence[str], most: int = MAX_LABEL_CHARS) -> list[str]:
    """Short names of classes; one that no installed font can draw becomes its number, ``#17``."""
    return [plain(shortened(name, most)) if is_drawable(name) else f"#{k}" for k, name in enumerate(classes)]


def undrawable_note(classes: Sequence[str]) -> str:
    """Says what numbers for names mean; empty where every name can be drawn."""
    missing = sum(not is_drawable(name) for name in classes)
    return f"\n#n: {missing} names that no font here can draw,\ntheir places are in tasks.json" if missing else ""


def bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def with_panel(width: float, height: float, panel: float) -> tuple[Figure, Axes, Axes]:
    """A figure with a plot of a width and, to its right, an empty panel for words (inches)."""
    figure = new_figure(width + panel, height)
    axes, side = figure.subplots(1, 2, width_ratios=[width, panel])
    side.set(xlim=(0, 1), ylim=(0, 1))
    side.axis("off")
    bare(axes)
    return figure, axes, side


def write_lines(side: Axes, heading: str, lines: Sequence[str], *, top: float = 1.0) -> float:
    """Lines of text in a panel, from ``top`` (a share of its height) down. Returns where they end."""
    figure = side.get_figure(root=True)
    assert figure is not None
    step = 0.24 / figure.get_figheight()
    for i, line in enumerate([heading, *lines]):
        size, colour = (8.5, MUTED) if i == 0 else (8, INK)
        side.text(0, top - i * step, line, fontsize=size, color=colour, va="top")
    return top - (len(lines) + 1.5) * step
