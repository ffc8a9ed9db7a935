"""The machine: device and memory layout."""

import torch

from fmtl.errors import EnvironmentFault

MEMORY_FORMAT = torch.channels_last  # faster than contiguous for convolutions on every machine measured so far


def choose_device(name: str) -> torch.device:
    """``auto`` takes CUDA where it is; a device that was named is never replaced by another.

    Raises:
        EnvironmentFault: CUDA was named and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EnvironmentFault(
            f"device: '{name}' was asked for, and this machine shows {torch.cuda.device_count()} CUDA devices; "
            "use device=cpu, or check the driver and CUDA_VISIBLE_DEVICES"
        )
    return device
