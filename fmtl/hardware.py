"""The machine: devices, the ways a network can run on them, and where fmtl remembers what it measured."""

import contextlib
import ctypes
import os
import platform
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from fmtl.errors import EnvironmentFault


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


def describe(device: torch.device) -> str:
    """What decides how fast a network runs here: processor or GPU, threads, torch's version."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_processor()} {torch.backends.cpu.get_cpu_capability()} x{torch.get_num_threads()}"
    return f"{name}, torch {torch.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def keep_memory() -> None:
    """Make glibc keep the memory of freed tensors for the next ones.

    By default it gives large blocks back to the system, and each step pays a page fault per 4 KB of activations:
    a third of the time of small networks. The settings are of mallopt(3); elsewhere than on glibc nothing happens.
    """
    trim_threshold, mmap_max = -1, -4
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def cache_dir() -> Path:
    """Folder for what can be computed again: ``$XDG_CACHE_HOME/fmtl``, else ``~/.cache/fmtl``."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "fmtl"


def free_bytes(device: torch.device) -> int:
    """Memory that a new tensor could take: on the GPU, or in the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
