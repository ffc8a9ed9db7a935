"""One decode policy: from an image file to a square of uint8 pixels, or the reason why not."""

import contextlib
import io
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import simplejpeg
from PIL import Image, ImageColor, UnidentifiedImageError

from fmtl.catalogue.photos.folder import MAX_BYTES, ImageError
from fmtl.catalogue.reasons import Reason
from fmtl.dataset.pixels import colour, headers, limits
from fmtl.dataset.pixels.flatten import LARGE, WHOLE, Part, flatten, shrunk

SUFFIXES = {  # of the formats that are decoded; anything else is refused whatever its name
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
}
HEIF = "HEIF"  # by an extra
FORMATS = tuple(name for name in SUFFIXES if name != HEIF)
_UPRIGHT = {
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.transpose(1, 0, 2),
    6: lambda rgb: rgb.transpose(1, 0, 2)[:, ::-1],
    7: lambda rgb: rgb.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda rgb: rgb.transpose(1, 0, 2)[::-1],
}
_HEIF_STARTS = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"))
# Of a JPEG: may tell of a rotation, of further pictures, or of other colours.
_METADATA = (b"Exif\0\0", b"MPF\0", b"ICC_PROFILE\0")


@dataclass(frozen=True)
class Facts:
    """What an image file was, beside its pixels.

    Attributes:
        format: One of ``FORMATS``.
        mode: Pillow's name of the pixel layout, such as ``RGB`` or ``CMYK``.
        notes: Of ``rotated``, ``transparent``, ``first_frame``, ``profile``.
        width: Pixels, upright.
        height: Pixels, upright.
    """

    format: str
    mode: str
    notes: tuple[str, ...]
    width: int
    height: int


def decode(
    content: bytes, *, px: int, fit: str = "pad", background: str = "#ffffff", profiles: bool = True
) -> np.ndarray:
    """``decode_into`` a new ``(px, px, 3)`` uint8 array."""
    out = np.empty((px, px, 3), np.uint8)
    decode_into(out, content, fit=fit, background=background, profiles=profiles)
    return out


def decode_into(out: np.ndarray, content: bytes, *, fit: str, background: str, profiles: bool) -> Facts:
    """Decode in full and fit into a square.

    EXIF rotation is applied, transparency laid on ``background``, grey and palette images become RGB,
    16-bit ones are scaled by their range, and of several frames the first is taken. JPEGs are decoded at the
    smallest of libjpeg-turbo's scales (eighths) that is not below the target.

    Args:
        out: ``(px, px, 3)`` uint8, filled with RGB.
        content: The file's bytes.
        fit: ``pad`` keeps all and fills with ``background``; ``crop`` keeps the middle; ``stretch`` distorts.
        background: A colour as Pillow reads it, such as ``#ffffff``.
        profiles: Pixels of another colour profile than sRGB are turned into sRGB.

    Raises:
        ImageError: With the reason.
    """
    if not content:
        raise ImageError(Reason.EMPTY, "0 bytes")
    if len(content) > MAX_BYTES:
        raise ImageError(Reason.TOO_LARGE, f"{len(content):,} bytes, more than {MAX_BYTES:,}")
    return _decode_plain_jpeg(out, content, fit, background) or _decode_any(out, content, fit, background, profiles)


def full_size(content: bytes, *, background: str, profiles: bool) -> np.ndarray:
    """``(H, W, 3)`` uint8 RGB, upright, at the photo's own size: what ``decode`` makes before it fits it, but of a JPEG
    by Pillow in full.

    Raises:
        ImageError: As ``decode``; ``TOO_LARGE`` of more pixels than are fitted at once.
    """
    try:
        limits.check_parts(content)
        with _opened(content) as image:
            limits.check_size(image.format, *image.size)
            limits.check_bytes(image.format, content)
            if image.width * image.height > LARGE:
                raise ImageError(Reason.TOO_LARGE, f"more than {LARGE:,} pixels")
            orientation = _orientation(image, content)
            image.load()
            rgb, _ = flatten(image, image.size, WHOLE, background, [], profiles)
            if orientation > 1 and image.format not in ("TIFF", HEIF):
                rgb = _UPRIGHT[orientation](rgb)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # as in _decode_any
        raise ImageError(Reason.DAMAGED, str(error)) from error
    return np.ascontiguousarray(rgb)


