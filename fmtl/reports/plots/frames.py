"""A confusion matrix per epoch, cheap enough to be drawn between epochs.

matplotlib takes some tenths of a second for a matrix; this is an array of colours under names that are drawn once.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fmtl.reports.plots.style import INK
from fmtl.reports.words import one_line, shortened

SIDE = 640  # pixels of the matrix, about
LARGEST_CELL, SMALLEST_CELL = 44, 1
READABLE_CELL, COUNTED_CELL = 9, 22  # from here on cells have names, and counts
LABEL_CHARS = 22
HEAD, MARGIN = 26, 10


class ConfusionFrames:
    """Draws the confusion matrices of one task, epoch after epoch, all on the same canvas.

    Args:
        title: Of the task.
        classes: In index order. Where there are too many for names beside the cells there are none.
    """

    def __init__(self, title: str, classes: Sequence[str]):
        self._title, self._num = one_line(title), len(classes)
        self.cell = max(SMALLEST_CELL, min(LARGEST_CELL, SIDE // len(classes)))
        self._font = _font(min(12, max(8, self.cell - 2)))
        named = self.cell >= READABLE_CELL
        labels = [_name(self._font, k, name) for k, name in enumerate(classes)] if named else []
        self._room = max((int(self._font.getlength(label)) for label in labels), default=0) + MARGIN
        self._canvas = self._background(labels)

    def draw(self, counts: np.ndarray, *, epoch: int) -> Image.Image:
        """One frame. ``counts``: ``(K, K)`` int64, rows are targets; a cell's colour is its share of the row."""
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        colours = _blues()[(shares * 255).astype(int)]
        cells = Image.fromarray(colours).resize((self._num * self.cell,) * 2, Image.Resampling.NEAREST)
        frame = self._canvas.copy()
        frame.paste(cells, (self._room, HEAD + self._room))
        draw = ImageDraw.Draw(frame)
        draw.text((MARGIN, 6), f"{self._title}, validation, epoch {epoch}", fill=INK, font=_font(13))
        if self.cell >= COUNTED_CELL:
            for i, j in zip(*np.nonzero(counts), strict=True):
                centre = (self._room + (j + 0.5) * self.cell, HEAD + self._room + (i + 0.5) * self.cell)
                colour = "white" if shares[i, j] > 0.55 else INK
                draw.text(centre, str(counts[i, j]), fill=colour, font=_font(10), anchor="mm")
        return frame

    def _background(self, labels: Sequence[str]) -> Image.Image:
        side = self._num * self.cell
        width = max(self._room + side + MARGIN, int(_font(13).getlength(self._title)) + 190)
        canvas = Image.new("RGB", (width, HEAD + self._room + side + MARGIN), "white")
        if labels:
            canvas.paste(self._names(labels, "r"), (0, HEAD + self._room))
            canvas.paste(self._names(labels, "l").transpose(Image.Transpose.ROTATE_90), (self._room, HEAD))
        return canvas

    def _names(self, labels: Sequence[str], side: str) -> Image.Image:
        """Names below each other, a cell apart. ``side``: where they touch the edge, ``l`` or ``r``."""
        names = Image.new("RGB", (self._room, self._num * self.cell), "white")
        draw, x = ImageDraw.Draw(names), 4 if side == "l" else self._room - 4
        for k, label in enumerate(labels):
            draw.text((x, (k + 0.5) * self.cell), label, fill=INK, font=self._font, anchor=f"{side}m")
        return names


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


@cache
def _blues() -> np.ndarray:
    """``(256, 3)`` uint8."""
    return (mpl.colormaps["Blues"](np.arange(256))[:, :3] * 255).astype(np.uint8)


def _name(font: ImageFont.FreeTypeFont, number: int, name: str) -> str:
    """A short name, or ``#number`` where the font lacks one of its characters."""
    name = one_line(name)
    missing = font.getmask("\uffff")
    lacking = any(bytes(font.getmask(c)) == bytes(missing) for c in set(name) if not c.isspace())
    return f"#{number}" if lacking else shortened(name, LABEL_CHARS)
