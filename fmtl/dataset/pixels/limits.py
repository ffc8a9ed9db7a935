"""What a file may ask of a decoder before it is decoded: pixels, scans, memory, work.

No file of an allowed size takes more than 10 seconds of a processor or 500 MB.
"""

from fmtl.catalogue.photos.folder import ImageError
from fmtl.catalogue.reasons import Reason
from fmtl.dataset.pixels.headers import BARE, END, SCAN, first_scan

MEGA = 1_000_000
MAX_PIXELS = {  # by how much memory Pillow's decoder takes per pixel: 1 byte to 5, a film's up to 16
    "JPEG": 100 * MEGA,  # decoded at a smaller scale
    "HEIF": 50 * MEGA,
    "WEBP": 25 * MEGA,
    "AVIF": 25 * MEGA,
}
MAX_PIXELS_ELSE = 50 * MEGA
MIN_SIDE, MAX_ASPECT = 8, 50  # below and beyond, nothing can be seen
MOST_SCANS, MOST_SCANNED = 100, 1_500_000_000  # a photo has one scan, a progressive one about ten
MOST_COEFFICIENTS = 200 * MEGA  # 2 bytes each: all of a JPEG in several scans are held until the last
MAX_BYTES = {"WEBP": 32 << 20, "HEIF": 32 << 20}  # their decoders hold the file more than once
MAX_PACKED_BYTES = 12 << 20  # of a BMP in run lengths: Pillow unpacks it in Python
_FRAMES = {0xC0: False, 0xC1: False, 0xC2: True, 0xC9: False, 0xCA: True}  # a JPEG's frame header: is it progressive?


def check_size(format: str | None, width: int, height: int) -> None:
    """Raise ImageError where a picture of a format is too large, or nothing could be seen in it."""
    most = MAX_PIXELS.get({"MPO": "JPEG"}.get(str(format), str(format)), MAX_PIXELS_ELSE)
    if width * height > most:
        told = f"{width}x{height} pixels, more than the {most // MEGA} million that a {format} may have"
        raise ImageError(Reason.TOO_LARGE, told)
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(Reason.DEGENERATE, f"{width}x{height} pixels; nothing can be seen in it")


def check_bytes(format: str | None, content: bytes) -> None:
    """Raise ImageError where so many bytes of a format would take too long to decode, or too much memory."""
    packed = format == "BMP" and int.from_bytes(content[30:34], "little") in (1, 2)
    most = MAX_PACKED_BYTES if packed else MAX_BYTES.get(str(format), len(content))
    if len(content) > most:
        told = f"{len(content):,} bytes, more than the {most:,} of a {'packed ' * packed}{format}; save it as JPEG"
        raise ImageError(Reason.TOO_LARGE, told)


def check_scans(content: bytes, num_pixels: int) -> None:
    """A JPEG may go over its pixels any number of times, each of which costs: raise ImageError.

    It has an end, see ``check_end``.
    """
    first = first_scan(content)
    most = min(MOST_SCANS, MOST_SCANNED // max(num_pixels, 1))
    # What follows the picture, another one or a film, may have such bytes too: counted closely only where it matters.
    if content.count(bytes([0xFF, SCAN]), first) > most and (num := _num_scans(content, first)) > most:
        told = f"a JPEG of {num} scans over {num_pixels:,} pixels; save it as an ordinary one"
        raise ImageError(Reason.TOO_LARGE, told)
    if 3 * num_pixels > MOST_COEFFICIENTS and (held := _coefficients(content, num_pixels)) > MOST_COEFFICIENTS:
        told = f"a JPEG of several scans over {num_pixels:,} pixels, {held:,} numbers to hold at once"
        raise ImageError(Reason.TOO_LARGE, f"{told}; save it as an ordinary one")


def _num_scans(content: bytes, at: int) -> int:
    """Of the picture whose first scan begins there: up to its end, whatever segments between the scans hold."""
    num = 0
    while 0 <= at < len(content) - 1:
        marker = content[at + 1]
        if marker == END[1]:
            break
        num += marker == SCAN
        if marker in (0x00, *BARE):  # a byte of the pixels, a restart, or filling
            at += 1 if marker == 0xFF else 2
        else:
            at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        at = content.find(b"\xff", at)
    return num


def _coefficients(content: bytes, num_pixels: int) -> int:
    """How many numbers a decoder holds until the last scan has come; 0 for a picture of one scan."""
    at = 2
    while content[at : at + 1] == b"\xff" and at + 2 < len(content) and content[at + 1] != SCAN:
        if content[at + 1] in BARE:
            at += 1 if content[at + 1] == 0xFF else 2
            continue
        if content[at + 1] in _FRAMES:
            num = content[at + 9]
            factors = [content[at + 11 + 3 * i] for i in range(num)]  # high half across, low half down
            shares = [(factor >> 4) * (factor & 15) for factor in factors]
            one = not _FRAMES[content[at + 1]] and _in_first_scan(content) == num
            return 0 if one else num_pixels * sum(shares) // max(1, *shares)
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return 0


def _in_first_scan(content: bytes) -> int:
    """How many of a JPEG's components its first scan holds."""
    return content[first_scan(content) + 4]
