"""Batches of stored pixels to network input. N images, H W pixels."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

CROP_SCALE = (0.75, 1.0)  # side of a training crop over the stored side


@dataclass(frozen=True)
class Preprocess:
    """All that prediction must repeat to see what training saw.

    Attributes:
        stored_px: Side of the square that an image file is decoded to.
        fit: How it is made square; see ``images.decode``.
        background: Fill colour.
        px: Side of the network's input.
        mean: Per channel, of pixels in [0, 1].
        std: Per channel, of pixels in [0, 1].
    """

    stored_px: int
    fit: str
    background: str
    px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, item: dict) -> "Preprocess":
        return cls(**{**item, "mean": tuple(item["mean"]), "std": tuple(item["std"])})


def as_images(pixels: np.ndarray) -> Tensor:
    """``(N, H, W, 3)`` uint8 pixels as ``(N, 3, H, W)``, channels last in memory, without a copy."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def resize(images: Tensor, px: int) -> Tensor:
    """Antialiased bilinear resize of ``(N, 3, H, W)`` uint8 to ``(N, 3, px, px)`` uint8."""
    return images if images.shape[-1] == px else tv.resize(images, [px, px], antialias=True)


def augment(images: Tensor, draws: np.ndarray, px: int) -> Tensor:
    """A square crop at a random place and scale, resized to ``px``, and a random mirror image.

    Args:
        images: ``(N, 3, H, H)`` uint8.
        draws: ``(N, 4)`` uniform in [0, 1): scale, top, left, mirror. One row decides one image, whatever
            batch it is in.
        px: Side of the result.
    """
    stored_px = images.shape[-1]
    low, high = CROP_SCALE
    sides = np.maximum((stored_px * (low + (high - low) * draws[:, 0])).round().astype(int), 1)
    tops = ((stored_px - sides + 1) * draws[:, 1]).astype(int)
    lefts = ((stored_px - sides + 1) * draws[:, 2]).astype(int)
    out = torch.empty((len(images), 3, px, px), dtype=torch.uint8).to(memory_format=torch.channels_last)
    for i, (side, top, left, mirror) in enumerate(zip(sides, tops, lefts, draws[:, 3] < 0.5, strict=True)):
        crop = resize(images[i : i + 1, :, top : top + side, left : left + side], px)
        out[i : i + 1] = crop.flip(-1) if mirror else crop
    return out


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 ``(N, 3, H, W)`` to float32, ``(pixel / 255 - mean) / std`` per channel."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=images.device).view(1, 3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=images.device).view(1, 3, 1, 1)
    return images.to(torch.float32).mul_(scale).add_(shift)


def prepare_for_network(images: Tensor, preprocess: Preprocess) -> Tensor:
    """What evaluation and prediction do: resize to ``px``, then normalise."""
    return normalise(resize(images, preprocess.px), preprocess.mean, preprocess.std)
