"""One decode policy: from an image file to a square of uint8 pixels, or the reason why not."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 100_000_000  # a 100-megapixel photo decodes to 300 MB
FITS = ("pad", "crop", "stretch")
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


class ImageError(Exception):
    """An image that can't be used.

    Attributes:
        reason: One word for counting: missing, outside_root, empty, not_an_image, too_large, truncated.
        detail: What was found.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def resolve(root: Path, relative: str) -> Path:
    """The image file under ``root``; nothing outside it is ever opened, symbolic links included.

    Raises:
        ImageError: ``outside_root`` or ``missing``.
    """
    if "\0" in relative or "://" in relative or Path(relative).is_absolute() or ".." in Path(relative).parts:
        raise ImageError("outside_root", f"'{relative}' is not a path below the image folder")
    path = root / relative
    try:
        resolved = path.resolve(strict=True)
    except OSError as error:  # absent, a loop of links, a name too long, no permission
        raise ImageError("missing", f"'{relative}': {error.strerror or error}") from error
    except RuntimeError as error:  # how Python 3.11 and 3.12 report a loop of links
        raise ImageError("missing", f"'{relative}': {error}") from error
    if not resolved.is_relative_to(root.resolve()):
        raise ImageError("outside_root", f"'{relative}' links to a place outside the image folder")
    if not resolved.is_file():
        raise ImageError("missing", f"'{relative}' is not a file")
    return resolved


def decode(content: bytes, *, px: int, fit: str = "pad", background: str = "#ffffff") -> np.ndarray:
    """Decode in full and fit into a square.

    EXIF rotation is applied, transparency laid on ``background``, grey and palette images become RGB,
    16-bit ones are scaled by their range, and of several frames the first is taken. Large JPEGs are decoded
    at a reduced scale, never below twice the target.

    Args:
        content: The file's bytes.
        px: Side of the square.
        fit: ``pad`` keeps all and fills with ``background``; ``crop`` keeps the middle; ``stretch`` distorts.
        background: A colour as Pillow reads it, such as ``#ffffff``.

    Returns:
        ``(px, px, 3)`` uint8, RGB.

    Raises:
        ImageError: With the reason.
    """
    if not content:
        raise ImageError("empty", "0 bytes")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError("too_large", f"{width}x{height} pixels, more than {MAX_PIXELS}")
            image.draft(None, (2 * px, 2 * px))  # JPEG only: decode at 1/2, 1/4 or 1/8
            image.load()
            rgb = _to_rgb(ImageOps.exif_transpose(image), background)
    except (ImageError, MemoryError):
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageError("not_an_image", _what_it_is(content)) from error
    except Exception as error:  # a damaged file may fail anywhere in a decoder: struct.error, KeyError, ...
        raise ImageError("truncated", str(error)) from error
    return np.asarray(_fit(rgb, px, fit, background))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings of odd metadata: the pixels decide.

    Enter it once around many images, not per image: it changes state that threads share.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def read(path: Path) -> bytes:
    """An image file's bytes; ImageError ``missing`` where it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError("missing", f"{path.name}: {error.strerror}") from error


def load(path: Path, *, px: int, fit: str = "pad", background: str = "#ffffff") -> np.ndarray:
    """``decode`` of a file."""
    return decode(read(path), px=px, fit=fit, background=background)


def _to_rgb(image: Image.Image, background: str) -> Image.Image:
    if image.mode in SIXTEEN_BIT_MODES:
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        return Image.fromarray((values.clip(0, top) * (255.0 / top)).round().astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, background)
        return Image.alpha_composite(canvas, layer).convert("RGB")
    return image.convert("RGB")


def _fit(image: Image.Image, px: int, fit: str, background: str) -> Image.Image:
    resample = Image.Resampling.BILINEAR
    if fit == "stretch":
        return image.resize((px, px), resample)
    if fit == "crop":
        return ImageOps.fit(image, (px, px), resample)
    return ImageOps.pad(image, (px, px), resample, color=background)


def _what_it_is(content: bytes) -> str:
    head = content[:64].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not an image"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer; run 'git lfs pull'"
    return f"no known image format (first bytes {content[:8]!r})"
