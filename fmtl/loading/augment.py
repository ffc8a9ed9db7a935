"""How training varies its images. N images, H W pixels.

What is drawn at random for an image is a row of ``draws``, uniform in [0, 1): one row decides one image, whatever
batch or device it is on.
"""

import math
from dataclasses import dataclass

import torch
from PIL import ImageColor
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.loading.preprocess import constant, crop, normalise

DRAWS = (9, 1)  # scale, top, left, mirror, brightness, contrast, saturation, hue, seed of RandAugment; turn
NUM_DRAWS = sum(DRAWS)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's and torchvision's greyscale
SHAPE_ONLY = ("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Sharpness")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What training does to its images besides.

    Attributes:
        crop_scale: Smallest side of a square crop over the stored side; 1 for whole photos.
        rotation: Largest turn, in degrees either way; what comes in from outside is the background.
        colour_jitter: Strength s: brightness, contrast and saturation by factors in [1 - s, 1 + s].
        keep_hue: Otherwise hues turn by up to s / 4 of the colour circle.
        policy: ``none``, ``trivial`` (Müller & Hutter 2021, arXiv:2103.10158) or ``rand`` (Cubuk et al. 2019,
            arXiv:1909.13719); torchvision's.
        keep_colour: The policy may move and sharpen, and leaves colours alone.
    """

    crop_scale: float = 0.75
    rotation: float = 0.0
    colour_jitter: float = 0.0
    keep_hue: bool = False
    policy: str = "none"
    keep_colour: bool = False


def boxes(draws: Tensor, stored_px: int, crop_scale: float) -> Tensor:
    """Where each image is cropped: ``(N, 4)`` int64 of side, top, left, mirrored or not.

    Args:
        draws: ``(N, NUM_DRAWS)``.
        stored_px: Side of the images.
    """
    sides = (stored_px * (crop_scale + (1 - crop_scale) * draws[:, 0])).round().clamp(min=1)
    room = stored_px - sides + 1
    return torch.stack([sides, room * draws[:, 1], room * draws[:, 2], draws[:, 3] < 0.5], dim=1).to(torch.int64)


def apply_policy(images: Tensor, draws: Tensor, augmentation: Augmentation) -> Tensor:
    """RandAugment or TrivialAugment, one draw per image; uint8 to uint8."""
    kind = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment}[augmentation.policy]
    policy = kind(interpolation=v2.InterpolationMode.BILINEAR, fill=255)
    if augmentation.keep_colour:
        policy._AUGMENTATION_SPACE = {k: v for k, v in policy._AUGMENTATION_SPACE.items() if k in SHAPE_ONLY}
    out = torch.empty_like(images, memory_format=torch.channels_last)
    with torch.random.fork_rng(devices=[]):
        for i, seed in enumerate((draws[:, 8] * 2**31).to(torch.int64).tolist()):
            torch.default_generator.manual_seed(seed)  # the CPU's alone: torch's policies draw from it
            out[i] = policy(images[i])
    return out


def rotate(images: Tensor, draws: Tensor, augmentation: Augmentation, preprocess: Preprocess) -> Tensor:
    """Turns about the middle, bilinear; uint8 to uint8."""
    angles = math.radians(augmentation.rotation) * (2 * draws[:, 9] - 1)
    cosine, sine, nothing = angles.cos(), angles.sin(), torch.zeros_like(angles)
    turns = torch.stack([cosine, -sine, nothing, sine, cosine, nothing], dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(turns, list(images.shape), align_corners=False)
    outside = constant(ImageColor.getrgb(preprocess.background)[:3], images.device).view(1, 3, 1, 1)
    turned = functional.grid_sample(images.float() - outside, grid, align_corners=False) + outside
    return turned.round().clamp(0, 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)


def jitter(images: Tensor, draws: Tensor, augmentation: Augmentation, preprocess: Preprocess) -> Tensor:
    """Colour jitter and normalisation of uint8 ``(N, 3, H, W)`` as one 3x3 matrix per image, to float32.

    Brightness, contrast, saturation and hue in this order, each linear in the pixels and so without the clipping
    in between that torchvision does. The hue turns about the grey axis.
    """
    pixels = images.permute(0, 2, 3, 1).flatten(1, 2).to(torch.float32)  # (N, H W, 3); a view of channels-last images
    eye, luma = torch.eye(3, device=images.device), constant(LUMA, images.device)
    factors = 1 + augmentation.colour_jitter * (2 * draws[:, 4:7] - 1)
    brightness, contrast, saturation = (factors[:, i].view(-1, 1, 1) for i in range(3))
    grey = (pixels.mean(dim=1) @ luma).view(-1, 1, 1) / 255 * brightness
    matrix = saturation * eye + (1 - saturation) * luma.expand(3, 3)  # columns are the input's channels
    if not augmentation.keep_hue:
        angles = torch.pi / 2 * augmentation.colour_jitter * (2 * draws[:, 7] - 1)
        matrix = _turn(angles) @ matrix
    shift = matrix @ ((1 - contrast) * grey).expand(-1, 3, 1)
    matrix = matrix * brightness * contrast / 255
    mean, std = (constant(v, images.device).view(1, 3, 1) for v in (preprocess.mean, preprocess.std))
    out = torch.baddbmm(((shift - mean) / std).mT, pixels, (matrix / std).mT)
    return out.view(len(images), *images.shape[-2:], 3).permute(0, 3, 1, 2)


def _turn(angles: Tensor) -> Tensor:
    """Rotations about the grey axis, ``(N, 3, 3)``: Rodrigues' formula for the axis (1, 1, 1) / sqrt(3)."""
    third = torch.full((3, 3), 1 / 3, device=angles.device)
    cross = constant(((0.0, -1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 1.0, 0.0)), angles.device) / 3**0.5
    cosine, sine = angles.cos().view(-1, 1, 1), angles.sin().view(-1, 1, 1)
    return cosine * torch.eye(3, device=angles.device) + sine * cross + (1 - cosine) * third


def augment(images: Tensor, draws: Tensor, augmentation: Augmentation, preprocess: Preprocess) -> Tensor:
    """What training does: a square crop at a random place and scale, a mirror image by chance, and what is asked for.

    Args:
        images: ``(N, 3, H, H)`` uint8.
        draws: ``(N, NUM_DRAWS)``.
    """
    cropped = crop(images, boxes(draws, images.shape[-1], augmentation.crop_scale), preprocess.px)
    if augmentation.policy != "none":
        cropped = apply_policy(cropped, draws, augmentation)
    if augmentation.rotation:
        cropped = rotate(cropped, draws, augmentation, preprocess)
    if augmentation.colour_jitter:
        return jitter(cropped, draws, augmentation, preprocess)
    return normalise(cropped, preprocess.mean, preprocess.std)
