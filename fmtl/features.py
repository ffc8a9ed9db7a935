"""Features of a frozen backbone, computed once and kept between runs."""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fmtl import durable, hardware
from fmtl.batches import Batches, Photos
from fmtl.dataset import PreparedDataset
from fmtl.errors import EnvironmentFault
from fmtl.models import MultiTaskNet
from fmtl.transforms import Preprocess

VERSION = 1  # of how features are made and kept
MOST_BYTES = 8 * 2**30  # of the cache folder; the files that were used longest ago go first


@torch.no_grad()
def compute(
    net: MultiTaskNet,
    dataset: PreparedDataset,
    *,
    backbone: str,
    preprocess: Preprocess,
    batch_size: int,
    device: torch.device,
    watch: Callable[[Iterable, str], Iterable],
    keep: bool = True,
) -> Tensor:
    """Features ``(rows of the dataset, D)`` float32 on the device, of the images as evaluation sees them.

    Args:
        keep: Read them from the cache where the same weights, pixels, preprocessing and precision were used before,
            and keep them there otherwise.
    """
    work = partial(_compute, net, dataset, preprocess=preprocess, batch_size=batch_size, device=device, watch=watch)
    if not keep:
        return work()
    file = hardware.cache_dir() / "features" / f"{key(net, dataset, backbone, preprocess, device)}.safetensors"
    if (found := _read(file)) is not None:
        print(f"features: {file}", flush=True)
        return found.to(device)
    features = work()
    try:
        durable.write_bytes(file, safetensors.torch.save({"features": features.cpu().contiguous()}))
        _prune(file.parent)
    except (EnvironmentFault, OSError) as error:
        print(f"features are not kept: {error}", flush=True)
    return features


def _compute(
    net: MultiTaskNet,
    dataset: PreparedDataset,
    *,
    preprocess: Preprocess,
    batch_size: int,
    device: torch.device,
    watch: Callable[[Iterable, str], Iterable],
) -> Tensor:
    net.eval()
    rows = np.arange(len(dataset.table))
    photos = Photos(dataset, preprocess=preprocess, device=device)
    batches = watch(Batches(photos, dataset.targets, rows, tasks=dataset.tasks, batch_size=batch_size), "features")
    return torch.cat([net.features(images.to(device)) for images, _ in batches])


def key(
    net: MultiTaskNet, dataset: PreparedDataset, backbone: str, preprocess: Preprocess, device: torch.device
) -> str:
    """Hash of all that decides the features; the same tensors may mean another network in another backbone."""
    digest = hashlib.sha256()
    for name, tensor in net.backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    libraries = [importlib.metadata.version(name) for name in ("torchvision", "timm")]
    facts = [
        VERSION,
        backbone,
        libraries,
        dataset.digest,
        preprocess.to_json(),
        net.execution.to_json(),
        hardware.describe(device),
    ]
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()[:32]


def _read(file: Path) -> Tensor | None:
    """A damaged file is as good as none: features can be computed again."""
    try:
        features = safetensors.torch.load_file(file)["features"]
        file.touch()
    except (OSError, SafetensorError, KeyError):
        return None
    return features


def _prune(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"), key=lambda f: f.stat().st_mtime, reverse=True)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > MOST_BYTES and file != files[0]:
            file.unlink(missing_ok=True)
