"""Generated files of every kind that a shop's image folder has been seen to hold, each with its verdict.

A case is (id, file name, content or action, verdict): ``ok``, with the colour that its middle must have and the note
that must be made of it, or the reason for which the row is left out. The ids are those of the fault catalogue:
D tables, I images, S security.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from kit.heavy import saved as encode
from PIL import Image, PngImagePlugin

ORIENTATION = 0x0112  # the EXIF tag
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
    parts = (
        _absent_and_foreign,
        _cut_short,
        _cut_short_otherwise,
        _followed,
        _named_otherwise,
        _modes,
        _sixteen_bit,
        _orientations,
        _frames,
        _bombs,
        _shapes,
        _no_files,
        _outside,
    )
    for part in parts:
        yield from part()


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
        for share in (0.05, 0.3, 0.6, 0.9, 0.99):
            part = content[: int(len(content) * share)]
            yield ImageCase("I03", f"i03-{kind}-{share}.{SUFFIX[kind]}", put(part), "truncated|damaged")
    for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        content = encode(textured(2), "TIFF", compression=name)
        yield ImageCase("I03", f"i03-{name}.tif", put(content), "ok")
        yield ImageCase("I03", f"i03-{name}-half.tif", put(content[: len(content) // 2]), "truncated|damaged")


def _cut_short_otherwise() -> Iterator[ImageCase]:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    rare = {  # kinds of JPEG that take other ways through the decoder
        "grey": (textured(3).convert("L"), {}),
        "cmyk": (textured(3).convert("CMYK"), {}),
        "turned": (textured(3), {"exif": exif}),
        "444": (textured(3), {"subsampling": 0}),
    }
    for name, (image, options) in rare.items():
        content = encode(image, "JPEG", **options)
        for share in (0.5, 0.95):
            yield ImageCase("I03", f"i03-{name}-{share}.jpg", put(content[: int(len(content) * share)]), "truncated")
    mpo = encode(textured(4), "MPO", save_all=True, append_images=[textured(5)])
    yield ImageCase("I03", "i03-mpo.jpg", put(mpo[: len(mpo) // 4]), "truncated")
    # As a download leaves it that had reserved its space: the full size, the rest zeros, no end mark.
    content = encode(textured(1), "JPEG", quality=90)
    for share in (0.3, 0.9):
        kept = int(len(content) * share)
        part = content[:kept] + bytes(len(content) - kept)
        yield ImageCase("I03", f"i03-zeros-{share}.jpg", put(part), "truncated|damaged")
    for kind in ("PNG", "GIF"):
        content = encode(textured(2), kind)
        part = content[: len(content) // 2] + bytes(len(content) // 2)
        yield ImageCase("I03", f"i03-zeros.{SUFFIX[kind]}", put(part), "truncated|damaged")
    flipped = bytearray(encode(textured(3), "PNG", compress_level=0))  # decodes, were it not for its check sums
    flipped[len(flipped) // 2] ^= 4
    yield ImageCase("I04", "i04-flipped.png", put(bytes(flipped)), "truncated|damaged")


def _followed() -> Iterator[ImageCase]:
    """What follows a whole picture takes nothing from it."""
    for kind in ("JPEG", "PNG", "GIF", "BMP"):
        content = encode(plain(), kind)
        yield ImageCase("I03", f"i03-more.{SUFFIX[kind]}", put(content + b"more" * 99), "ok", RED)
    yield ImageCase("I03", "i03-two.jpg", put(encode(plain(), "JPEG") + encode(plain(GREEN), "JPEG")), "ok", RED)


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
    for mode, key in (("L", GREY[0]), ("RGB", RED), ("1", 1)):  # one colour that means clear
        image = plain({"L": GREY, "RGB": RED, "1": WHITE}[mode], mode=mode)
        content = encode(image, "PNG", transparency=key)
        yield ImageCase("I06", f"i06-key-{mode}.png", put(content), "ok", WHITE, "transparent")
    levels = encode(palette, "PNG", transparency=bytes([128] * 4))
    yield ImageCase("I06", "i06-palette-half.png", put(levels), "ok", mixed, "transparent")
    yield ImageCase("I06", "i06-palette-rgba.png", put(encode(half.quantize(4), "PNG")), "ok", mixed, "transparent")
    frames = encode(clear, "GIF", save_all=True, append_images=[plain(GREEN)])
    yield ImageCase("I06", "i06-clear-frames.gif", put(frames), "ok", WHITE, "transparent")
    yield ImageCase("I06", "i06-rgbx.tif", put(encode(plain(mode="RGBX"), "TIFF")), "ok", RED)
    yield ImageCase("I06", "i06-rgb.jpg", put(encode(plain(), "JPEG", keep_rgb=True)), "ok", RED)
    yield ImageCase("I07", "i07-ycck.jpg", put(_ycck(GREEN)), "ok", GREEN)
    for quality in (60, 95):
        cmyk = encode(plain(GREEN, mode="CMYK"), "JPEG", quality=quality)  # as Adobe does: stored inverted
        yield ImageCase("I07", f"i07-{quality}.jpg", put(cmyk), "ok", GREEN)


def _ycck(colour: tuple[int, int, int]) -> bytes:
    """A JPEG as Photoshop writes CMYK: YCbCr of the inverted inks, and black. Pillow itself writes no such file."""
    inks = Image.new("RGB", (60, 60), tuple(255 - value for value in colour)).convert("YCbCr")
    planes = [plane.point(lambda value: 255 - value) for plane in inks.split()]  # Pillow inverts what it writes
    content = bytearray(encode(Image.merge("CMYK", [*planes, Image.new("L", inks.size, 0)]), "JPEG", quality=95))
    content[content.index(b"Adobe") + 11] = 2  # the mark that says YCCK
    return bytes(content)


def _sixteen_bit() -> Iterator[ImageCase]:
    sixteen = Image.fromarray(np.full((60, 60), 128 * 257, np.uint16))
    integers = Image.fromarray(np.full((60, 60), 128 * 257, np.int32))
    floats = Image.fromarray(np.full((60, 60), 128.0, np.float32))
    shares = Image.fromarray(np.full((60, 60), 128 / 255, np.float32))
    yield ImageCase("I08", "i08-16.png", put(encode(sixteen, "PNG")), "ok", GREY)
    for name, image in (("16", sixteen), ("i", integers), ("f", floats), ("f-shares", shares)):
        yield ImageCase("I08", f"i08-{name}.tif", put(encode(image, "TIFF")), "ok", GREY)
    big_endian = Image.frombytes("I;16B", (60, 60), struct.pack(">H", 128 * 257) * 3600)
    yield ImageCase("I08", "i08-16b.tif", put(encode(big_endian, "TIFF")), "ok", GREY)
    dark = Image.fromarray(np.full((60, 60), 200, np.uint16))  # nearly black: 16 bits have a range of their own
    for kind in ("PNG", "TIFF"):
        yield ImageCase("I08", f"i08-dark.{SUFFIX[kind]}", put(encode(dark, kind)), "ok", (1, 1, 1))
    holes = np.full((60, 60), 128.0, np.float32)
    holes[:10] = np.nan
    yield ImageCase("I08", "i08-nan.tif", put(encode(Image.fromarray(holes), "TIFF")), "ok", GREY)
    yield ImageCase("I08", "i08-rgb16.png", put(_rgb16_png((200, 40, 30))), "ok", RED)


def _rgb16_png(colour: tuple[int, int, int], side=60) -> bytes:
    line = b"\0" + struct.pack(">3H", *(value * 257 for value in colour)) * side
    return _png(side, side, zlib.compress(line * side), depth=16)


def _png(width: int, height: int, data: bytes, depth=8, extra=b"") -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _tiff_header(side: int) -> bytes:
    """A TIFF of 8-bit grey that says to be ``side`` pixels wide and high, and has 100 bytes of them."""
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: side, 279: 100}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 108) + bytes(100) + struct.pack("<H", len(tags)) + entries + bytes(4)


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
                exif[ORIENTATION] = orientation
                turned = signpost(size)
                if orientation > 1:
                    turned = turned.transpose(TURNS[orientation])
                options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
                name = f"i09-{size[0]}-{orientation}.{SUFFIX[kind]}"
                note = "rotated" if orientation > 1 else ""
                yield ImageCase("I09", name, put(encode(turned, kind, exif=exif, **options)), "ok", None, note)

    exif = Image.Exif()
    exif[ORIENTATION] = 6
    lying = signpost().transpose(TURNS[6])
    jpeg, png = (encode(lying, kind, exif=exif) for kind in ("JPEG", "PNG"))
    profile = b"".join(b"\xff\xe2" + struct.pack(">H", 60_002) + bytes(60_000) for _ in range(2))
    late = {"i09-120-late.jpg": jpeg[:2] + profile + jpeg[2:], "i09-120-late.png": _exif_last(png)}
    for name, content in late.items():  # as editors write it: behind a large profile, behind the pixels
        yield ImageCase("I09", name, put(content), "ok", None, "rotated")
    damaged = jpeg.replace(b"Exif\0\0MM", b"Exif\0\0XX").replace(b"Exif\0\0II", b"Exif\0\0XX")
    yield ImageCase("I09", "i09-damaged.jpg", put(damaged), "ok")
    for value in (0, 9, 65_535):  # no orientation at all
        exif[ORIENTATION] = value
        yield ImageCase("I09", f"i09-value-{value}.jpg", put(encode(plain(), "JPEG", exif=exif)), "ok", RED)


def _exif_last(png: bytes) -> bytes:
    at = png.index(b"eXIf") - 4
    end = at + 12 + struct.unpack(">I", png[at : at + 4])[0]
    return png[:at] + png[end:-12] + png[at:end] + png[-12:]


def _frames() -> Iterator[ImageCase]:
    frames = [plain(RED), plain(GREEN), plain(GREY)]
    for kind, name in (("GIF", "gif"), ("WEBP", "webp"), ("PNG", "png"), ("TIFF", "tif"), ("MPO", "jpg")):
        options = {"lossless": True} if kind == "WEBP" else {}
        content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        yield ImageCase("I10", f"i10.{name}", put(content), "ok", RED, "first_frame")
    pages = encode(frames[0], "TIFF", save_all=True, append_images=[plain(GREEN, (90, 30))])
    yield ImageCase("I10", "i10-sizes.tif", put(pages), "ok", RED, "first_frame")
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO"):  # the first frame may be whole where a later one is cut
        content = encode(textured(6), kind, save_all=True, append_images=[textured(7)])
        part = content[: int(len(content) * 0.75)]
        yield ImageCase("I10", f"i10-cut.{SUFFIX.get(kind, 'jpg')}", put(part), "ok|truncated|damaged")


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
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for name, mark, options in (
        ("progressive", b"\xff\xc2", {"progressive": True}),
        ("turned", b"\xff\xc0", {"exif": exif}),
    ):
        jpeg = bytearray(encode(plain(), "JPEG", **options))
        at = jpeg.index(mark)
        jpeg[at + 5 : at + 9] = struct.pack(">HH", side, side)
        yield ImageCase("I11", f"i11-{name}.jpg", put(bytes(jpeg)), "too_large")
    webp = bytearray(encode(plain(), "WEBP"))
    webp[26:30] = struct.pack("<HH", 16_383, 16_383)
    yield ImageCase("I11", "i11.webp", put(bytes(webp)), "too_large")
    bmp[18:26] = struct.pack("<ii", side, -side)  # top line first
    yield ImageCase("I11", "i11-up.bmp", put(bytes(bmp)), "too_large")
    gif = bytearray(encode(plain(), "GIF"))
    at = gif.index(b"\x2c\0\0\0\0")  # a frame larger than its screen
    gif[at + 5 : at + 9] = struct.pack("<HH", side, side)
    yield ImageCase("I11", "i11-frame.gif", put(bytes(gif)), "too_large")
    for name, width, verdict in (("60k", side, "too_large"), ("4g", 2**32 - 1, "too_large"), ("7k", 7000, "truncated"),
                                 ("0", 0, "degenerate|truncated|damaged")):  # fmt: skip
        yield ImageCase("I11", f"i11-{name}.tif", put(_tiff_header(width)), verdict)
    data = zlib.compress((b"\0" + bytes(RED) * 60) * 60)
    zeros = zlib.compress(b"\0" * 80_000_000)
    for name, head in (("zTXt", b"Comment\0\0"), ("iCCP", b"profile\0\0"), ("iTXt", b"Comment\0\1\0\0\0")):
        content = _png(60, 60, data, extra=_chunk(name.encode(), head + zeros))
        yield ImageCase("I12", f"i12-{name.lower()}.png", put(content), "ok|damaged|truncated")
    info = PngImagePlugin.PngInfo()
    info.add(b"iCCP", b"profile\0\0" + zlib.compress(b"no profile at all"))
    yield ImageCase("I12", "i12-icc.png", put(encode(plain(), "PNG", pnginfo=info)), "ok", RED)
    yield ImageCase("I12", "i12-icc.jpg", put(encode(plain(), "JPEG", icc_profile=b"nonsense" * 99)), "ok", RED)


def _shapes() -> Iterator[ImageCase]:
    for size in ((1, 1), (2, 2), (7, 60), (60, 7), (4, 400), (1, 60_000), (60_000, 1), (10, 600), (600, 11)):
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
                 "https://localhost/x.png", "//host/x.png", "s3://bucket/x.png", "\\\\?\\C:\\x.png", "..", "a/..",
                 "folder.jpg/../../outside.png"):  # fmt: skip
        yield ImageCase("S01", path, None, "outside_root")
    for path in (
        "%2e%2e/outside.png",
        "....//outside.png",
        "~/outside.png",
        "file:outside.png",
        "$HOME/x.png",
        "x.png;ls",
    ):
        yield ImageCase("S01", path, None, "missing")  # names as any other, and nothing is called so
    yield ImageCase("S01", "./i05-PNG.png", None, "ok", RED)
    yield ImageCase("S02", "s02-out.png", lambda path: path.symlink_to("../outside.png"), "outside_root")
    link_up = partial(_link_folder, to=Path(".."))
    yield ImageCase("S02", "s02-folder/outside.png", link_up, "outside_root")
    yield ImageCase("S02", "s02-loop.png", lambda path: path.symlink_to(path.name), "missing")
    yield ImageCase("S02", "s02-nowhere.png", lambda path: path.symlink_to("none.png"), "missing")
    yield ImageCase("S02", "s02-chain.png", lambda path: path.symlink_to("s02-out.png"), "outside_root")
    yield ImageCase("S02", "s02-round/x.png", partial(_link_folder, to=Path("s02-round")), "missing")
    yield ImageCase("S02", "s02-root.png", lambda path: path.symlink_to("/etc/passwd"), "outside_root")
    yield ImageCase("S02", "s02-inside.png", lambda path: path.symlink_to("i05-PNG.png"), "ok", RED)
    yield ImageCase("S02", "s02-absolute.png", lambda path: path.symlink_to(path.parent / "i05-PNG.png"), "ok", RED)
    yield ImageCase("S02", "s02-back/i05-PNG.png", partial(_link_folder, to=Path()), "ok", RED)


def _link_folder(path: Path, to: Path) -> None:
    path.parent.rmdir()
    path.parent.symlink_to(to)


def write_images(cases: list[ImageCase], root: Path) -> int:
    """Make the files below ``root``, and one beside it that must never be opened. Returns how many there are."""
    root.mkdir()
    (root.parent / "outside.png").write_bytes(encode(plain(), "PNG"))
    made = 1
    for case in cases:
        if case.make:
            path = root / case.path
            path.parent.mkdir(parents=True, exist_ok=True)
            case.make(path)
            made += 1
    return made
