"""How a network runs on a device."""

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True)
class Execution:
    """How a network runs. The model carries it, so that prediction repeats it.

    Attributes:
        precision: ``fp32``, or ``bf16``: the backbone under autocast, weights and heads in fp32.
        channels_last: Memory layout of images and convolutions.
        compile: Whether the backbone goes through torch.compile.
    """

    precision: str = "fp32"
    channels_last: bool = True
    compile: bool = False

    def to_json(self) -> dict:
        return asdict(self)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device_type: str) -> AbstractContextManager:
        return torch.autocast(device_type, torch.bfloat16, enabled=self.precision == "bf16")
