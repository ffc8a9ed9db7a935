"""What the first bytes of a file say, and whether a JPEG has an end."""

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fmtl.catalogue.photos.folder import ImageError
from fmtl.catalogue.reasons import Reason

_FOREIGN = (  # (first bytes, where, name)
    (b"%!PS", 0, "PostScript"), (b"%PDF", 0, "PDF"), (b"SIMPLE  =", 0, "FITS"),
    (b"8BPS", 0, "Photoshop"), (b"ftypavif", 4, "AVIF that can't be read"), (b"\x00\x00\x01\x00", 0, "ICO"),
    (b"PK\x03\x04", 0, "ZIP"),
)  # fmt: skip
_KNOWN_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
ORIENTATION = 0x0112  # the EXIF tag
_END, _SCAN = b"\xff\xd9", 0xDA  # of a JPEG: its last marker, and the one in front of its pixels
# A marker that means something: what is no marker is passed over, as libjpeg does, and so are filling and restarts.
_MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")
_FRAMES = {0xC0: False, 0xC1: False, 0xC2: True, 0xC9: False, 0xCA: True}  # a JPEG's frame header: is it progressive?
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_ORDERS = {b"II": "<", b"MM": ">"}  # of a number's bytes in a TIFF, as ``struct`` names them
_INTEGERS = {1: "B", 3: "H", 4: "I"}  # TIFF's kinds of numbers, as ``struct`` names them


@dataclass(frozen=True)
class Jpeg:
    """What stands in front of a JPEG's pixels.

    Attributes:
        scan: Where its first scan begins; the beginning of the file if that can't be told.
        several: Whether the first scan is not the only one, as far as the header says.
        samples: Numbers that a decoder makes of a pixel, on average; the most there can be if that can't be told.
    """

    scan: int
    several: bool
    samples: float


def jpeg(content: bytes, *, most: int) -> Jpeg:
    """Read the header of a JPEG.

    Args:
        most: Segments that are looked at.

    Raises:
        ImageError: It has more.
    """
    at, num_components, samples, progressive = 2, 0, 4.0, True
    for _ in range(most):
        found = _MARKER.search(content, at)
        if found is None or found[0] == _END:
            break
        marker, at = found[1][0], found.end()
        if marker == _SCAN:
            several = progressive or content[at + 2 : at + 3] != bytes([num_components])
            return Jpeg(found.start(), several, samples)
        if marker in _FRAMES and len(content) > at + 8 + 3 * content[at + 7]:
            num_components, progressive = content[at + 7], _FRAMES[marker]
            factors = [content[at + 9 + 3 * i] for i in range(num_components)]  # high half across, low half down
            shares = [(factor >> 4) * (factor & 15) for factor in factors]
            samples = sum(shares) / max(1, *shares) if shares else 4.0
        # Metadata is passed over: it may hold a thumbnail with an end of its own.
        at += max(2, int.from_bytes(content[at : at + 2], "big"))
    else:
        raise ImageError(Reason.TOO_LARGE, f"a JPEG of more than {most:,} segments before its pixels")
    return Jpeg(2, True, samples)


def check_end(content: bytes, scan: int) -> None:
    """Zeros in place of the rest of a JPEG, as broken downloads have them, decode to grey: raise ImageError."""
    if content.find(_END, scan) < 0:
        raise ImageError(Reason.TRUNCATED, "no end marker")


def num_scans(content: bytes, scan: int, *, most: int, most_segments: int) -> int:
    """Of the picture whose first scan begins there, up to its end, whatever segments between the scans hold; counted
    up to one more than ``most``.

    Raises:
        ImageError: It has more segments than so many.
    """
    num, at = 0, scan
    for _ in range(most_segments):
        found = _MARKER.search(content, at)
        if found is None or found[0] == _END or num > most:
            return num
        num += found[1][0] == _SCAN
        at = found.end() + max(2, int.from_bytes(content[found.end() : found.end() + 2], "big"))
    raise ImageError(Reason.TOO_LARGE, f"a JPEG of more than {most_segments:,} segments")


def directory(tiff: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Tag, kind, number of values and the first bytes of the value of each entry of a TIFF's first directory; EXIF's is
    one, too."""
    order = _ORDERS.get(tiff[:2])
    if order is None:
        return
    is_big = tiff[2:4] in (b"+\0", b"\0+")
    offset, count, entry = ("Q", "Q", "HHQ") if is_big else ("I", "H", "HHI")
    start = _number(tiff, 8 if is_big else 4, order + offset)
    first, size = start + struct.calcsize(order + count), struct.calcsize(order + entry) + (8 if is_big else 4)
    for at in range(first, min(first + size * _number(tiff, start, order + count), len(tiff) - size + 1), size):
        yield *struct.unpack_from(order + entry, tiff, at), tiff[at + struct.calcsize(order + entry) : at + size]


def orientation(tiff: bytes, xmp: bytes = b"") -> int:
    """How EXIF's directory says that a picture is turned, 1 to 8; where that is silent, XMP's text; else 1."""
    order = _ORDERS.get(tiff[:2])
    for tag, kind, num, value in directory(tiff):
        if tag == ORIENTATION and kind in _INTEGERS and num == 1:
            found = int(struct.unpack_from(f"{order}{_INTEGERS[kind]}", value)[0])
            return found if found in range(1, 9) else 1
    said = _XMP.search(xmp)
    return int(said[1]) if said else 1


def _number(content: bytes, at: int, kind: str) -> int:
    return int(struct.unpack_from(kind, content, at)[0]) if at + struct.calcsize(kind) <= len(content) else 0


def not_an_image(content: bytes, expected: Sequence[str]) -> ImageError:
    """Why content that no decoder knows is none; ``expected`` are the formats that are."""
    head = content[:64].lstrip().lower()
    foreign = next((name for start, at, name in _FOREIGN if content.startswith(start, at)), None)
    if foreign is None and b"<svg" in content[:512].lower():
        foreign = "SVG"
    if foreign:
        return ImageError(Reason.FORMAT, f"{foreign}; expected one of {', '.join(expected)}")
    if content.startswith(_KNOWN_STARTS):
        return ImageError(Reason.TRUNCATED, f"its header is cut short or damaged ({len(content)} bytes)")
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return ImageError(Reason.NOT_AN_IMAGE, "a web page, not an image")
    if head.startswith(b"version https://git-lfs"):
        return ImageError(Reason.NOT_AN_IMAGE, "a git-lfs pointer; run 'git lfs pull'")
    return ImageError(Reason.NOT_AN_IMAGE, f"no known image format (first bytes {content[:8]!r})")
