"""What may be decoded, and that a large picture's strips come to the whole."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmtl.catalogue.photos.folder import ImageError
from fmtl.dataset.pixels import flatten, limits
from fmtl.dataset.pixels.images import decode

sys.path.insert(0, str(Path(__file__).parent))
from decoding import MOST_MB, MOST_SECONDS, cost
from kit import heavy


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("name", heavy.quick())
def test_a_small_file_asks_for_no_gigabyte_and_no_minute(name, tmp_path):
    (tmp_path / "image").write_bytes(heavy.quick()[name]())
    seconds, megabytes, told = cost(tmp_path / "image")
    assert seconds < MOST_SECONDS and megabytes < MOST_MB
    assert told.startswith("too_large: 9990x9990 pixels") if "100 million" in name else told == "decoded"


def test_the_largest_picture_allowed_is_decoded_and_one_line_more_is_not():
    limits.check_size("JPEG", 10_000, 10_000)
    limits.check_size("MPO", 10_000, 10_000)
    limits.check_size("PNG", 5_000, 10_000)
    for format, width, height in (("JPEG", 10_000, 10_001), ("PNG", 5_000, 10_001), ("WEBP", 5_000, 5_001)):
        with pytest.raises(ImageError, match=f"too_large: {width}x{height} pixels, more than the .* a {format}"):
            limits.check_size(format, width, height)


@pytest.mark.parametrize("options", [{"progressive": True, "subsampling": 0}, {"progressive": True}, {}])
def test_a_jpeg_holds_numbers_for_every_colour_of_every_pixel_when_it_has_several_scans(options, monkeypatch):
    content = heavy.saved(heavy.noise(64), "JPEG", **options)
    per_pixel = {"subsampling": 3, "progressive": 1.5}[next(reversed(options))] if options else 0
    monkeypatch.setattr(limits, "MOST_COEFFICIENTS", int(64 * 64 * per_pixel))
    decode(content, px=16)
    if per_pixel:
        monkeypatch.setattr(limits, "MOST_COEFFICIENTS", int(64 * 64 * per_pixel) - 1)
        with pytest.raises(ImageError, match=f"{int(64 * 64 * per_pixel):,} numbers to hold at once"):
            decode(content, px=16)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16", "F"])
@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_strips_of_a_large_picture_come_to_the_whole(mode, fit, monkeypatch):
    """A smooth picture, whose mean over a block is what any good filter finds."""
    x, y = np.meshgrid(np.linspace(0, 255, 300), np.linspace(255, 0, 203))
    smooth = np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)
    if mode in ("I;16", "F"):
        image = Image.fromarray((x * 257).astype(np.uint16) if mode == "I;16" else (x / 255).astype(np.float32))
    elif mode == "RGBA":
        image = Image.fromarray(np.dstack([smooth, y.astype(np.uint8)]))
    else:
        image = Image.fromarray(np.full_like(smooth, 255) if mode == "1" else smooth).convert(mode)
    content = heavy.saved(image, "TIFF")
    whole = decode(content, px=16, fit=fit).astype(int)
    monkeypatch.setattr(flatten, "LARGE", 1000)
    monkeypatch.setattr(flatten, "STRIP", 3000)
    strips = decode(content, px=16, fit=fit).astype(int)
    assert np.abs(strips - whole).max() <= (12 if mode == "P" else 4)  # a palette's steps are not smooth
    assert whole.std() > 20 or mode == "1"


def test_a_strip_ends_where_a_block_does(monkeypatch):
    """7 lines of blocks of 3: arithmetic by hand."""
    monkeypatch.setattr(flatten, "STRIP", 1)
    pixels = np.repeat(np.arange(7, dtype=np.uint8)[:, None, None] * 10, 6, axis=1).repeat(3, axis=2)
    seen = []

    def strip(top, bottom):
        seen.append((top, bottom))
        return pixels[top:bottom]

    found = flatten.reduced(strip, (6, 7), (1, 1))
    assert seen == [(0, 3), (3, 6), (6, 7)]
    assert found.shape == (2, 2, 3)  # two lines of 3.5 each: of 10, 40 and a third of 60, weighed by distance
    assert found[0, 0, 0] < found[1, 0, 0] and abs(int(found[:, 0, 0].sum()) - 2 * 30) <= 6


def test_a_packed_bmp_is_limited_in_bytes():
    body = b"\x0a\7\0\0" * 10 + b"\0\1"
    small = heavy.packed_bmp(10, 10, body)
    assert decode(small, px=8).shape == (8, 8, 3)
    with pytest.raises(ImageError, match=r"too_large: .* of a packed BMP"):
        decode(heavy.packed_bmp(10, 10, body + bytes(limits.MAX_PACKED_BYTES)), px=8)
