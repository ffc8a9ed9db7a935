"""Features of a frozen backbone, computed once and kept between runs."""

import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fmtl import hardware
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.dataset.prepared import PreparedDataset
from fmtl.errors import EnvironmentFault
from fmtl.loading.batches import Batches
from fmtl.loading.sources import Photos
from fmtl.model.network import MultiTaskNet
from fmtl.storage import durable
from fmtl.storage.cache import cache_dir, prune, recall
from fmtl.together import collectives

log = logging.getLogger(__name__)

VERSION = 2  # of how features are made and kept
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
    file = cache_dir() / "features" / f"{key(net, dataset, backbone, preprocess, device)}.safetensors"
    is_first = collectives.place().is_first
    found = collectives.hand_out(recall(lambda: _read(file), SafetensorError) if is_first else None)
    if found is not None:
        log.info("features: %s", file)
        return found.to(device)
    features = work()
    if not is_first:
        return features
    try:
        kept = {"features": features.cpu().contiguous()}
        durable.write_bytes(file, safetensors.torch.save(kept, {"sha256": _digest(kept["features"])}))
        prune(file.parent, "*.safetensors", MOST_BYTES)
    except (EnvironmentFault, OSError) as error:
        log.info("features are not kept: %s", error)
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
    # Of a photo that several rows share once, by the first of them.
    _, rows, number_of = np.unique(dataset.image_of, return_index=True, return_inverse=True)
    photos = Photos(dataset, preprocess=preprocess, device=device)
    batches = Batches(
        photos, dataset.targets, rows, tasks=dataset.tasks, batch_size=batch_size, place=collectives.place()
    )
    found = torch.cat([net.features(images.to(device)) for images, _ in watch(batches, "features")])
    return collectives.in_order(found, batches.positions())[torch.from_numpy(number_of)]


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


def _read(file: Path) -> Tensor:
    with safe_open(file, framework="pt") as opened:
        features, noted = opened.get_tensor("features"), (opened.metadata() or {}).get("sha256")
    if noted != _digest(features):
        raise ValueError("damaged")
    file.touch()  # the files that were used longest ago go first
    return features


def _digest(features: Tensor) -> str:
    digest = hashlib.sha256(f"{features.dtype} {tuple(features.shape)} ".encode())
    digest.update(features.numpy().data)
    return digest.hexdigest()
