"""Image files with bytes changed at random: each is a square of pixels or an ImageError with its reason, in time."""

import io
import os
import time

import icc
import numpy as np
import pytest
from kit.mutations import mutated
from PIL import Image

from fmtl.catalogue.photos.folder import ImageError
from fmtl.dataset.pixels import headers, images

NUM = int(os.environ.get("FMTL_MUTATIONS", "60"))  # of each kind
MAX_SECONDS = 20
SIDE = 64


def originals():
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE - 16, 3), np.uint8)
    image = Image.fromarray(pixels).resize((96, 128))
    exif = Image.Exif()
    exif[headers.ORIENTATION] = 6
    kinds = {
        "JPEG": (image, "JPEG", {"quality": 80}),
        "progressive JPEG": (image, "JPEG", {"progressive": True, "exif": exif, "icc_profile": icc.ADOBE_RGB}),
        "CMYK JPEG": (image.convert("CMYK"), "JPEG", {"icc_profile": icc.cmyk()}),
        "PNG": (image.convert("RGBA"), "PNG", {"icc_profile": icc.DISPLAY_P3}),
        "WebP": (image, "WEBP", {"quality": 80, "exif": exif}),
        "GIF": (image, "GIF", {"save_all": True, "append_images": [image.rotate(90)]}),
        "TIFF": (image, "TIFF", {"compression": "tiff_lzw"}),
        "BMP": (image, "BMP", {}),
        "AVIF": (image, "AVIF", {}),
    }
    for name, (picture, kind, options) in kinds.items():
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        yield name, buffer.getvalue()
    try:
        import pillow_heif
    except ImportError:
        return
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer)
    yield "HEIC", buffer.getvalue()


ORIGINALS = dict(originals())


@pytest.mark.parametrize("name", ORIGINALS)
@pytest.mark.filterwarnings("ignore")  # of odd metadata
def test_a_mutated_file_is_pixels_or_has_a_reason(name):
    rng, reasons = np.random.default_rng(1), []
    for number in range(NUM):
        content = mutated(ORIGINALS[name], rng)
        started = time.monotonic()
        try:
            pixels = images.decode(content, px=32)
            assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
        except ImageError as error:
            assert error.reason and error.detail
            reasons.append(str(error.reason))
        assert time.monotonic() - started < MAX_SECONDS, f"{name}, mutation {number}"
    assert reasons, "no mutation did any harm"
