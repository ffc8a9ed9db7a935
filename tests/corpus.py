"""Generated files of every kind that a shop's image folder has been seen to hold, each with its verdict.

A case is (id, file name, content or action, verdict): ``ok``, with the colour that its middle must have and the note
that must be made of it, or the reason for which the row is left out. The ids are those of the fault catalogue:
D tables, I images, S security.
"""

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

RED, GREEN, GREY = (200, 40, 30), (30, 160, 60), (128, 128, 128)
WHITE = (255, 255, 255)
SUFFIX = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "GIF": "gif", "TIFF": "tif"}


@dataclass(frozen=True)
class ImageCase:
    """One row of the catalogue.

    Attributes:
        path: What the table says.
        make: Puts the file there, given its path; None where there is nothing to put.
        verdict: ``ok`` or a reason.
        colour: Of the middle of the stored square, within 2 levels; None where anything goes.
        note: That the image must carry, such as ``rotated``.
    """

    id: str
    path: str
    make: Callable[[Path], object] | None
    verdict: str
    colour: tuple[int, int, int] | None = None
    note: str = ""


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(colour=RED, size=(60, 60), mode="RGB") -> Image.Image:
    image = Image.new("RGB", size, colour)
    return image.quantize(4) if mode == "P" else image.convert(mode)