def size(content: bytes) -> tuple[int, int] | None:
    """Width and height as the file has them, by its header; None where that says nothing."""
    try:
        with _opened(content) as image:
            return image.size
    except Exception:  # whatever it is, decoding says so
        return None


def fitted(rgb: np.ndarray, *, px: int, fit: str, background: str) -> np.ndarray:
    """``(H, W, 3)`` uint8 to ``(px, px, 3)``: the second half of ``decode``."""
    out = np.empty((px, px, 3), np.uint8)
    target, part = _geometry((rgb.shape[1], rgb.shape[0]), px, fit)
    _place(out, rgb, part, target, background)
    return out


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings of odd metadata: the pixels decide.

    Enter it once around many images, not per image: it changes state that threads share.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def heif_version() -> str | None:
    """Of what reads HEIC photos; None where it is not installed."""
    try:
        return version("pillow-heif")
    except PackageNotFoundError:
        return None


def _orientation(image: Image.Image, content: bytes) -> int:
    if image.format == "PNG":
        image.load()  # its metadata may follow its pixels
    exif = content if image.format == "TIFF" else image.info.get("exif")
    if not isinstance(exif, bytes):
        return 1
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    return headers.orientation(exif.removeprefix(b"Exif\0\0"), xmp.encode() if isinstance(xmp, str) else xmp)


def _has_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # what follows the first frame may be damaged
        return True


def _geometry(size: tuple[int, int], px: int, fit: str) -> tuple[tuple[int, int], Part]:
    """Size of the scaled picture, and which part of it is shown."""
    width, height = size
    if fit == "stretch":
        return (px, px), WHOLE
    if fit == "pad":
        scale = px / max(size)
        return (max(1, round(width * scale)), max(1, round(height * scale))), WHOLE
    scale = px / min(size)
    left, top = (1 - min(1, height / width)) / 2, (1 - min(1, width / height)) / 2
    return (max(px, round(width * scale)), max(px, round(height * scale))), (left, top, 1 - left, 1 - top)


def _decode_plain_jpeg(out: np.ndarray, content: bytes, fit: str, background: str) -> Facts | None:
    """The common case without Pillow's overhead; None for all that needs a closer look."""
    if not content.startswith(b"\xff\xd8\xff") or any(name in content for name in _METADATA):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    if colours not in ("YCbCr", "Gray"):
        return None
    limits.check_size("JPEG", width, height)
    target, box = _geometry((width, height), len(out), fit)
    _check_jpeg(content, (width, height), target)
    rgb = _scaled(content, width, height, target)
    if rgb is None:
        return None
    _place(out, *shrunk(rgb, target, box), target, background)
    return Facts("JPEG", "L" if colours == "Gray" else "RGB", (), width, height)


def _opened(content: bytes) -> Image.Image:
    """Not decoded yet. A HEIC photo needs an extra."""
    if not content[4:12].startswith(_HEIF_STARTS):
        return Image.open(io.BytesIO(content), formats=FORMATS)
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError(Reason.FORMAT, "HEIC; pip install 'fmtl[heic]' reads it") from error
    try:
        heif = pillow_heif.open_heif(io.BytesIO(content), convert_hdr_to_8bit=True)
    except Exception as error:  # what libheif refuses, of any kind
        raise ImageError(Reason.FORMAT, f"HEIC that can't be read ({error})") from error
    limits.check_size(HEIF, *heif.size)
    limits.check_bytes(HEIF, content)
    image = heif.to_pillow()
    image.format = HEIF
    return image


