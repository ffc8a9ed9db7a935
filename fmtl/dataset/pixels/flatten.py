"""From any of Pillow's layouts to RGB at a size near the wanted one; a large picture strip by strip.

Transparency is laid on a background, 16-bit values are scaled by their range, other colours become sRGB.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from fmtl.dataset.pixels import colour

SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
LARGE = 8_000_000  # pixels: above, no copy of the whole picture is made
STRIP = 2_000_000  # pixels
Part = tuple[float, ...]  # left, top, right, bottom as shares of a picture
Region = tuple[int, int, int, int]  # the same in pixels
WHOLE: Part = (0, 0, 1, 1)


def flatten(
    image: Image.Image, least: tuple[int, int], part: Part, background: str, notes: list[str], profiles: bool
) -> tuple[np.ndarray, Part]:
    """RGB ``(H, W, 3)`` uint8, and the part of it that is shown: see ``shrunk``.

    Args:
        image: Loaded.
        background: What transparency is laid on.
        notes: ``transparent`` and ``profile`` are added where they hold.
        profiles: Whether colours of another profile than sRGB are turned into it.
    """
    white = _white(image) if image.mode in SIXTEEN_BIT_MODES else 0.0

    def rgb(piece: Image.Image) -> np.ndarray:
        return _grey(piece, white) if white else _rgb(piece, background, notes, profiles)

    if image.width * image.height <= LARGE:
        return rgb(image), part
    return _in_blocks(lambda region: rgb(image.crop(region)), image.size, least, part), WHOLE


def shrunk(rgb: np.ndarray, least: tuple[int, int], part: Part) -> tuple[np.ndarray, Part]:
    """Of a large picture only the part that is shown, at a whole fraction of its size not below twice ``least``.

    Args:
        rgb: ``(H, W, 3)`` uint8.
        least: Width and height that the whole is to have at least.
        part: Left, top, right, bottom as shares.

    Returns:
        The picture, and the part of it that is shown.
    """
    height, width = rgb.shape[:2]
    if width * height <= LARGE:
        return rgb, part
    return _in_blocks(lambda at: rgb[at[1] : at[3], at[0] : at[2]], (width, height), least, part), WHOLE


def _in_blocks(
    pixels: Callable[[Region], np.ndarray], size: tuple[int, int], least: tuple[int, int], part: Part
) -> np.ndarray:
    """Each pixel the mean of a block; of ``pixels``, which gives RGB of a region, only a strip is held at a time."""
    across, down = (max(1, side // (2 * wanted)) for side, wanted in zip(size, least, strict=True))
    down = max(1, min(down, STRIP // size[0]))
    left, top = int(part[0] * size[0]), int(part[1] * size[1])
    right, bottom = math.ceil(part[2] * size[0]), math.ceil(part[3] * size[1])
    exact = ((right - left) / across, (bottom - top) / down)
    found = np.empty((math.ceil(exact[1]), math.ceil(exact[0]), 3), np.uint8)
    lines = max(1, STRIP // ((right - left) * down)) * down
    for start in range(top, bottom, lines):
        strip = pixels((left, start, right, min(start + lines, bottom)))
        row = (start - top) // down
        found[row : row + lines // down] = np.asarray(Image.fromarray(strip).reduce((across, down)))
    if exact != (found.shape[1], found.shape[0]):  # the last blocks are cut off by the edge, and count by what is left
        small = (int(exact[0]), int(exact[1]))
        found = np.asarray(Image.fromarray(found).resize(small, Image.Resampling.BILINEAR, box=(0, 0, *exact)))
    return found


def _rgb(image: Image.Image, background: str, notes: list[str], profiles: bool) -> np.ndarray:
    if profiles and (found := colour.converted(image)):
        notes.append("profile")
        image = found
    if "A" in image.getbands() or "transparency" in image.info:
        notes.append("transparent")
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, background), layer)
    return np.asarray(image.convert("RGB"))


def _grey(image: Image.Image, white: float) -> np.ndarray:
    values = np.nan_to_num(np.asarray(image, dtype=np.float32))
    grey = (values.clip(0, white) * (255.0 / white)).round().astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _white(image: Image.Image) -> float:
    """White of a picture in more than 8 bits: of 32 nothing says it, so the smallest usual range that holds all."""
    if image.mode.startswith("I;16"):
        return 65535.0
    lines = max(1, STRIP // image.width)
    strips = (
        image.crop((0, top, image.width, min(top + lines, image.height))) for top in range(0, image.height, lines)
    )
    highest = max(float(np.nan_to_num(np.asarray(strip, dtype=np.float32)).max()) for strip in strips)
    return next((top for top in (1.0, 255.0, 65535.0) if highest <= 1.01 * top), highest)
