"""Colours as they were meant: pixels of another colour profile than sRGB to sRGB, by littleCMS."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

SAME = 2  # of 255: a profile that changes no colour by more is sRGB under whatever name
_MODES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}  # Pillow's layouts, and the colour space of their profiles
_STEPS = 9  # colours along each axis that are looked at


def converted(image: Image.Image) -> Image.Image | None:
    """An image in sRGB; None where it is already, says nothing of its colours, or what it says can't be read.

    Transparency is kept.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    if image.mode in ("RGBA", "LA", "PA", "P") or "transparency" in image.info:
        return _with_alpha(image, profile)
    transform = to_srgb(profile, image.mode)
    return transform.apply(image) if transform else None


def _with_alpha(image: Image.Image, profile: bytes) -> Image.Image | None:
    colours = image.convert("RGBA")
    transform = to_srgb(profile, "RGB")
    if transform is None:
        return None
    found = transform.apply(colours.convert("RGB"))
    found.putalpha(colours.getchannel("A"))
    return found if "A" in image.getbands() or "transparency" in image.info else found.convert("RGB")


@lru_cache(maxsize=64)
def to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """What turns pixels of a profile into sRGB; None where nothing is to be done or can be.

    Args:
        mode: Pillow's name of the pixel layout.
    """
    if mode not in _MODES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _MODES[mode]:
            return None  # a profile that belongs to other pixels
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode == "RGB" and _changes_nothing(transform):
            return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # damaged: the pixels decide
        return None
    return transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    axis = np.linspace(0, 255, _STEPS).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(1, -1, 3)
    found = np.asarray(transform.apply(Image.fromarray(colours)))
    return bool(np.abs(found.astype(int) - colours).max() <= SAME)