def textured(seed: int, size=(72, 96)) -> Image.Image:
    """Enough detail that a file cut short lacks some of it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def put(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def image_cases() -> Iterator[ImageCase]:
    yield from _absent_and_foreign()
    yield from _cut_short()
    yield from _named_otherwise()
    yield from _modes()
    yield from _sixteen_bit()
    yield from _orientations()
    yield from _frames()
    yield from _bombs()
    yield from _shapes()
    yield from _no_files()
    yield from _outside()


def _absent_and_foreign() -> Iterator[ImageCase]:
    for name in ("none.jpg", "none/none.jpg", "x" * 300 + ".jpg", "Photo.JPG", "trailing.jpg."):
        yield ImageCase("I01", name, None, "missing")
    page = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    for n, (content, verdict) in enumerate(
        [(b"", "empty"), (page, "not_an_image"), (b"  \n" + page.lower(), "not_an_image"), (pointer, "not_an_image"),
         (b"\0" * 500, "not_an_image"), (b"just text", "not_an_image"), (b'{"error": 404}', "not_an_image"),
         (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "not_an_image")]
    ):  # fmt: skip
        for suffix in ("jpg", "png"):
            yield ImageCase("I02", f"i02-{n}.{suffix}", put(content), verdict)
    heads = {
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "pdf": b"%PDF-1.7\n1 0 obj\n",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "xml.svg": b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>",
        "fits": b"SIMPLE  =                    T / conforms to FITS",
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
        "psd": b"8BPS\0\x01" + b"\0" * 40,
        "ico": b"\0\0\x01\0\x01\0\x10\x10" + b"\0" * 40,
        "zip": b"PK\x03\x04" + b"\0" * 40,
    }
    for suffix, head in heads.items():
        yield ImageCase("I14", f"i14.{suffix}", put(head), "format")
        yield ImageCase("I14", f"i14-{suffix}.jpg", put(head), "format")
    for kind in ("PPM", "PCX", "TGA", "ICNS"):
        image = plain(size=(64, 64))
        yield ImageCase("I14", f"i14.{kind.lower()}", put(encode(image, kind)), "not_an_image")


def _cut_short() -> Iterator[ImageCase]:
    for name, options in (("base", {}), ("progressive", {"progressive": True}), ("large", {})):
        image = textured(1, (400, 500) if name == "large" else (72, 96))
        content = encode(image, "JPEG", quality=90, **options)
        for share in (0.05, 0.5, 0.95, 0.999):
            part = content[: int(len(content) * share)]
            yield ImageCase("I03", f"i03-{name}-{share}.jpg", put(part), "truncated")
    for kind in ("PNG", "WEBP", "GIF", "TIFF", "BMP"):
        content = encode(textured(2), kind)
        for share in (0.3, 0.6, 0.9):
            part = content[: int(len(content) * share)]
            yield ImageCase("I03", f"i03-{kind}-{share}.{SUFFIX[kind]}", put(part), "truncated|damaged")


def _named_otherwise() -> Iterator[ImageCase]:
    for kind, own in SUFFIX.items():
        for suffix in ("jpg", "png", "webp", "data", ""):
            right = suffix == own
            name = f"i05-{kind}" + (f".{suffix}" if suffix else "")
            yield ImageCase("I05", name, put(encode(plain(), kind)), "ok", RED, "" if right else "wrong_suffix")
        yield ImageCase("I05", f"i05-{kind}.{own.upper()}", put(encode(plain(), kind)), "ok", RED)


def _modes() -> Iterator[ImageCase]:
    for kind, modes in {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
        "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"),
        "WEBP": ("RGB", "RGBA"), "GIF": ("1", "L", "P"), "BMP": ("1", "L", "P", "RGB"), "JPEG": ("L", "RGB", "CMYK"),
    }.items():  # fmt: skip
        for mode in modes:
            colour = WHITE if mode == "1" else GREY
            made = Image.new("LAB", (60, 60), (137, 128, 128)) if mode == "LAB" else plain(colour, mode=mode)
            case = "I07" if mode == "CMYK" else "I06"
            note = "transparent" if mode in ("LA", "RGBA") and kind != "WEBP" else ""
            yield ImageCase(case, f"i06-{mode}.{SUFFIX[kind]}", put(encode(made, kind)), "ok", colour, note)
    clear = Image.new("RGBA", (60, 60), (*RED, 0))
    half = Image.new("RGBA", (60, 60), (*RED, 128))
    mixed = tuple(round((c * 128 + 255 * 127) / 255) for c in RED)
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        name = SUFFIX[kind]
        yield ImageCase("I06", f"i06-clear.{name}", put(encode(clear, kind, **options)), "ok", WHITE, "transparent")
        yield ImageCase("I06", f"i06-half.{name}", put(encode(half, kind, **options)), "ok", mixed, "transparent")
    palette = plain(mode="P")
    for kind in ("PNG", "GIF"):
        content = encode(palette, kind, transparency=palette.getpixel((30, 30)))
        yield ImageCase("I06", f"i06-palette-clear.{SUFFIX[kind]}", put(content), "ok", WHITE, "transparent")
    for quality in (60, 95):
        cmyk = encode(plain(GREEN, mode="CMYK"), "JPEG", quality=quality)  # as Adobe does: stored inverted
        yield ImageCase("I07", f"i07-{quality}.jpg", put(cmyk), "ok", GREEN)


def _sixteen_bit() -> Iterator[ImageCase]:
    sixteen = Image.fromarray(np.full((60, 60), 128 * 257, np.uint16))
    integers = Image.fromarray(np.full((60, 60), 128 * 257, np.int32))
    floats = Image.fromarray(np.full((60, 60), 128.0, np.float32))
    shares = Image.fromarray(np.full((60, 60), 128 / 255, np.float32))
    yield ImageCase("I08", "i08-16.png", put(encode(sixteen, "PNG")), "ok", GREY)
    for name, image in (("16", sixteen), ("i", integers), ("f", floats), ("f-shares", shares)):
        yield ImageCase("I08", f"i08-{name}.tif", put(encode(image, "TIFF")), "ok", GREY)
    yield ImageCase("I08", "i08-rgb16.png", put(_rgb16_png((200, 40, 30))), "ok", RED)


def _rgb16_png(colour: tuple[int, int, int], side=60) -> bytes:
    line = b"\0" + struct.pack(">3H", *(value * 257 for value in colour)) * side
    return _png(side, side, zlib.compress(line * side), depth=16)


def _png(width: int, height: int, data: bytes, depth=8, extra=b"") -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


def signpost(size=(120, 160)) -> Image.Image:
    """Red above, green below left, grey below right: every turn of it looks different."""
    image = Image.new("RGB", size, RED)
    image.paste(GREEN, (0, size[1] // 2, size[0] // 2, size[1]))
    image.paste(GREY, (size[0] // 2, size[1] // 2, *size))
    return image


def _orientations() -> Iterator[ImageCase]:
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        for size in ((120, 160), (600, 800)):
            for orientation in range(1, 9):
                exif = Image.Exif()
                exif[0x0112] = orientation
                turned = signpost(size)
                if orientation > 1:
                    turned = turned.transpose(TURNS[orientation])
                options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
                name = f"i09-{size[0]}-{orientation}.{SUFFIX[kind]}"
                note = "rotated" if orientation > 1 else ""
                yield ImageCase("I09", name, put(encode(turned, kind, exif=exif, **options)), "ok", None, note)


def _frames() -> Iterator[ImageCase]:
    frames = [plain(RED), plain(GREEN), plain(GREY)]
    for kind, name in (("GIF", "gif"), ("WEBP", "webp"), ("PNG", "png"), ("TIFF", "tif"), ("MPO", "jpg")):
        options = {"lossless": True} if kind == "WEBP" else {}
        content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        yield ImageCase("I10", f"i10.{name}", put(content), "ok", RED, "first_frame")


def _bombs() -> Iterator[ImageCase]:
    side = 60_000
    yield ImageCase("I11", "i11.png", put(_png(side, side, zlib.compress(b"\0" * 1000))), "too_large")
    yield ImageCase("I11", "i11-11k.png", put(_png(11_000, 11_000, zlib.compress(b"\0" * 1000))), "too_large")
    bmp = bytearray(encode(plain(), "BMP"))
    bmp[18:26] = struct.pack("<ii", side, side)
    yield ImageCase("I11", "i11.bmp", put(bytes(bmp)), "too_large")
    gif = bytearray(encode(plain(), "GIF"))
    gif[6:10] = struct.pack("<HH", side, side)
    yield ImageCase("I11", "i11.gif", put(bytes(gif)), "too_large")
    jpeg = bytearray(encode(plain(), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", side, side)
    yield ImageCase("I11", "i11.jpg", put(bytes(jpeg)), "too_large")
    data = zlib.compress((b"\0" + bytes(RED) * 60) * 60)
    bomb = b"Comment\0\0" + zlib.compress(b"\0" * 80_000_000)
    text = struct.pack(">I", len(bomb)) + b"zTXt" + bomb + struct.pack(">I", zlib.crc32(b"zTXt" + bomb))
    yield ImageCase("I12", "i12-ztxt.png", put(_png(60, 60, data, extra=text)), "ok|damaged|truncated")
    info = PngImagePlugin.PngInfo()
    info.add(b"iCCP", b"profile\0\0" + zlib.compress(b"no profile at all"))
    yield ImageCase("I12", "i12-icc.png", put(encode(plain(), "PNG", pnginfo=info)), "ok", RED)
    yield ImageCase("I12", "i12-icc.jpg", put(encode(plain(), "JPEG", icc_profile=b"nonsense" * 99)), "ok", RED)


def _shapes() -> Iterator[ImageCase]:
    for size in ((1, 1), (2, 2), (7, 60), (60, 7), (1, 6000), (6000, 1), (10, 600), (600, 11)):
        for kind in ("PNG", "JPEG"):
            image = encode(plain(size=size), kind)
            yield ImageCase("I13", f"i13-{size[0]}x{size[1]}.{SUFFIX[kind]}", put(image), "degenerate")
    for size in ((8, 8), (8, 300), (400, 8)):
        yield ImageCase("I13", f"i13-{size[0]}x{size[1]}.png", put(encode(plain(size=size), "PNG")), "ok")
    yield ImageCase("I13", "i13-0x0.png", put(_png(0, 0, zlib.compress(b""))), "degenerate|damaged|truncated")


def _no_files() -> Iterator[ImageCase]:
    yield ImageCase("I15", "folder.jpg", lambda path: path.mkdir(), "not_regular_file")
    yield ImageCase("I15", "pipe.jpg", os.mkfifo, "not_regular_file")
    yield ImageCase("I15", "device.jpg", lambda path: path.symlink_to("/dev/zero"), "outside_root")
    if os.geteuid() != 0:  # root reads everything
        yield ImageCase("I15", "secret.jpg", lambda path: (path.write_bytes(b"x"), path.chmod(0)), "unreadable")


def _outside() -> Iterator[ImageCase]:
    for path in ("../outside.png", "../../etc/passwd", "/etc/passwd", "a/../../outside.png", "C:\\x.png", "c:/x.png",
                 "\\\\host\\share\\x.png", "..\\outside.png", "file:///etc/passwd", "http://localhost/x.png",
                 "https://localhost/x.png", "//host/x.png"):  # fmt: skip
        yield ImageCase("S01", path, None, "outside_root")
    yield ImageCase("S02", "s02-out.png", lambda path: path.symlink_to("../outside.png"), "outside_root")
    yield ImageCase("S02", "s02-folder/outside.png", _link_folder, "outside_root")
    yield ImageCase("S02", "s02-loop.png", lambda path: path.symlink_to(path.name), "missing")
    yield ImageCase("S02", "s02-nowhere.png", lambda path: path.symlink_to("none.png"), "missing")
    yield ImageCase("S02", "s02-inside.png", lambda path: path.symlink_to("i05-PNG.png"), "ok", RED)


def _link_folder(path: Path) -> None:
    path.parent.rmdir()
    path.parent.symlink_to(path.parent.parent.parent)


def write_images(cases: list[ImageCase], root: Path) -> int:
    """Make the files below ``root``, and one beside it that must never be opened. Returns how many there are."""
    root.mkdir()
    (root.parent / "outside.png").write_bytes(encode(plain(), "PNG"))
    made = 1
    for case in cases:
        if case.make:
            path = root / case.path
            path.parent.mkdir(exist_ok=True)
            case.make(path)
            made += 1
    return made
