"""Training speed on one CUDA device against what the device allows; the same code runs on a CPU, for tests.

    python benchmarks/gpu.py [--device cuda] [--json docs/benchmarks/gpu.json]

Photos are random pixels that lie in the device's memory, cropped, mirrored and normalised there. For each backbone,
in turns: epochs of fmtl (bf16, eager and compiled, both memory layouts) and as many of the same steps on one batch that
is there already. Limits of the same run: matrix products and copies of this device, and from them the time that the
backbone's operations and bytes take at least. Needs torch, torchvision and timm; no MLflow.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from fmtl import hardware
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.loading.augment import Augmentation
from fmtl.loading.batches import Batches
from fmtl.loading.pacing import Paced
from fmtl.loading.sources import Photos
from fmtl.model import backbones
from fmtl.model.execution import Execution
from fmtl.tasks import make_tasks
from fmtl.training import engine
from fmtl.training.criterion import MultiTaskLoss
from fmtl.training.optim import Recipe, Updater

# Per image of a training step: operations in GFLOP, and bytes in MB read and written with every pointwise operation
# fused into its neighbour. Derived from layer shapes, at the side in the first column.
COSTS = {
    "resnet50": (224, 24.5, 353),
    "convnext_tiny": (224, 26.7, 307),
    "vit_b_16": (224, 105.4, 359),
    "efficientnet_b5": (456, 61.6, 3074),
}
NUM_CLASSES = (4, 2, 9, 30, 39, 5, 60)
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


@dataclass(frozen=True)
class RandomPhotos:
    """What ``batches.Photos`` needs of a prepared dataset."""

    stored: np.ndarray
    table: pd.DataFrame
    px: int
    digest: str = "random"

    @classmethod
    def draw(cls, num: int, px: int) -> "RandomPhotos":
        stored = np.random.default_rng(0).integers(0, 256, (num, px, px, 3), dtype=np.uint8)
        return cls(stored, pd.DataFrame(index=range(num)), px)

    @property
    def num_images(self) -> int:
        return len(self.stored)

    @property
    def image_of(self) -> np.ndarray:
        return np.arange(len(self.stored))

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        return self.stored[rows]

    images = pixels


class Arm:
    """One backbone run in one way."""

    def __init__(self, backbone: str, execution: Execution, photos: RandomPhotos, options: argparse.Namespace):
        self.device, self.batch_size = torch.device(options.device), options.batch_size
        tasks = make_tasks({f"task {t}": [str(k) for k in range(size)] for t, size in enumerate(NUM_CLASSES)})
        px = photos.px * 7 // 8
        torch.manual_seed(0)
        self.net = backbones.build(backbone, tasks.num_classes, weights="none", px=px).run_on(self.device, execution)
        self.loss = MultiTaskLoss(tasks.num_classes).to(self.device)
        self.recipe = Recipe(
            epochs=1000, learning_rate=1e-3, backbone_lr_scale=0.1, optimizer="adamw", weight_decay=1e-4,
            schedule="onecycle", clip_norm=1.0, seed=0,
        )  # fmt: skip
        how = Preprocess(photos.px, "pad", "#ffffff", px, (0.5,) * 3, (0.25,) * 3)
        source = Photos(photos, preprocess=how, augmentation=Augmentation(), device=self.device)
        targets = np.random.default_rng(0).integers(0, NUM_CLASSES, (len(photos.table), len(tasks)))
        self.batches = Batches(
            source, targets, np.arange(len(photos.table)), tasks=tasks, batch_size=self.batch_size, shuffle=True,
            prefetch=self.device.type == "cuda",
        )  # fmt: skip
        self.updater = Updater(self.net, self.loss, self.recipe, num_batches=len(self.batches))
        images, found = next(iter(self.batches))
        # On the device, targets too: nothing but the step is left.
        self.one = [(images, {name: part.to(self.device) for name, part in found.items()})] * len(self.batches)

    def epoch(self, loader: list | Batches) -> float:
        """Images per second."""
        paced = Paced(loader)
        engine.train_one_epoch(
            self.net, paced, recipe=self.recipe, updater=self.updater, loss=self.loss, device=self.device
        )
        return paced.images_per_second

    def waits(self) -> int:
        """Times an epoch of this many steps made the host wait for the device."""
        if self.device.type != "cuda":
            return 0
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
            self.epoch(self.batches)
        return sum(item.count for item in found.key_averages() if item.key in WAITS)


def measure(backbone: str, execution: Execution, photos: RandomPhotos, options: argparse.Namespace) -> dict:
    arm = Arm(backbone, execution, photos, options)
    started = time.perf_counter()
    arm.epoch(arm.one[:2])
    first = time.perf_counter() - started
    arm.epoch(arm.batches)
    ends, ratios = [], []
    for repeat in range(options.repeats):
        arm.batches.set_epoch(repeat)
        order = (arm.batches, arm.one) if repeat % 2 else (arm.one, arm.batches)
        rates = {id(loader): arm.epoch(loader) for loader in order}
        ends.append(rates[id(arm.batches)])
        ratios.append(rates[id(arm.batches)] / rates[id(arm.one)])
    return {
        "images per second": spread(ends),
        "end to end / resident": spread(ratios),
        "first two steps, seconds": first,
        "waits of an epoch": arm.waits(),
        "steps of an epoch": len(arm.batches),
    }


def spread(values: list[float]) -> dict:
    return {"median": statistics.median(values), "range": [min(values), max(values)]}


def limits(options: argparse.Namespace) -> dict:
    """Rates of large matrix products in bf16 and of copies, in FLOP/s and in bytes read and written per second."""
    device, size = torch.device(options.device), options.limit_size
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    block = torch.empty(size * size * 8, dtype=torch.uint8, device=device)
    copy = torch.empty_like(block)
    return {
        "bf16 FLOP/s": 2 * size**3 / seconds(lambda: a @ b, device),
        "bytes/s": 2 * block.numel() / seconds(lambda: copy.copy_(block), device),
    }


def seconds(work: Callable[[], object], device: torch.device, num: int = 20) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    work()
    wait()
    started = time.perf_counter()
    for _ in range(num):
        work()
    wait()
    return (time.perf_counter() - started) / num


def share_of_limit(backbone: str, rate: float, found: dict) -> float | None:
    """Images per second over those if operations and bytes were done one after the other at this run's rates."""
    if backbone not in COSTS:
        return None
    _, gflop, megabytes = COSTS[backbone]
    return rate * (gflop * 1e9 / found["bf16 FLOP/s"] + megabytes * 1e6 / found["bytes/s"])


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backbones", nargs="+", default=list(COSTS))
    parser.add_argument("--px", type=int, help="side of the network's input, for all [default: that of COSTS]")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--photos", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", choices=["no", "yes", "both"], default="both")
    parser.add_argument("--limit-size", type=int, default=8192, help="side of the matrices of the limits")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args(argv)
    compiled = {"no": [False], "yes": [True], "both": [False, True]}[options.compile]
    figures = {"device": hardware.describe(torch.device(options.device)), "batch": options.batch_size}
    figures["versions"] = {name: version(name) for name in ("torch", "torchvision", "timm")}
    figures["limits"] = limits(options)
    print(f"{figures['device']}: " + ", ".join(f"{k} {v:.3g}" for k, v in figures["limits"].items()))
    for backbone in options.backbones:
        px = options.px or COSTS[backbone][0]
        photos = RandomPhotos.draw(options.photos, px * 8 // 7)
        rows = figures.setdefault("backbones", {}).setdefault(f"{backbone}@{px}", {})
        for channels_last, compile in itertools.product((True, False), compiled):
            name = f"{'channels last' if channels_last else 'channels first'}{', compiled' if compile else ''}"
            row = measure(backbone, Execution("bf16", channels_last, compile), photos, options)
            row["share of the limit"] = share_of_limit(backbone, row["images per second"]["median"], figures["limits"])
            rows[name] = row
            share = "" if row["share of the limit"] is None else f", {row['share of the limit']:.0%} of the limit"
            print(
                f"  {backbone}@{px}, {name}: {row['images per second']['median']:.0f} images/s, end to end / resident "
                f"{row['end to end / resident']['median']:.3f}, {row['waits of an epoch']} waits in "
                f"{row['steps of an epoch']} steps{share}",
                flush=True,
            )
            if options.json:
                options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


if __name__ == "__main__":
    main()
