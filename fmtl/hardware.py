"""Devices as torch sees them."""

import importlib.metadata

import torch

from fmtl import machine
from fmtl.errors import EnvironmentFault
from fmtl.together import ranks


def choose_device(name: str) -> torch.device:
    """``auto`` takes CUDA where it is; a device that was named is never replaced by another.

    Of several processes on a machine each has a GPU of its own.

    Raises:
        EnvironmentFault: CUDA was named and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and device.index is None and ranks.here().size > 1:
        device = torch.device("cuda", ranks.here().local_rank)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EnvironmentFault(
            f"device: '{name}' was asked for, and this machine shows {torch.cuda.device_count()} CUDA devices; "
            "use device=cpu, or check the driver and CUDA_VISIBLE_DEVICES"
        )
    return device


def describe(device: torch.device) -> str:
    """What decides how fast a network runs here: processor or GPU, threads, torch's version."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{machine.processor()} {torch.backends.cpu.get_cpu_capability()} x{torch.get_num_threads()}"
    return f"{name}, torch {torch.__version__}"


def decisive(device: torch.device) -> dict[str, str]:
    """What must be the same for a training to repeat itself to the last bit."""
    facts = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "timm")}
    facts["ranks"] = str(ranks.here().size)
    if device.type == "cuda":
        return facts | {"device": torch.cuda.get_device_name(device)}
    processor = f"{machine.processor()} {torch.backends.cpu.get_cpu_capability()}"
    return facts | {"device": processor, "threads": str(torch.get_num_threads())}


def num_devices(device: torch.device) -> int:
    """GPUs, or cores that compute, of this process and all that train with it."""
    of_each = 1 if device.type == "cuda" else torch.get_num_threads()
    return of_each * ranks.here().size


def free_bytes(device: torch.device) -> int:
    """Memory that a new tensor could take: on the GPU, or in the machine's memory."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else machine.free_bytes()
