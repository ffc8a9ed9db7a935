"""Stored pixels to network input, as evaluation and prediction do it: resize and normalise. N images, H W pixels."""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fmtl.dataset.pixels.preprocess import Preprocess


def as_images(pixels: np.ndarray) -> Tensor:
    """``(N, H, W, 3)`` uint8 pixels as ``(N, 3, H, W)``, channels last in memory, without a copy."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def resize(images: Tensor, px: int) -> Tensor:
    """Antialiased bilinear resize of ``(N, 3, H, W)`` uint8 to ``(N, 3, px, px)`` uint8."""
    if images.shape[-1] == px and images.shape[-2] == px:
        return images
    if images.is_cuda:  # uint8 has no kernel there
        return crop_by_products(images, whole(images), px)
    return F.interpolate(images, (px, px), mode="bilinear", antialias=True)


def whole(images: Tensor) -> Tensor:
    """Boxes, as of ``boxes``, that leave square images as they are."""
    side = torch.full((len(images),), images.shape[-1], dtype=torch.int64, device=images.device)
    nothing = torch.zeros_like(side)
    return torch.stack([side, nothing, nothing, nothing], dim=1)


def crop(images: Tensor, where: Tensor, px: int) -> Tensor:
    """Square crops, each resized to ``px`` and mirrored if its box says so; uint8 ``(N, 3, px, px)``."""
    if images.is_cuda:
        return crop_by_products(images, where, px)
    parts = [
        resize(images[i : i + 1, :, top : top + side, left : left + side], px)
        for i, (side, top, left, _) in enumerate(where.tolist())
    ]
    out = torch.cat(parts).contiguous(memory_format=torch.channels_last)
    mirrored = where[:, 3].bool()
    out[mirrored] = out[mirrored].flip(-1)
    return out


def crop_by_products(images: Tensor, where: Tensor, px: int) -> Tensor:
    """``crop`` of a whole batch at once, as two matrix products per image: for GPUs.

    The rows of the matrices are the antialiased bilinear filter, as in Pillow and ``torch.nn.functional.interpolate``.
    """
    side, top, left, mirrored = (where[:, i].float() for i in range(4))
    size = torch.arange(images.shape[-1], device=images.device)
    rows = _filter(side, top, size, px)
    columns = _filter(side, left, size, px)
    columns = torch.where(mirrored.bool().view(-1, 1, 1), columns.flip(1), columns)
    sharp = torch.einsum("nph,nchw,nqw->ncpq", rows, images.float(), columns)
    return sharp.round().clamp(0, 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)


def _filter(side: Tensor, start: Tensor, size: Tensor, px: int) -> Tensor:
    """Weights ``(N, px, H)`` of the source pixels in each of ``px`` target pixels."""
    scale = (side / px).view(-1, 1, 1)
    reach = scale.clamp(min=1.0)  # of the triangle; half its width
    middles = (torch.arange(px, device=side.device).view(1, -1, 1) + 0.5) * scale
    offset = size.view(1, 1, -1) - start.view(-1, 1, 1)
    weights = (1 - (offset + 0.5 - middles).abs() / reach).clamp(min=0)
    weights = weights * ((offset >= 0) & (offset < side.view(-1, 1, 1)))
    return weights / weights.sum(dim=2, keepdim=True)


@cache
def constant(values: tuple, device: torch.device) -> Tensor:
    """A float32 tensor that is made once: copying numbers to a GPU makes the host wait for it."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 ``(N, 3, H, W)`` to float32, ``(pixel / 255 - mean) / std`` per channel."""
    scale = constant(tuple(1 / (255 * s) for s in std), images.device).view(1, 3, 1, 1)
    shift = constant(tuple(-m / s for m, s in zip(mean, std, strict=True)), images.device).view(1, 3, 1, 1)
    return torch.addcmul(shift, images.to(torch.float32), scale)


def prepare_for_network(images: Tensor, preprocess: Preprocess) -> Tensor:
    """What evaluation and prediction do: resize to ``px``, then normalise."""
    return normalise(resize(images, preprocess.px), preprocess.mean, preprocess.std)
