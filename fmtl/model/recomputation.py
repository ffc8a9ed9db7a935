"""Blocks that are computed once more on the way back, for which their activations need not be kept."""

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute_blocks(backbone: nn.Module) -> None:
    """Keep only the inputs of the backbone's blocks for the backward pass."""
    timms = getattr(backbone, "set_grad_checkpointing", None)
    if callable(timms):
        timms()
        return
    for stage in backbone.modules():
        if isinstance(stage, nn.Sequential):
            for block in stage:
                if any(True for _ in block.children()) and not isinstance(block, nn.Sequential):
                    forward = partial(checkpoint, block.forward, use_reentrant=False)
                    block.forward = forward  # type: ignore[method-assign]


class StatisticsOnce:
    """Keeps BatchNorm from counting a batch a second time when its block is computed once more.

    As a context it is around the computation that counts.
    """

    def __init__(self, backbone: nn.Module):
        self._counts = False
        self._kept: dict[nn.Module, dict[str, Tensor]] = {}
        for norm in backbone.modules():
            if isinstance(norm, _BatchNorm):
                norm.register_forward_pre_hook(self._before)
                # A block is left by an exception when all that it was computed for is there.
                norm.register_forward_hook(self._after, always_call=True)

    def __enter__(self) -> None:
        self._counts = True

    def __exit__(self, *error: object) -> None:
        self._counts = False

    def _before(self, norm: nn.Module, _: Any) -> None:
        if norm.training and not self._counts:
            self._kept[norm] = dict(norm.named_buffers(recurse=False))
            for name, statistic in self._kept[norm].items():
                setattr(norm, name, statistic.clone())

    def _after(self, norm: nn.Module, *_: Any) -> None:
        for name, statistic in self._kept.pop(norm, {}).items():
            setattr(norm, name, statistic)