def _decode_any(out: np.ndarray, content: bytes, fit: str, background: str, profiles: bool) -> Facts:
    try:
        limits.check_parts(content)
        with _opened(content) as image:
            limits.check_size(image.format, *image.size)
            limits.check_bytes(image.format, content)
            orientation = _orientation(image, content)
            notes = ["rotated"] * (orientation > 1)
            if image.format in ("TIFF", HEIF):
                orientation = 1  # turned already, their size included
            turned = orientation > 4
            size = image.size[::-1] if turned else image.size
            target, box = _geometry(size, len(out), fit)
            least = target[::-1] if turned else target
            if _has_frames(image):
                notes.append("first_frame")
            part = (box[1], box[0], box[3], box[2]) if turned else box
            rgb, part = _pixels(image, content, least, part, background, notes, profiles)
            box = box if part != WHOLE else WHOLE
            if orientation > 1:
                rgb = _UPRIGHT[orientation](rgb)
            facts = Facts(
                "JPEG" if image.format == "MPO" else str(image.format), image.mode, tuple(dict.fromkeys(notes)), *size
            )
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(Reason.TOO_LARGE, "far more pixels than a photo has") from error
    except UnidentifiedImageError as error:
        raise headers.not_an_image(content, FORMATS) from error
    except Exception as error:  # a damaged file may fail anywhere in a decoder: struct.error, KeyError, ...
        reason = Reason.TRUNCATED if "truncated" in str(error).lower() else Reason.DAMAGED
        raise ImageError(reason, str(error)) from error
    _place(out, rgb, box, target, background)
    return facts


def _pixels(
    image: Image.Image,
    content: bytes,
    least: tuple[int, int],
    part: Part,
    background: str,
    notes: list[str],
    profiles: bool,
) -> tuple[np.ndarray, Part]:
    """RGB at a size not below ``least``, as the file has it turned, and the part of it that is shown."""
    if image.format in ("JPEG", "MPO"):
        found = _check_jpeg(content, image.size, least)
        rgb = _scaled(content, *image.size, least) if image.mode in ("RGB", "L") else None
        if rgb is not None:
            rgb, part = shrunk(rgb, least, part)
            profile = image.info.get("icc_profile") if profiles else None
            if profile and (transform := colour.to_srgb(profile, image.mode)):
                notes.append("profile")
                rgb = np.asarray(transform.apply(Image.fromarray(rgb).convert(image.mode)))
            return rgb, part
        num_pixels = image.width * image.height
        image.draft(None, least)  # 1/2, 1/4 or 1/8
        limits.check_memory(found, num_pixels, 5 * image.width * image.height)
    image.load()
    return flatten(image, least, part, background, notes, profiles)


def _check_jpeg(content: bytes, size: tuple[int, int], least: tuple[int, int]) -> headers.Jpeg:
    """Raise ImageError where it is cut short, or asks for too much at the scale at which it will be decoded."""
    found = headers.jpeg(content, most=limits.MOST_SEGMENTS)
    headers.check_end(content, found.scan)
    limits.check_scans(content, found, size[0] * size[1])
    eighths = max(math.ceil(8 * min(least[i], size[i]) / size[i]) for i in (0, 1))
    limits.check_memory(found, size[0] * size[1], 3 * size[0] * size[1] * eighths**2 // 64)
    return found


def _scaled(content: bytes, width: int, height: int, least: tuple[int, int]) -> np.ndarray | None:
    """A JPEG at the smallest scale not below ``least``, strictly; None where Pillow should decide."""
    try:
        return simplejpeg.decode_jpeg(content, min_width=min(least[0], width), min_height=min(least[1], height))
    except ValueError:  # harmless oddities as well as damage
        return None


def _place(out: np.ndarray, rgb: np.ndarray, box: Part, target: tuple[int, int], background: str) -> None:
    px = len(out)
    size = (min(target[0], px), min(target[1], px))
    height, width = rgb.shape[:2]
    if (width, height) != size or box != WHOLE:
        part = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
        rgb = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR, box=part))
    if size != (px, px):
        np.copyto(out, _canvas(px, background))
    left, top = (px - size[0]) // 2, (px - size[1]) // 2
    lines = out[top : top + size[1]].reshape(size[1], -1)  # copied line by line, twice as fast as pixel by pixel
    lines[:, 3 * left : 3 * (left + size[0])] = rgb.reshape(size[1], -1)


@lru_cache(maxsize=4)
def _canvas(px: int, background: str) -> np.ndarray:
    return np.full((px, px, 3), ImageColor.getrgb(background)[:3], np.uint8)
