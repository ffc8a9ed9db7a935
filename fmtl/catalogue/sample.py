"""Draws the sample catalogue: garments whose attributes can be seen, with the faults of a real catalogue."""

import csv
import io
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from fmtl.storage import durable

NUM_GARMENTS = 600
SIDE_PX = 192
TABLE = "catalogue.csv"
COLUMNS = ("id", "image", "kind", "colour", "pattern", "sleeve", "fit", "details", "title")
KINDS = ("shirt", "dress", "trousers", "skirt", "hat", "bag")
RARE_KIND = "scarf"
SLEEVED = ("shirt", "dress")
FITTED = ("shirt", "dress", "trousers", "skirt")
APPLIES = {"sleeve": {"kind": SLEEVED}, "fit": {"kind": FITTED}}  # blank for all other kinds
COLOURS = {
    "red": (190, 40, 45),
    "blue": (45, 80, 175),
    "green": (50, 135, 70),
    "yellow": (225, 190, 50),
    "black": (40, 40, 45),
    "grey": (135, 135, 140),
    "pink": (225, 130, 165),
}
PATTERNS = ("plain", "striped", "dotted", "checked")
SLEEVE_REACH = {"none": 0, "short": 30, "long": 78}  # pixels
# What can be seen of a garment besides, as a set of values.
DETAILS = {
    "striped": ("lines across",),
    "checked": ("lines across", "lines down"),
    "dotted": ("dots",),
    "shirt": ("neckline",),
    "dress": ("neckline",),
    "trousers": ("legs",),
    "hat": ("brim",),
    "bag": ("handle",),
    "short": ("sleeves",),
    "long": ("sleeves",),
}
FITS = {"slim": 0.72, "regular": 1.0, "loose": 1.3}
MISSING_LABEL_SHARE = 0.04
LINE_PX = 3  # of a stripe or check at 192 px: gone in a thumbnail


def draw_catalogue(folder: Path, *, seed: int = 0) -> Path:
    """Draw the photos and write the table.

    The faults: labels missing in single columns, one image file missing, one cut short, three
    byte-identical twins (one with another colour label), a class of two, stray spaces.

    Returns:
        Path of ``catalogue.csv``; the photos lie in ``images/`` beside it.
    """
    rng = np.random.default_rng(seed)
    garments = [_garment(rng, RARE_KIND if i in (100, 300) else None) for i in range(NUM_GARMENTS)]
    with durable.publishing(folder) as temporary:
        (temporary / "images").mkdir()
        rows, files = [], []
        for i, garment in enumerate(garments):
            files.append(_jpeg(_draw(garment, rng)))
            rows.append({"id": f"g{i:04d}", "image": f"g{i:04d}.jpg", "title": f"{_title(garment)} no. {i}", **garment})
        _add_faults(rows, files, rng)
        for row, content in zip(rows, files, strict=True):
            if content:
                (temporary / "images" / row["image"]).write_bytes(content)
        with (temporary / TABLE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    return folder / TABLE


def _garment(rng: np.random.Generator, kind: str | None) -> dict[str, str]:
    kind = kind or str(rng.choice(KINDS))
    garment = {
        "kind": kind,
        "colour": str(rng.choice(list(COLOURS))),
        "pattern": str(rng.choice(PATTERNS)),
        "sleeve": str(rng.choice(list(SLEEVE_REACH))) if kind in SLEEVED else "",
        "fit": str(rng.choice(list(FITS))) if kind in FITTED else "",
    }
    details = [detail for word in garment.values() for detail in DETAILS.get(word, ())]
    return garment | {"details": "|".join(sorted(details)) or "[]"}


def _title(garment: dict[str, str]) -> str:
    words = [garment["fit"], garment["colour"], garment["pattern"], garment["kind"]]
    return " ".join(word for word in words if word).capitalize()


def _add_faults(rows: list[dict], files: list[bytes], rng: np.random.Generator) -> None:
    for row in rows:
        for column in ("colour", "pattern", "fit"):
            if rng.random() < MISSING_LABEL_SHARE:
                row[column] = ""
    for copy, original in ((20, 10), (21, 11), (22, 12)):
        files[copy] = files[original]
        rows[copy] = {**rows[original], "id": rows[copy]["id"], "image": rows[copy]["image"]}
    rows[22]["colour"] = "red" if rows[12]["colour"] != "red" else "blue"
    files[30] = b""  # not written: a missing file
    files[40] = files[40][: len(files[40]) // 2]
    rows[50]["kind"] = f" {rows[50]['kind']} "
    rows[60]["colour"] = f"{rows[60]['colour']}  "


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _draw(garment: dict[str, str], rng: np.random.Generator) -> Image.Image:
    """A garment on a tinted, shaded background, at its own place, size, angle and light."""
    tint = rng.uniform(150, 255, 3)
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), tuple(int(v) for v in tint))
    shadow = Image.linear_gradient("L").resize((SIDE_PX, SIDE_PX)).rotate(float(rng.uniform(0, 360)))
    image = Image.composite(image, Image.new("RGB", image.size, tuple(int(v * 0.7) for v in tint)), shadow)
    cloth = _cloth(garment, rng)
    mask = Image.new("L", image.size, 0)
    _outline(garment, ImageDraw.Draw(mask))
    angle, scale = float(rng.uniform(-18, 18)), float(rng.uniform(0.62, 0.95))
    shift = rng.uniform(-0.12, 0.12, 2) * SIDE_PX
    mask, cloth = (_place(layer, angle, scale, shift) for layer in (mask, cloth))
    image.paste(cloth, mask=mask.filter(ImageFilter.GaussianBlur(0.7)))
    brightness = float(rng.uniform(0.8, 1.15))
    light = Image.eval(image, lambda value: min(255, int(value * brightness)))
    noise = Image.fromarray(rng.integers(0, 18, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8))
    return ImageChops.subtract(light, noise)


