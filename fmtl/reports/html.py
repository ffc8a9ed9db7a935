"""Self-contained HTML pages: nothing from elsewhere, every value escaped; a script only where the template has one."""

import base64
import io

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from fmtl.errors import neutral

_PAGES = Environment(
    loader=PackageLoader("fmtl.reports"),
    autoescape=True,
    finalize=lambda value: neutral(value) if type(value) is str else value,  # not what is HTML already
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: object) -> str:
    """One page from ``the templates``."""
    return _PAGES.get_template(template).render(**values)


def evenly(rows: np.ndarray, num: int) -> np.ndarray:
    """At most ``num`` of some rows, evenly taken."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(num, len(rows))).astype(int))] if len(rows) else rows


def photo(pixels: np.ndarray, px: int) -> str:
    """``(H, H, 3)`` uint8 pixels, at most ``px`` wide, as a JPEG data URI."""
    image = Image.fromarray(pixels)
    return data_uri(smaller(image, px) if image.width > px else image)


def smaller(image: Image.Image, px: int) -> Image.Image:
    """A square image with a side of ``px``: as sharp as bicubic when it shrinks, in two thirds of the time."""
    return image.resize((px, px), Image.Resampling.HAMMING, reducing_gap=2.0)


def data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
