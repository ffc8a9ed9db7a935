"""What a file may ask of a decoder before it is decoded: pixels, scans, parts, memory, work.

No file of an allowed size takes more than 10 seconds of a processor or 500 MB; ``tests/dataset/decoding.py`` tries.
"""

import struct

from fmtl.catalogue.photos.folder import ImageError
from fmtl.catalogue.reasons import Reason
from fmtl.dataset.pixels import headers
from fmtl.dataset.pixels.headers import Jpeg

MEGA = 1_000_000
MAX_PIXELS = {  # by how much memory Pillow's decoder takes per pixel: 1 byte to 5, a film's up to 16
    "JPEG": 100 * MEGA,  # decoded at a smaller scale
    "MPO": 100 * MEGA,
    "WEBP": 25 * MEGA,
    "AVIF": 25 * MEGA,
}
MAX_PIXELS_ELSE = 50 * MEGA
MIN_SIDE, MAX_ASPECT = 8, 50  # below and beyond, nothing can be seen
MOST_SCANS, MOST_SCANNED = 100, 1_500_000_000  # a photo has one scan, a progressive one about ten
MOST_SEGMENTS = 1_000  # of a JPEG before its pixels, ten times what cameras write; between its scans ten times more
MOST_EXIF = 4  # segments of a JPEG: Pillow makes one of them, and numbers of its values
MOST_CHUNKS, MOST_OTHER_CHUNKS = 100_000, 1_000  # of a PNG; those that are not pixels
MOST_VALUES = 150_000  # of a tag of a TIFF: of two numbers per strip, where a strip is a line
MOST_HELD = 420 * MEGA  # bytes: pixels, and all numbers of a JPEG in several scans until the last has come
MAX_BYTES = {"WEBP": 32 << 20, "HEIF": 32 << 20}  # their decoders hold the file more than once
MAX_PACKED_BYTES = 12 << 20  # of a BMP in run lengths: Pillow unpacks it in Python
_PIXELS = (b"IDAT", b"fdAT")  # chunks of a PNG
_NUMBERS = (3, 4, 8, 9, 16)  # kinds of values of a TIFF that become a number each


def check_size(format: str | None, width: int, height: int) -> None:
    """Raise ImageError where a picture of a format is too large, or nothing could be seen in it."""
    most = MAX_PIXELS.get(str(format), MAX_PIXELS_ELSE)
    if width * height > most:
        told = f"{width}x{height} pixels, more than the {most // MEGA} million that a {format} may have"
        raise ImageError(Reason.TOO_LARGE, told)
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(Reason.DEGENERATE, f"{width}x{height} pixels; nothing can be seen in it")


def check_parts(content: bytes) -> None:
    """Raise ImageError where a file is made of so many parts that a mere look at it would take long."""
    if content.startswith(b"\xff\xd8"):
        found = headers.jpeg(content, most=MOST_SEGMENTS)
        if content.count(b"Exif\0\0", 0, found.scan) > MOST_EXIF:
            raise ImageError(Reason.TOO_LARGE, f"a JPEG of more than {MOST_EXIF} segments of EXIF")
    elif content.startswith(b"\x89PNG"):
        _check_chunks(content)
    elif any(num > MOST_VALUES and kind in _NUMBERS for _, kind, num, _ in headers.directory(content)):
        raise ImageError(Reason.TOO_LARGE, f"a TIFF with a tag of more than {MOST_VALUES:,} numbers")


def _check_chunks(content: bytes) -> None:
    at, others = 8, 0
    for _ in range(MOST_CHUNKS):
        if at + 8 > len(content):
            return
        length, kind = struct.unpack_from(">I4s", content, at)
        others += kind not in _PIXELS
        if others > MOST_OTHER_CHUNKS:
            break
        at += 12 + length
    raise ImageError(Reason.TOO_LARGE, "a PNG of thousands of chunks; save it anew")


def check_bytes(format: str | None, content: bytes) -> None:
    """Raise ImageError where so many bytes of a format would take too long to decode, or too much memory."""
    packed = format == "BMP" and int.from_bytes(content[30:34], "little") in (1, 2)
    most = MAX_PACKED_BYTES if packed else MAX_BYTES.get(str(format), len(content))
    if len(content) > most:
        told = f"{len(content):,} bytes, more than the {most:,} of a {'packed ' * packed}{format}; save it as JPEG"
        raise ImageError(Reason.TOO_LARGE, told)


def check_scans(content: bytes, found: Jpeg, num_pixels: int) -> None:
    """A JPEG may go over its pixels any number of times, each of which costs: raise ImageError.

    It has an end, see ``check_end``.
    """
    most = min(MOST_SCANS, MOST_SCANNED // max(num_pixels, 1))
    # What follows the picture, another one or a film, may have such bytes too: counted closely only where it matters.
    if content.count(b"\xff\xda", found.scan) > most:
        num = headers.num_scans(content, found.scan, most=most, most_segments=10 * MOST_SEGMENTS)
        if num > most:
            told = f"a JPEG of more than {most} scans over {num_pixels:,} pixels; save it as an ordinary one"
            raise ImageError(Reason.TOO_LARGE, told)


def check_memory(found: Jpeg, num_pixels: int, num_bytes: int) -> None:
    """Raise ImageError where a JPEG's numbers and the pixels that come of it would not fit.

    Args:
        num_bytes: Of the pixels, at the scale at which it is decoded.
    """
    held = 2 * int(found.samples * num_pixels) * found.several + num_bytes
    if held > MOST_HELD:
        told = f"a JPEG of {'several scans over ' * found.several}{num_pixels:,} pixels, {held / MEGA:,.0f} MB to hold"
        raise ImageError(Reason.TOO_LARGE, f"{told} at once; save it as an ordinary one, or smaller")
