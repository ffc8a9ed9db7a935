"""BatchNorm over the images of all processes that train together. N images, C channels, H W pixels."""

from functools import partial

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from fmtl.model.network import MultiTaskNet


def synchronise(net: MultiTaskNet, device: torch.device) -> None:
    """Normalise by the statistics of all processes' images, whose number may differ, from now on."""
    if device.type == "cuda":  # torch's own, which a CPU has not
        net.backbone = convert_sync_batchnorm(net.backbone)
        return
    for norm in net.backbone.modules():
        if isinstance(norm, _BatchNorm):
            norm.forward = partial(_normalised, norm, norm.forward)  # type: ignore[method-assign]


def _normalised(norm: _BatchNorm, alone, images: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    if not norm.training:
        return alone(images)
    values = images.float()
    others = [0, *range(2, values.ndim)]
    shape = [1, -1, *[1] * (values.ndim - 2)]
    num = values.new_tensor(float(values.numel() // values.shape[1]))
    distributed.all_reduce(num)
    mean = all_reduce(values.sum(dim=others)) / num
    centred = values - mean.view(shape)
    variance = all_reduce(centred.square().sum(dim=others)) / num
    _count(norm, mean.detach(), variance.detach() * num / (num - 1).clamp(min=1))
    found = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        found = found * norm.weight.view(shape) + norm.bias.view(shape)
    found = found.to(images.dtype)
    # timm's norms have an activation inside.
    act, drop = getattr(norm, "act", None), getattr(norm, "drop", None)
    return act(drop(found)) if act and drop else found


@torch.no_grad()
def _count(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Into the running statistics, as ``torch.nn.BatchNorm2d`` does."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked += 1
    share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(variance, share)
