"""What may be decoded, and that a large picture's strips come to the whole."""

import io
import struct
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from fmtl.catalogue.photos.folder import ImageError
from fmtl.dataset.pixels import flatten, headers, limits
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


@pytest.mark.parametrize("options, samples", [
    ({"progressive": True, "subsampling": 0}, 3), ({"progressive": True}, 1.5), ({}, 0)
])  # fmt: skip
def test_a_jpeg_in_several_scans_holds_two_bytes_for_every_number(options, samples, monkeypatch):
    content = heavy.saved(heavy.noise(64), "JPEG", **options)
    frame = content.index(b"\xff\xc2" if options else b"\xff\xc0")
    found = headers.jpeg(content, most=100)
    for filling in (b"\0", b"\xff" * 9, b"\xff\xfe\0\2"):  # which libjpeg passes over
        again = headers.jpeg(content[:frame] + filling + content[frame:], most=100)
        assert again == replace(found, scan=found.scan + len(filling))
    held = int(2 * samples * 64 * 64) + 3 * 16 * 16
    monkeypatch.setattr(limits, "MOST_HELD", held)
    decode(content, px=16)
    monkeypatch.setattr(limits, "MOST_HELD", held - 1)
    with pytest.raises(ImageError, match="MB to hold at once"):
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


def test_blocks_are_means_and_a_strip_ends_where_a_block_does(monkeypatch):
    """7 lines in blocks of 3: arithmetic by hand."""
    monkeypatch.setattr(flatten, "LARGE", 1)
    monkeypatch.setattr(flatten, "STRIP", 18)
    pixels = np.repeat(np.arange(7, dtype=np.uint8)[:, None, None] * 10, 6, axis=1).repeat(3, axis=2)
    found, part = flatten.shrunk(pixels, (1, 1), flatten.WHOLE)
    assert part == flatten.WHOLE and found.shape == (2, 2, 3)
    # Two lines of 3.5 each: of the means 10 and 40 and a third of 60, weighed by distance.
    assert found[0, 0, 0] < found[1, 0, 0] and abs(int(found[:, 0, 0].sum()) - 2 * 30) <= 6
    found, part = flatten.shrunk(pixels, (1, 1), (0, 3 / 7, 1, 6 / 7))
    assert part == flatten.WHOLE and found[:, 0, 0].tolist() == [40]


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_the_part_that_is_shown_is_that_of_the_whole_however_it_is_turned(fit, monkeypatch):
    x, y = np.meshgrid(np.linspace(0, 255, 90), np.linspace(255, 0, 300))
    image = Image.fromarray(np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[headers.ORIENTATION] = orientation
        for format in ("PNG", "JPEG"):
            content = heavy.saved(image, format, exif=exif, **({"quality": 100} if format == "JPEG" else {}))
            monkeypatch.setattr(flatten, "LARGE", 10**9)
            whole = decode(content, px=16, fit=fit).astype(int)
            monkeypatch.setattr(flatten, "LARGE", 100)
            monkeypatch.setattr(flatten, "STRIP", 1000)
            strips = decode(content, px=16, fit=fit).astype(int)
            assert np.abs(strips - whole).max() <= 5, (orientation, format)


@pytest.mark.parametrize("name", heavy.parts())
def test_a_file_of_a_hundred_thousand_parts_is_refused_at_once(name):
    content = heavy.parts()[name](100_000)
    started = time.process_time()
    with pytest.raises(ImageError, match="too_large"):
        decode(content, px=16)
    assert time.process_time() - started < 2  # reading all of them takes ten times that


@pytest.mark.parametrize("value", [*range(1, 9), 0, 9, 70000])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind, letter", [(3, "H"), (4, "I")])
def test_orientation_is_read_as_pillow_does(value, order, kind, letter):
    if letter == "H" and value > 65535:
        pytest.skip("no such number")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    packed = struct.pack(order + letter, value).ljust(4, b"\0")
    tiff = mark + struct.pack(f"{order}IHHHI", 8, 1, headers.ORIENTATION, kind, 1) + packed + bytes(4)
    theirs = Image.Exif()
    theirs.load(tiff)
    want = theirs.get(headers.ORIENTATION, 1)
    assert headers.orientation(tiff) == (want if want in range(1, 9) else 1)


@pytest.mark.parametrize("text, want", [
    (b'<rdf:Description tiff:Orientation="6"/>', 6), (b"<tiff:Orientation>3</tiff:Orientation>", 3), (b"", 1),
    (b'tiff:Orientation="9"', 1),
])  # fmt: skip
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_where_exif_is_silent_xmp_says_how_a_picture_is_turned(text, want, format):
    """As Pillow's own transposition has it."""
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", text.decode())
    options = {"xmp": text} if format == "JPEG" else {"pnginfo": info}
    x, y = np.meshgrid(np.linspace(0, 255, 64), np.linspace(255, 0, 64))
    image = Image.fromarray(np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8))
    content = heavy.saved(image, format, exif=exif, **options)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB").resize((16, 16))
    assert np.abs(decode(content, px=16).astype(int) - np.asarray(turned).astype(int)).max() < 12
    assert headers.orientation(exif.tobytes().removeprefix(b"Exif\0\0"), text) == want


@pytest.mark.parametrize(
    "tiff", [b"", b"II", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"MM\0+" + b"\xff" * 40]
)
def test_a_directory_that_is_cut_off_says_nothing(tiff):
    assert headers.orientation(tiff) == 1


def test_a_packed_bmp_is_limited_in_bytes():
    body = b"\x0a\7\0\0" * 10 + b"\0\1"
    small = heavy.packed_bmp(10, 10, body)
    assert decode(small, px=8).shape == (8, 8, 3)
    with pytest.raises(ImageError, match=r"too_large: .* of a packed BMP"):
        decode(heavy.packed_bmp(10, 10, body + bytes(limits.MAX_PACKED_BYTES)), px=8)
