"""Where a network looks: Grad-CAM, for convolutional networks and transformers.

Selvaraju et al. 2017, arXiv:1610.02391. N images, C channels, K classes of a task.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fmtl.model.network import MultiTaskNet


class NoSpatialLayer(ValueError):
    """No layer's output has positions that the network's answer depends on."""


def heat_maps(net: MultiTaskNet, images: Tensor, chosen: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How much each place speaks for a class, by task name: ``(N, h, w)`` float32 in [0, 1] on the CPU.

    The map is that of the last layer in which every place still counts: the last feature map of a convolutional
    network, the input of the last attention of a transformer that answers from a class token. Tasks share that layer,
    so their maps differ only where their classes weigh its channels differently. A map is all 0 where nothing speaks
    for the class.

    Args:
        images: ``(N, 3, px, px)`` float32, on the network's device.
        chosen: By task name, the class to explain for each image, ``(N,)`` int64.

    Raises:
        NoSpatialLayer: There is no such layer.
    """
    net.eval()
    images = images.contiguous(memory_format=net.execution.memory_format).requires_grad_()
    with torch.enable_grad(), _Outputs(net.backbone) as outputs:
        logits = net.packing.split(net.heads(net.backbone.forward(images).float()))
    scores = {name: logits[name].gather(1, k.to(images.device).unsqueeze(1)).sum() for name, k in chosen.items()}
    layer = _last_spatial(outputs.found, next(iter(scores.values())))
    maps = {}
    for name, score in scores.items():
        (gradient,) = torch.autograd.grad(score, layer, retain_graph=True)
        maps[name] = _map(_as_places(layer.detach()), _as_places(gradient))
    return maps


class _Outputs:
    """Collects the outputs of a network's modules that have places, in the order of computation."""

    def __init__(self, network: nn.Module):
        self.found: list[Tensor] = []
        self._network, self._handles = network, list[RemovableHandle]()

    def __enter__(self) -> "_Outputs":
        for module in self._network.modules():
            # An identity has nothing of its own; inside an attention it holds queries, which may look like a square.
            if module is not self._network and not isinstance(module, nn.Identity):
                self._handles.append(module.register_forward_hook(self._keep))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.requires_grad and _places(output.shape):
            self.found.append(output)


def _places(shape: Sequence[int]) -> tuple[int, int] | None:
    """Height and width of an output's grid of places, which is square as the image is; None if it has none.

    ``(N, C, h, w)``, ``(N, h, w, C)`` as torchvision's Swin has it, or ``(N, tokens, C)`` with any class tokens first.
    The queries of an attention, ``(N, heads, tokens, C)``, have none.
    """
    if len(shape) == 4:
        h, w = shape[1:3] if shape[1] == shape[2] != shape[3] else shape[2:]
        if h != w:
            return None
    elif len(shape) == 3:
        h = w = math.isqrt(shape[1])
    else:
        return None
    return (h, w) if h * w > 1 else None


def _as_places(output: Tensor) -> Tensor:
    """``(N, C, h, w)``."""
    places = _places(output.shape)
    assert places is not None  # only outputs that have some are kept
    h, w = places
    if output.ndim == 3:
        return output[:, output.shape[1] - h * w :].transpose(1, 2).unflatten(2, (h, w))
    return output if output.shape[2:] == (h, w) else output.permute(0, 3, 1, 2)


def _last_spatial(outputs: Sequence[Tensor], score: Tensor) -> Tensor:
    gradients = torch.autograd.grad(score, outputs, retain_graph=True, allow_unused=True) if outputs else ()
    for output, gradient in zip(reversed(outputs), reversed(gradients), strict=True):
        if gradient is not None and int(_as_places(gradient).abs().sum(dim=(0, 1)).count_nonzero()) > 1:
            return output
    raise NoSpatialLayer("no layer of this network has places that its answer depends on")


def _map(features: Tensor, gradient: Tensor) -> Tensor:
    """Channels weighed by their mean gradient, what speaks against the class cut off, the largest place 1."""
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    found = (weights * features).sum(dim=1).relu()
    return (found / found.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)).float().cpu()
