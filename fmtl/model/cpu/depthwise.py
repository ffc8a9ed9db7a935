"""Depthwise convolutions on CPUs: the same numbers, with faster gradients.

oneDNN has kernels made for depthwise convolutions, but not for all of their gradients; what is left to its general
kernels takes 3 to 20 times as long (``ONEDNN_VERBOSE=1`` names them: ``jit_dw`` and ``brdgmm_dw`` are the good ones):

- the gradient of weights with more than three columns, or more rows than the image. Here it is put together from tiles
  of three columns, each that of a narrow convolution on columns further to the right of an image padded beforehand;
- the gradient of the image in bf16 where the stride is not 1. Here it is computed in fp32.

N images, C channels, kernels ``R x S``.
"""

import platform
from functools import partial

import torch
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

TILE = 3  # columns
HERE = platform.machine().lower() in ("x86_64", "amd64")  # elsewhere torch has other kernels


def speed_up(network: nn.Module, enabled: bool = True) -> None:
    """Give a network's depthwise convolutions the fast gradients, or (not ``enabled``) torch's own again."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and _is_supported(module):
            module.__dict__.pop("forward", None)
            if enabled:
                module.forward = partial(_forward, module)  # type: ignore[method-assign]


def _is_supported(module: nn.Conv2d) -> bool:
    depthwise = module.groups == module.in_channels == module.out_channels > 1
    plain = module.dilation == (1, 1) and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return depthwise and plain


def _forward(module: nn.Conv2d, images: Tensor) -> Tensor:
    padding = module.padding
    if isinstance(module, Conv2dSame):
        images, padding = pad_same(images, list(module.kernel_size), list(module.stride), list(module.dilation)), (0, 0)
    return DepthwiseConv2d.apply(images, module.weight, module.bias, module.stride, padding)


class DepthwiseConv2d(torch.autograd.Function):
    """``conv2d(images, weight, bias, stride, padding, groups=C)``: images ``(N, C, H, W)``, weight ``(C, 1, R, S)``.

    Computes in bf16 under autocast.
    """

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx, images: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple, padding: tuple) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(images, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")
    def backward(  # type: ignore[override]  # torch's decorators hide its arguments
        ctx, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        of_images = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_images = _image_gradient(grad, images, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(grad, images, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum((0, 2, 3))
        return of_images, of_weight, of_bias, None, None


def _image_gradient(grad: Tensor, images: Tensor, weight: Tensor, stride: tuple, padding: tuple) -> Tensor:
    if stride != (1, 1) and grad.dtype == torch.bfloat16:
        return _image_gradient(grad.float(), images.float(), weight.float(), stride, padding).bfloat16()
    return _gradients(grad, images, weight, stride, padding, (True, False, False))[0]


def _weight_gradient(grad: Tensor, images: Tensor, weight: Tensor, stride: tuple, padding: tuple) -> Tensor:
    """``(C, 1, R, S)``. The last tile may reach beyond the kernel: its surplus is cut."""
    channels, _, rows, columns = weight.shape
    tiles = -(-columns // TILE)
    seen = (grad.shape[3] - 1) * stride[1] + TILE  # columns of the images that a tile meets
    right = (tiles - 1) * TILE + seen - images.shape[3] - padding[1]
    bottom = (grad.shape[2] - 1) * stride[0] + rows - images.shape[2] - padding[0]
    last = images.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    padded = F.pad(images, (padding[1], right, padding[0], bottom))
    narrow = weight.new_empty(channels, 1, rows, TILE)
    found = []
    for first in range(0, tiles * TILE, TILE):
        part = padded[..., first : first + seen].contiguous(memory_format=layout)
        found.append(_gradients(grad, part, narrow, stride, (0, 0), (False, True, False))[1])
    return torch.cat(found, dim=3)[..., :columns]


def _gradients(
    grad: Tensor, images: Tensor, weight: Tensor, stride: tuple, padding: tuple, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten.convolution_backward(
        grad, images, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight), wanted
    )
