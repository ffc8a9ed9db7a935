"""From any of Pillow's layouts to RGB at a size near the wanted one; a large picture strip by strip.

Transparency is laid on a background, 16-bit values are scaled by their range, other colours become sRGB.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from fmtl.dataset.pixels import colour

SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
LARGE = 8_000_000  # pixels: above, no copy of the whole picture is made
STRIP = 2_000_000  # pixels


def flatten(
    image: Image.Image, least: tuple[int, int], background: str, notes: list[str], profiles: bool
) -> np.ndarray:
    """RGB ``(H, W, 3)`` uint8, of the picture's own size; of a large one at a whole fraction not below twice ``least``.

    Args:
        image: Loaded.
        least: Width and height.
        background: What transparency is laid on.
        notes: ``transparent`` and ``profile`` are added where they hold.
        profiles: Whether colours of another profile than sRGB are turned into it.
    """
    white = _white(image) if image.mode in SIXTEEN_BIT_MODES else 0.0

    def rgb(part: Image.Image) -> np.ndarray:
        return _grey(part, white) if white else _rgb(part, background, notes, profiles)

    if image.width * image.height <= LARGE:
        return rgb(image)
    return reduced(lambda top, bottom: rgb(image.crop((0, top, image.width, bottom))), image.size, least)


def reduced(strip: Callable[[int, int], np.ndarray], size: tuple[int, int], least: tuple[int, int]) -> np.ndarray:
    """A picture of which only lines ``top`` to ``bottom`` are held at a time, each pixel the mean of a whole block.

    Args:
        strip: RGB of these lines.
        size: Width and height.
        least: The result is not below twice these, where the picture is not.
    """
    across, down = (max(1, side // (2 * wanted)) for side, wanted in zip(size, least, strict=True))
    lines = max(1, STRIP // (size[0] * down)) * down
    parts = [
        np.asarray(Image.fromarray(strip(top, min(top + lines, size[1]))).reduce((across, down)))
        for top in range(0, size[1], lines)
    ]
    found = np.concatenate(parts)
    if size[0] % across or size[1] % down:  # the last blocks are cut off by the edge, and count by what is left
        exact = (size[0] / across, size[1] / down)
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
