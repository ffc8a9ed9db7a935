"""Image files that ask for the most of a decoder, each just within what is allowed; made by hand where Pillow can't."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageFile

MEGA = 1_000_000
SIDE = 7_070  # of 50 million pixels
SMALL = 5_000  # of 25 million
LARGE = 9_990  # of 100 million
COLOUR = {"grey": 0, "rgb": 2, "palette": 3, "grey-alpha": 4, "rgba": 6}  # as PNG numbers them
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # Adam7
RGB = (200, 30, 30)


def saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int, height: int, *, bits: int, colour: int, interlaced: bool = False) -> bytes:
    """One grey level throughout, packed line by line, so that no picture is ever held."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, parts = zlib.compressobj(1), []
    for left, top, across, down in PASSES if interlaced else ((0, 0, 1, 1),):
        samples = -(-(width - left) // across) * CHANNELS[colour]
        line = b"\0" + b"\x40" * -(-samples * bits // 8)
        parts += [packer.compress(line) for _ in range(-(-(height - top) // down))]
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    palette = chunk(b"PLTE", bytes(range(256)) * 3) + chunk(b"tRNS", bytes(range(256))) if colour == 3 else b""
    pixels = chunk(b"IDAT", b"".join([*parts, packer.flush()]))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + pixels + chunk(b"IEND", b"")


def packed_bmp(width: int, height: int, body: bytes) -> bytes:
    """In run lengths."""
    palette = b"\0\1\2\0" * 256
    start = 14 + 40 + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + palette + body


def tiff(*further: bytes, after: bytes = b"", directories: int = 0) -> bytes:
    """64 by 64 grey pixels with further tags, or with many directories behind."""
    num = 9 + len(further)
    pixels = 8 + 2 + 12 * num + 4
    end = pixels + 64 * 64 + len(after)
    sizes = ((256, 64), (257, 64), (258, 8), (259, 1), (262, 1), (273, pixels), (277, 1), (278, 64), (279, 64 * 64))
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sizes) + b"".join(further)
    chain = b"".join(
        struct.pack("<HHHIII", 1, 256, 4, 1, 64, (end + 18 * (i + 1)) * (i + 1 < directories))
        for i in range(directories)
    )
    first = struct.pack("<H", num) + tags + struct.pack("<I", end * bool(directories))
    return b"II*\0" + struct.pack("<I", 8) + first + bytes(64 * 64) + after + chain


def many_values(num: int, tag: int = 65000) -> bytes:
    """A TIFF with a tag of so many numbers, all of them different."""
    values = np.arange(num, dtype="<u4").tobytes()
    return tiff(struct.pack("<HHII", tag, 4, num, 8 + 2 + 12 * 10 + 4 + 64 * 64), after=values)


def filled(num: int) -> bytes:
    """A JPEG with so many bytes of filling in front of its first marker."""
    plain = saved(flat("RGB", 64), "JPEG")
    return plain[:2] + b"\xff" * num + plain[2:]


def noise(side: int, channels: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, channels), dtype=np.uint8))


def flat(mode: str, side: int = SIDE) -> Image.Image:
    return Image.new(mode, (side, side), RGB if mode == "RGB" else 3)


def parts() -> dict[str, Callable[[int], bytes]]:
    """Files of so many parts, each of which costs a decoder a while."""
    plain = saved(noise(64), "JPEG")
    exif = b"\xff\xe1" + struct.pack(">H", 2 + 6 + 20) + b"Exif\0\0" + bytes(20)
    drawn = saved(flat("RGB", 64), "PNG")
    chunk = struct.pack(">I", 0) + b"abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
    return {
        "jpeg of comments": lambda num: plain[:2] + b"\xff\xfe\0\2" * num + plain[2:],
        "jpeg of exif": lambda num: plain[:2] + exif * num + plain[2:],
        "jpeg of scans": lambda num: plain[:-2] + b"\xff\xda\0\2" * num + b"\xff\xd9",
        "png of chunks": lambda num: drawn[:33] + chunk * num + drawn[33:],
        "png of pixels in pieces": lambda num: drawn[:33] + _no_pixels() * num + drawn[33:],
        "tiff of strips": lambda num: many_values(2 * num, tag=273),
    }


def _profile() -> bytes:
    from icc import DISPLAY_P3  # beside the tests of photos

    return DISPLAY_P3


def _no_pixels() -> bytes:
    return struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def narrow() -> dict[str, Callable[[], bytes]]:
    """As long and narrow as is allowed, for sizes at which little can be left out."""
    return {
        "jpeg narrow": lambda: saved(Image.new("RGB", (1_300, 64_900), RGB), "JPEG", subsampling=0),
        "jpeg narrow, profile": lambda: saved(
            Image.new("RGB", (1_169, 58_400), RGB), "JPEG", subsampling=0, icc_profile=_profile()
        ),
        "jpeg narrow, cmyk": lambda: saved(Image.new("CMYK", (1_000, 49_900)), "JPEG"),
        "jpeg narrow, progressive": lambda: saved(Image.new("RGB", (1_040, 51_900), RGB), "JPEG", progressive=True),
        "png narrow, transparent": lambda: png(1_000, 49_990, bits=8, colour=6),
        "png broad": lambda: png(49_990, 1_000, bits=8, colour=6),
        "png 4:12": lambda: png(4_000, 12_500, bits=8, colour=6),
    }


def quick() -> dict[str, Callable[[], bytes]]:
    """Small files, made in a moment."""
    return {
        "png of 1 bit": lambda: png(SIDE, SIDE, bits=1, colour=0),
        "png rgba": lambda: png(SIDE, SIDE, bits=8, colour=6),
        "gif": lambda: saved(flat("P"), "GIF"),
        "gif of 100 million pixels": lambda: saved(flat("P", LARGE), "GIF"),
        "png of 100 million pixels": lambda: png(LARGE, LARGE, bits=1, colour=0),
        "webp of 40 bytes": lambda: saved(Image.new("RGBA", (SMALL, SMALL)), "WEBP", lossless=True, method=0),
    }


def makers() -> dict[str, Callable[[], bytes]]:
    """All, by name; some take half a minute to make and a gigabyte."""
    found = dict(quick())
    for name, colour in COLOUR.items():
        for bits in (8, 16) if colour != 3 else (8,):
            found[f"png {name} {bits} bit"] = lambda bits=bits, colour=colour: png(SIDE, SIDE, bits=bits, colour=colour)
    found |= {
        "png interlaced": lambda: png(SIDE, SIDE, bits=8, colour=6, interlaced=True),
        "png narrow": lambda: png(1_000, 49_990, bits=8, colour=6),
        "png of noise": lambda: saved(noise(4_500), "PNG", compress_level=1),
        "gif transparent": lambda: saved(flat("P"), "GIF", transparency=3),
        "gif of frames": lambda: saved(flat("P"), "GIF", save_all=True, append_images=[Image.new("P", (SIDE, SIDE))]),
        "bmp of 1 bit": lambda: saved(Image.new("1", (SIDE, SIDE)), "BMP"),
        "bmp of pixels one by one": lambda: packed_bmp(7_000, 7_000, b"\1\7" * 6_290_000 + b"\0\1"),
        "bmp of pixels passed over": lambda: packed_bmp(7_000, 7_000, b"\0\2\1\0" * 3_140_000 + b"\0\1"),
        "bmp of pixels one by one, 60 MB": lambda: packed_bmp(7_000, 7_000, b"\1\7" * 30_000_000 + b"\0\1"),
        "jpeg": lambda: saved(flat("RGB", LARGE), "JPEG", subsampling=0),
        "jpeg progressive": lambda: saved(flat("RGB", LARGE), "JPEG", progressive=True),
        "jpeg progressive, whole colours": lambda: saved(flat("RGB", 8_150), "JPEG", progressive=True, subsampling=0),
        "jpeg progressive, too large": lambda: saved(flat("RGB", LARGE), "JPEG", progressive=True, subsampling=0),
        "jpeg cmyk": lambda: saved(Image.new("CMYK", (LARGE, LARGE)), "JPEG"),
        "jpeg cmyk progressive": lambda: saved(Image.new("CMYK", (SIDE, SIDE)), "JPEG", progressive=True),
        "jpeg of noise": lambda: saved(noise(3_900), "JPEG", quality=100, subsampling=0),
        "jpeg of noise, progressive": lambda: saved(noise(3_900), "JPEG", quality=100, subsampling=0, progressive=True),
        "webp": lambda: saved(Image.new("RGB", (SMALL, SMALL)), "WEBP", method=0, quality=10),
        "webp of noise": lambda: saved(noise(2_880, 4), "WEBP", lossless=True, method=0, quality=0),
        "webp of noise, 64 MB": lambda: saved(noise(4_000, 4), "WEBP", lossless=True, method=0, quality=0),
        "avif": lambda: saved(flat("RGB", SMALL), "AVIF", speed=10, quality=20, subsampling="4:4:4"),
        "avif of noise": lambda: saved(noise(3_900), "AVIF", speed=10, quality=95),
        "tiff of many directories": lambda: tiff(directories=3_000_000),
        "tiff of many values": lambda: many_values(150_000),
        "tiff of many strips": lambda: many_values(149_000, tag=273),
        "jpeg of filling": lambda: filled(60 * MEGA),
        "jpeg of stuffed bytes": lambda: saved(noise(64), "JPEG")[:-2] + b"\xff\0" * 30 * MEGA + b"\xff\xd9",
        "tiff of noise": lambda: saved(noise(3_900), "TIFF", compression="tiff_lzw"),
        "tiff of fax": lambda: saved(Image.new("1", (SIDE, SIDE)), "TIFF", compression="group4"),
        "tiff of lzma": lambda: saved(flat("RGBA"), "TIFF", compression="lzma"),
        "tiff in one strip": lambda: saved(flat("RGBA"), "TIFF", compression="tiff_deflate", strip_size=2**31 - 1),
    }
    for mode in ("1", "L", "I;16", "F", "RGBA", "CMYK"):
        found[f"tiff {mode}"] = lambda mode=mode: saved(
            Image.new(mode, (SIDE, SIDE)), "TIFF", compression="tiff_deflate"
        )
    return found


def made() -> Iterator[tuple[str, bytes]]:
    """Every file of ``makers`` and ``narrow`` in turn."""
    ImageFile.MAXBLOCK = 1 << 27  # Pillow's encoder of progressive JPEGs wants room for the whole file
    for name, make in (makers() | narrow()).items():
        yield name, make()
