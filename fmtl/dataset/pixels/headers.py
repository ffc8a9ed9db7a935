"""What the first bytes of a file say, and whether a JPEG has an end."""

from collections.abc import Sequence

from fmtl.catalogue.photos.folder import ImageError
from fmtl.catalogue.reasons import Reason

_FOREIGN = (  # (first bytes, where, name)
    (b"%!PS", 0, "PostScript"), (b"%PDF", 0, "PDF"), (b"SIMPLE  =", 0, "FITS"),
    (b"8BPS", 0, "Photoshop"), (b"ftypavif", 4, "AVIF that can't be read"), (b"\x00\x00\x01\x00", 0, "ICO"),
    (b"PK\x03\x04", 0, "ZIP"),
)  # fmt: skip
_KNOWN_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
END, SCAN = b"\xff\xd9", 0xDA  # of a JPEG: its last marker, and the one in front of its pixels
BARE = (0xFF, 0x01, *range(0xD0, 0xD9))


def check_end(content: bytes) -> None:
    """Zeros in place of the rest of a JPEG, as broken downloads have them, decode to grey: raise ImageError."""
    if content.find(END, first_scan(content)) < 0:
        raise ImageError(Reason.TRUNCATED, "no end marker")


def first_scan(content: bytes) -> int:
    """Where the pixels begin; the beginning of the file if that can't be told."""
    at = 2
    while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] not in (b"", bytes([SCAN])):
        if content[at + 1] in BARE:  # a byte of filling, or a marker without a length
            at += 1 if content[at + 1] == 0xFF else 2
            continue
        # Metadata is passed over: it may hold a thumbnail with an end of its own.
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return at if at < len(content) else 2


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
