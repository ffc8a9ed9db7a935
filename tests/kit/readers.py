"""Every kind of file of its own that fmtl reads, with what reads it: to see what becomes of damaged ones.

Photos and tables, which come in many formats, have tests of their own beside the code that reads them.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from fmtl.commands.labelling.listing import list_photos
from fmtl.commands.training import resuming
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.dataset.prepared import open_dataset
from fmtl.dataset.reuse.previous import Previous
from fmtl.model import backbones, feature_cache, predictor
from fmtl.model.network import MultiTaskNet
from fmtl.model.weights import weights_file
from fmtl.settings import reading
from fmtl.settings.schema import PredictSettings, TrainSettings
from fmtl.storage.cache import cache_dir
from fmtl.tracking.delivery import state
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.record.lease import Lease
from fmtl.training import checkpoints

sys.path.insert(0, str(Path(__file__).parents[1]))
from golden.make import main as leave_on_disk

BACKBONE = "test_efficientnet"
GOLDEN = Path(__file__).parents[1] / "golden" / "0.1"


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: In tables of results.
        path: A sound one.
        read: What reads it; the same value of the same content.
        sealed: Whether one with another bit must be refused, or mended so that the value is the same.
    """

    name: str
    path: Path
    read: Callable[[], Any]
    sealed: bool = True


def digest(*arrays: Any) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes() if not isinstance(array, str) else array.encode())
    return found.hexdigest()


def kinds(folder: Path) -> list[Kind]:
    """Sound files of this version below a folder, which becomes the working directory."""
    left = folder / "left"
    left.mkdir(parents=True)
    leave_on_disk(left)
    os.chdir(folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    shutil.copytree(GOLDEN, folder / "golden")
    return [
        *_of_dataset(left),
        *_of_earlier(folder / "golden"),
        *_of_model(left),
        *_of_run(left),
        *_of_weights(folder),
        _features(left),
        *_texts(left),
    ]


def _of_dataset(left: Path) -> list[Kind]:
    def read() -> str:
        dataset = open_dataset(left / "dataset")
        pixels = dataset.images(np.arange(dataset.num_images))
        return digest(dataset.digest, pixels, dataset.targets, dataset.sources.to_csv(), str(dataset.source_px))

    names = ("manifest.json", "table.parquet", "images.parquet", "pixels-*.bin", "rejects.csv")
    return [Kind(f"dataset: {name}", next((left / "dataset").glob(name)), read) for name in names]


def _of_earlier(golden: Path) -> list[Kind]:
    """Of version 0.1, which sealed nothing."""

    def dataset() -> str:
        previous = Previous(golden / "dataset", {}, take_pixels=True)
        found = open_dataset(golden / "dataset")
        return digest(found.digest, found.targets, str(previous.damaged), str(previous.splits({"table_path": "x"})))

    (last,) = (golden / "run" / "checkpoints").glob("*_last.pt")
    return [
        Kind("0.1 dataset: manifest.json", golden / "dataset" / "manifest.json", dataset, sealed=False),
        Kind("0.1 model: model.json", golden / "model" / "model.json",
             lambda: str(predictor.load(golden / "model").tasks), sealed=False),
        Kind("0.1 checkpoint", last, lambda: checkpoints.load(last).epoch, sealed=False),
    ]  # fmt: skip


def _of_model(left: Path) -> list[Kind]:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)

    def read() -> str:
        return digest(*predictor.load(left / "model").probs(pixels).values())

    return [Kind(f"model: {name}", left / "model" / name, read) for name in ("model.json", "weights.safetensors")]


def _of_run(left: Path) -> list[Kind]:
    run = left / "run"
    (last,) = (run / "checkpoints").glob("*_last.pt")
    place = RunFolder.at(run)
    sent = state.Delivered.to("sqlite:///x.db", place.record)
    sent.run_id, sent.files = "a" * 32, {"config.yaml": {"size": 1, "mtime_ns": 2, "sha256": "b", "at": "x"}}
    sent.save()
    lease = place.record / "lease.json"
    lease.write_text(Lease.mine().json())

    def checkpoint() -> str:
        found = checkpoints.load(last)
        return digest(str(found.epoch), str(found.training["history"]), *(v.numpy() for v in found.model.values()))

    skipped = left / "skipped.pt"
    checkpoints.write_sealed(skipped, {"images": torch.zeros(2, 3, 4, 4), "step": 7})
    return [
        Kind("checkpoint", last, checkpoint),
        Kind("skipped step", skipped, lambda: str(checkpoints.read_sealed(skipped))),
        Kind("record: journal", place.record / "journal.jsonl", lambda: list(place.journal().lines()), sealed=False),
        Kind("record: run.json", place.record / "run.json", place.about),
        Kind("record: what is delivered", sent.path, lambda: state.all_of(place.record), sealed=False),
        Kind("record: lease", lease, lambda: Lease.read(lease.read_text(errors="replace")), sealed=False),
    ]


def _of_weights(folder: Path) -> list[Kind]:
    weights = backbones.build(BACKBONE, {"x": 2}, weights="none", px=32).backbone.state_dict()
    torch.save({"state_dict": weights}, folder / "weights.pt")
    safetensors.torch.save_file(weights, folder / "weights.safetensors")

    def read(name: str) -> str:
        return digest(*(tensor.numpy() for tensor in weights_file.read(folder / name).values()))

    return [
        Kind("weights: torch", folder / "weights.pt", lambda: read("weights.pt"),
             sealed=False),
        Kind("weights: safetensors", folder / "weights.safetensors",
             lambda: read("weights.safetensors"), sealed=False),
    ]  # fmt: skip


def _features(left: Path) -> Kind:
    dataset = open_dataset(left / "dataset")
    torch.manual_seed(0)
    net: MultiTaskNet = backbones.build(BACKBONE, dataset.tasks.num_classes, weights="none", px=32)
    preprocess = Preprocess(32, "pad", "#ffffff", 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def read() -> str:
        found = feature_cache.compute(
            net,
            open_dataset(left / "dataset"),
            backbone=BACKBONE,
            preprocess=preprocess,
            batch_size=36,
            device=torch.device("cpu"),
            watch=lambda batches, _: batches,
        )
        return digest(found.numpy())

    read()
    (file,) = (cache_dir() / "features").glob("*.safetensors")
    return Kind("features", file, read)


def _texts(left: Path) -> list[Kind]:
    config = left / "run" / "config.yaml"
    source = left / "run" / "record" / resuming.SOURCE
    source.write_text('{\n "run": "20260101-000000-abcdef"\n}\n')
    photos = left / "photos.txt"
    photos.write_text("".join(f"{left}/images/{i}.png\n" for i in range(12)))
    run = resuming.Earlier(RunFolder.at(left / "run"), None, {}, reading.build_from_file(TrainSettings, {}, config)[0])
    return [
        Kind("settings", config, lambda: reading.build_from_file(TrainSettings, {}, config), sealed=False),
        Kind("record: where a fork began", source, lambda: run.source, sealed=False),
        Kind("list of photos", photos, lambda: list_photos(PredictSettings(model="m", images=str(photos))).names,
             sealed=False),
    ]  # fmt: skip
