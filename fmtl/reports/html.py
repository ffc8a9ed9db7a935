"""Self-contained HTML pages: no script, no resource from elsewhere, every value escaped."""

import base64
import io

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

_PAGES = Environment(
    loader=PackageLoader("fmtl.reports"),
    autoescape=True,
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
    if image.width > px:
        image = image.resize((px, px), reducing_gap=2.0)
    return data_uri(image)


def data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