def _place(layer: Image.Image, angle: float, scale: float, shift: np.ndarray) -> Image.Image:
    """Rotate and scale about the middle, then shift."""
    middle, turn = SIDE_PX / 2, math.radians(angle)
    a, b = math.cos(turn) / scale, math.sin(turn) / scale
    x, y = middle + shift[0], middle + shift[1]
    matrix = (a, b, middle - a * x - b * y, -b, a, middle + b * x - a * y)
    return layer.transform(layer.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _cloth(garment: dict[str, str], rng: np.random.Generator) -> Image.Image:
    base = np.clip(np.array(COLOURS[garment["colour"]]) + rng.integers(-14, 15, 3), 0, 255)
    colour = tuple(int(v) for v in base)
    light = base.mean() > 110
    ink = tuple(int(v * 0.45) if light else int(v * 0.35 + 150) for v in base)
    cloth = Image.new("RGB", (SIDE_PX, SIDE_PX), colour)
    draw, gap = ImageDraw.Draw(cloth), int(rng.integers(11, 15))
    start = int(rng.integers(gap))
    lines = range(start, SIDE_PX, gap)
    if garment["pattern"] in ("striped", "checked"):
        for at in lines:
            draw.line((0, at, SIDE_PX, at), ink, LINE_PX)
    if garment["pattern"] == "checked":
        for at in lines:
            draw.line((at, 0, at, SIDE_PX), ink, LINE_PX)
    if garment["pattern"] == "dotted":
        for row, y in enumerate(lines):
            for x in lines:
                x += gap // 2 * (row % 2)
                draw.ellipse((x - 3, y - 3, x + 3, y + 3), ink)
    return cloth


def _outline(garment: dict[str, str], draw: ImageDraw.ImageDraw) -> None:
    """Fill the garment's outline with 255, in the middle of a 192 px square."""
    kind = garment["kind"]
    width = FITS.get(garment["fit"], 1.0)

    def shape(*points: tuple[float, float], symmetric: bool = True) -> None:
        """Points as (half width, height) of the right side from top to bottom, mirrored to the left."""
        right = [(96 + x, y) for x, y in points]
        left = [(96 - x, y) for x, y in reversed(points)] if symmetric else []
        draw.polygon(right + left, fill=255)

    if kind in SLEEVED:
        _sleeves(SLEEVE_REACH[garment["sleeve"]], draw)
    if kind == "shirt":
        shape((14, 30), (34, 36), (36 * width, 64), (36 * width, 150))
        draw.ellipse((82, 20, 110, 40), fill=0)
    elif kind == "dress":
        shape((12, 26), (32, 34), (22 * width, 86), (52 * width, 172))
        draw.ellipse((84, 16, 108, 36), fill=0)
    elif kind == "trousers":
        shape((30, 26), (34 * width, 60), (36 * width, 170), (8 + 6 * width, 170), (3, 74))
    elif kind == "skirt":
        shape((24, 44), (27, 56), (56 * width, 150))
    elif kind == "hat":
        draw.pieslice((52, 44, 140, 156), 180, 360, fill=255)
        draw.ellipse((24, 88, 168, 120), fill=255)
    elif kind == "bag":
        draw.ellipse((60, 30, 132, 118), fill=255)
        draw.ellipse((70, 40, 122, 108), fill=0)
        draw.rounded_rectangle((40, 76, 152, 158), 14, fill=255)
    else:  # scarf
        draw.ellipse((54, 24, 138, 84), fill=255)
        draw.ellipse((74, 40, 118, 70), fill=0)
        draw.polygon([(70, 70), (98, 70), (92, 172), (64, 172)], fill=255)
        draw.polygon([(100, 70), (124, 66), (134, 150), (108, 156)], fill=255)


def _sleeves(reach: int, draw: ImageDraw.ImageDraw) -> None:
    if reach:
        for side in (-1, 1):
            ends = ((30, 36), (42 + 0.42 * reach, 44 + reach), (24 + 0.42 * reach, 52 + reach), (26, 62))
            draw.polygon([(96 + side * x, y) for x, y in ends], fill=255)
