"""Convolutions of single pixels with a stride on CPUs: the same numbers, without a fault of oneDNN's.

Its gradient of their weights writes beyond its memory where an image of few channels has its channels last, and ends
the process or gives wrong numbers: https://github.com/uxlfoundation/oneDNN/issues/6035. Here the pixels that the
stride leaves are taken first, which comes to the same. N images, C channels.
"""

from functools import partial

from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

FEW = 16  # channels, of a block of the largest kernels


def make_safe(network: nn.Module, enabled: bool = True) -> None:
    """Lead a network's convolutions of this kind around the fault, or (not ``enabled``) compute them as torch does."""
    for module in network.modules():
        # Others that are one by descent may compute with another weight than the one they hold.
        if isinstance(module, nn.Conv2d) and type(module) in (nn.Conv2d, Conv2dSame) and _is_concerned(module):
            module.__dict__.pop("forward", None)
            if enabled:
                module.forward = partial(_forward, module)  # type: ignore[method-assign]


def _is_concerned(module: nn.Conv2d) -> bool:
    strided = module.kernel_size == (1, 1) and module.stride != (1, 1) and module.padding in ((0, 0), 0, "valid")
    return strided and module.groups == 1 and module.in_channels < FEW


def _forward(module: nn.Conv2d, images: Tensor) -> Tensor:
    rows, columns = module.stride
    return F.conv2d(images[:, :, ::rows, ::columns], module.weight, module.bias)
