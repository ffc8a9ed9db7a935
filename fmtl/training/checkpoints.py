"""Checkpoints: written whole or not at all, verified on load, read without running code."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from fmtl.errors import DataError
from fmtl.storage import durable
from fmtl.tasks import Tasks

FORMAT, VERSION = "fmtl-checkpoint", 2


def save(
    path: Path,
    *,
    model: Mapping[str, Tensor],
    tasks: Tasks,
    settings: Mapping,
    epoch: int,
    metrics: Mapping[str, float],
    training: Mapping | None = None,
) -> None:
    """Write a checkpoint of plain tensors, numbers and text.

    Args:
        model: State dict of the network.
        settings: Training settings by name; what the network must be rebuilt from.
        epoch: The epoch just completed, from 1.
        metrics: Of that epoch, by MLflow name.
        training: What it takes to go on: state of the updater, history.

    Raises:
        EnvironmentFault: The disk is full; an older checkpoint of that name is untouched.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": dict(model),
        "tasks": tasks.to_json(),
        "settings": dict(settings),
        "epoch": epoch,
        "metrics": dict(metrics),
    }
    if training is not None:
        content["training"] = dict(training)
    buffer = io.BytesIO()  # torch reports a full disk as a RuntimeError about positions; a plain write names it
    torch.save(content, buffer)
    durable.write_bytes(path, buffer.getbuffer())


def size_of(net: nn.Module) -> int:
    """About how many bytes the larger checkpoint of a network takes: its weights and what Adam keeps of each."""
    return 3 * sum(p.numel() * p.element_size() for p in net.parameters())


def load(path: Path) -> dict:
    """Read a checkpoint onto the CPU.

    Raises:
        DataError: It is absent, damaged, of another format, or holds anything but plain data.
    """
    if not path.is_file():
        raise DataError(f"checkpoint {path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums that it wrote
            damaged = archive.testzip()
        if damaged:
            raise DataError(f"checkpoint {path}: damaged (checksum of {damaged} differs); use an older copy")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise DataError(f"checkpoint {path}: damaged or no checkpoint ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise DataError(f"checkpoint {path}: expected {FORMAT} version {VERSION}")
    return content
