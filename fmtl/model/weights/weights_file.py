"""A stranger's file of weights, read without running anything in it."""

import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from fmtl import machine
from fmtl.errors import DataError, EnvironmentFault

WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
MOST_REPEATED = 1 << 20  # bytes of a tensor that repeats values, as buffers do
WRAPPER_KEYS = ("state_dict", "model", "model_state_dict")


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name; wrappers around them and their prefixes are removed.

    Args:
        path: A state dict as ``torch.save`` writes it, a checkpoint that holds one, or a safetensors file.

    Raises:
        DataError: It is no plain state dict.
        EnvironmentFault: There is too little memory for it.
    """
    if not path.is_file():
        raise DataError(
            f"weights: {path} is no file; expected imagenet, none, bundled, the path of a "
            "state dict, or a model's address"
        )
    try:
        content = _content(path)
    except Exception as error:  # of a damaged file the unpickler may raise anything
        if isinstance(error, MemoryError):
            raise EnvironmentFault(f"weights: {path}: {machine.exhausted(error)}") from error
        told = next(iter(str(error).splitlines()), "")[:300]
        raise DataError(f"weights: {path} is no plain state dict ({type(error).__name__}: {told})") from error
    state = _without_wrappers(content)
    if state is None:
        raise DataError(f"weights: {path} is no plain state dict; expected tensors by name")
    for name, tensor in state.items():
        if not _is_ordinary(tensor):
            raise DataError(f"weights: {path}: {name[:80]!r} is no ordinary tensor of {tuple(tensor.shape)} numbers")
    return state


def _is_ordinary(tensor: Tensor) -> bool:
    """Whether all of its values are there, or it is small: one that repeats a few may ask for any amount of memory."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.element_size() <= max(MOST_REPEATED, tensor.untyped_storage().nbytes())


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:  # torch stores, and another may unpack to any size
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in packed.infolist()):
                raise ValueError("it is compressed, which torch.save never does")
            if damaged := packed.testzip():
                why = "it is damaged, or was saved without checksums: save it anew with them"
                raise ValueError(f"the checksum of {damaged} differs: {why}")
    return torch.load(path, map_location="cpu", weights_only=True)


def _without_wrappers(content: Any) -> dict[str, Tensor] | None:
    """Tensors by name; None where there are none, or other things among them."""
    while isinstance(content, dict):
        inner = next((content[key] for key in WRAPPER_KEYS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not content:
        return None
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        return None
    for prefix in WRAPPER_PREFIXES:
        content = {name.removeprefix(prefix): value for name, value in content.items()}
    if any(name.startswith("backbone.") for name in content):  # a checkpoint of fmtl
        content = {k.removeprefix("backbone."): v for k, v in content.items() if k.startswith("backbone.")}
    return content
