"""Preprocessing as part of a network: from RGB of any size to its input, to the bit as photos are decoded elsewhere.

A resize is two products, with a matrix for each direction: every row of it has the weights that the triangle filter
gives the source pixels of one target pixel. Pixels are whole numbers before, between and after, and weights are whole
numbers of a fraction, as Pillow and torch have them, so that sums are exact in whatever order a runtime takes them.

N images, H and W pixels, S the stored side, P the network's side.
"""

import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor, nn

from fmtl.dataset.pixels.preprocess import Preprocess

PILLOW_BITS = 22  # of the fraction in Pillow's weights of 8-bit images (PRECISION_BITS in its Resample.c)
TORCH_LARGEST = 2**15  # below which torch's weights of 8-bit images stay
TORCH_MOST_BITS = 22


class Sides(nn.Module):
    """Where a photo of any size comes to lie in the stored square: what ``images.fitted`` decides from its two sides.

    Args:
        px: S.
        fit: As of ``Preprocess``.
    """

    def __init__(self, px: int, fit: str):
        super().__init__()
        self.px, self.fit = px, fit

    def target(self, side: Tensor, other: Tensor) -> Tensor:
        """Pixels of the square that a side of the photo takes, float64."""
        if self.fit != "pad":
            return side * 0 + self.px
        return (side * (self.px / torch.maximum(side, other))).round().clamp(min=1)  # halves to even, as Python's

    def shown(self, side: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Start and end of the part of a side that is seen, in pixels of the photo."""
        if self.fit != "crop":
            return side * 0, side
        cut = (1 - (other / side).clamp(max=1)) / 2
        return (cut * side).float(), ((1 - cut) * side).float()  # Pillow's box has 32 bits

    def forward(self, image: Tensor) -> Tensor:
        """Whether Pillow, from version 13 on, goes down before it goes across: where that shrinks a photo by more than
        twice as many pixels. Sums are rounded between the two, so that it matters."""
        height, width = lengths(image)
        fewer_down, fewer_across = height - self.target(height, width), width - self.target(width, height)
        return (fewer_down > 0) & (fewer_down > 2 * fewer_across)


class Fit(nn.Module):
    """Any size to the stored square, as ``dataset.pixels.images`` fits a photo of up to ``flatten.LARGE`` pixels.

    ``(N, H, W, 3)`` uint8 RGB to ``(N, S, S, 3)`` uint8.

    Args:
        down_first: Which direction comes first; ``Sides`` says which it is for a photo.
    """

    background: Tensor

    def __init__(self, preprocess: Preprocess, *, down_first: bool):
        super().__init__()
        self.px, self.down_first = preprocess.stored_px, down_first
        self.sides = Sides(preprocess.stored_px, preprocess.fit)
        colour = ImageColor.getrgb(preprocess.background)[:3]
        self.register_buffer("background", torch.tensor(colour, dtype=torch.float64).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        height, width = lengths(image)
        across, is_across = self._matrix(image.shape[2], width, height)
        down, is_down = self._matrix(image.shape[1], height, width)
        found = image.permute(0, 3, 1, 2).double()
        if self.down_first:
            found = _rounded(_rounded(down @ found, PILLOW_BITS) @ across.T, PILLOW_BITS)
        else:
            found = _rounded(down @ _rounded(found @ across.T, PILLOW_BITS), PILLOW_BITS)
        if self.sides.fit == "pad":
            found = torch.where(is_down.view(-1, 1) & is_across.view(1, -1), found, self.background)
        return found.permute(0, 2, 3, 1).to(torch.uint8)

    def _matrix(self, num: int, side: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Weights ``(S, num)`` in units of 2 ** -22, and which rows are of the photo, ``(S,)``.

        Args:
            num: Source pixels in this direction; ``side`` is the same as a float64.
            other: Source pixels in the other direction.
        """
        (start, end), target = self.sides.shown(side, other), self.sides.target(side, other)
        scale = (end - start).double() / target
        reach = scale.clamp(min=1)
        at = torch.arange(self.px, dtype=torch.float64) - ((self.px - target) / 2).floor()
        middle = start.double() + (at + 0.5) * scale
        first = (middle - reach + 0.5).floor().clamp(min=0).unsqueeze(1)
        last = (middle + reach + 0.5).floor().clamp(max=num).unsqueeze(1)
        columns = torch.arange(num, dtype=torch.float64).unsqueeze(0)
        weights = (1 - ((columns - middle.unsqueeze(1) + 0.5) * (1 / reach)).abs()).clamp(min=0)
        weights = torch.where((columns >= first) & (columns < last), weights, 0.0)
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)
        return (weights * 2**PILLOW_BITS + 0.5).floor(), (at >= 0) & (at < target)


class Normalise(nn.Module):
    """The stored square to the network's input, as ``loading.preprocess`` makes it on a CPU.

    ``(N, S, S, 3)`` uint8 to ``(N, 3, P, P)`` float32.
    """

    matrix: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, preprocess: Preprocess):
        super().__init__()
        weights, self.bits = torch_weights(preprocess.stored_px, preprocess.px)
        self.is_resized = preprocess.px != preprocess.stored_px
        self.register_buffer("matrix", torch.from_numpy(weights).float())
        mean, std = preprocess.mean, preprocess.std
        self.register_buffer("scale", torch.tensor([1 / (255 * s) for s in std]).view(1, 3, 1, 1))
        self.register_buffer("shift", torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(1, 3, 1, 1))

    def forward(self, square: Tensor) -> Tensor:
        found = square.permute(0, 3, 1, 2).float()
        if self.is_resized:  # sums stay below 2 ** 24, where float32 has every whole number
            found = _rounded(found @ self.matrix.T, self.bits)
            found = _rounded(self.matrix @ found, self.bits)
        return self.shift + found * self.scale


def torch_weights(num: int, px: int) -> tuple[np.ndarray, int]:
    """Weights ``(px, num)`` by which torch's antialiased bilinear resize makes ``px`` of ``num`` pixels of 8 bits, and
    the bits of their fraction: the most with which all are below 2 ** 15 (``_compute_index_ranges_int16_weights`` in
    its UpSampleKernel.cpp)."""
    scale = num / px
    reach = max(scale, 1.0)
    middle = (scale * (np.arange(px) + 0.5))[:, None]
    columns = np.arange(num)[None]
    first, last = np.maximum((middle - reach + 0.5).astype(int), 0), np.minimum((middle + reach + 0.5).astype(int), num)
    weights = np.clip(1 - np.abs((columns - middle + 0.5) * (1 / reach)), 0, None)
    weights = np.where((columns >= first) & (columns < last), weights, 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    bits = 0
    while bits < TORCH_MOST_BITS and int(0.5 + weights.max() * 2 ** (bits + 1)) < TORCH_LARGEST:
        bits += 1
    return np.floor(weights * 2**bits + 0.5), bits


def lengths(image: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width of ``(N, H, W, 3)`` as float64, which a traced graph takes from the image that it is given."""
    height, width = (torch.scalar_tensor(side, dtype=torch.float64) for side in image.shape[1:3])
    return height, width


def _rounded(sums: Tensor, bits: int) -> Tensor:
    """Sums of whole weights and pixels to pixels, halves up."""
    return ((sums + 2 ** (bits - 1)) * 2.0**-bits).floor().clamp(0, 255)
