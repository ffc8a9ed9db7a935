"""What names and values of a catalogue look like."""

import re

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic",
    ".heif", ".avif",
)  # fmt: skip
ID_NAMES = ("id", "product_id", "productid")  # of a column, whatever its case
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def without_image_suffix(name: str) -> str:
    """A file name without its end, where that is an image's."""
    stem, point, suffix = name.rpartition(".")
    return stem if stem and f"{point}{suffix}".lower() in IMAGE_SUFFIXES else name
