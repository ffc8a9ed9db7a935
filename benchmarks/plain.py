"""A plain training loop in torch, torchvision and scikit-learn alone, and how long fmtl takes to what it reaches.

    python benchmarks/plain.py race FILE.json [--splits 2] [--epochs 2 3 4 5 6 8]
    python benchmarks/plain.py equal FILE.json [--splits 2]

The loop is what people write: AdamW at two rates (3e-4 for the backbone, ten times that for the heads), OneCycleLR,
clipping at 1.0, photos stretched to 128 px, mirrored, turned by up to 10 degrees, jittered by 0.1; 12 epochs, the last
of which is kept. ``race``: on each split the loop, then trainings by ``fmtl train --mode tuned`` of more and more
epochs, until accuracy and macro-F1 on test are at least the loop's; seconds of training and validation, in turn.
``equal``: the loop against its recipe in fmtl's engine (the arm ``plain loop, 0.0003`` of ``evidence.py``). Needs
``FMTL_REAL_DATA``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import evidence
import numpy as np
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

PX, BATCH, EPOCHS, RATE = 128, 32, 12, 3e-4
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # of lite0's weights
ARM = "plain loop, 0.0003"


class Photos(Dataset):
    """``(image, targets)`` of rows of a prepared dataset, decoded from the original files each time."""

    def __init__(self, dataset: Any, split: str, photos: Path):
        rows = dataset.rows(split)
        self.paths = [photos / path for path in dataset.table["path"].iloc[rows]]
        self.targets = torch.from_numpy(dataset.targets[rows])
        varied = [v2.RandomHorizontalFlip(), v2.RandomRotation(10, fill=255), v2.ColorJitter(0.1, 0.1, 0.1, 0.025)]
        self.transform = v2.Compose(
            [v2.Resize((PX, PX)), *(varied if split == "train" else []), v2.ToImage(),
             v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(Image.open(self.paths[index]).convert("RGB")), self.targets[index]


def loop(data: str, photos: Path, seed: int) -> dict[str, Any]:
    """Seconds of training and validation, and the last epoch's scores on test."""
    from fmtl.dataset.prepared import open_dataset
    from fmtl.model import backbones

    dataset = open_dataset(Path(data))
    sizes = dataset.tasks.num_classes
    torch.manual_seed(seed)
    net: nn.Module = backbones.build(evidence.BASE["backbone"], sizes, weights="bundled", px=PX)
    loaders = {
        split: DataLoader(
            Photos(dataset, split, photos), BATCH, shuffle=split == "train", drop_last=split == "train",
            num_workers=os.cpu_count() or 1,
        )
        for split in ("train", "val", "test")
    }  # fmt: skip
    groups = [{"params": net.backbone.parameters(), "lr": RATE}, {"params": net.heads.parameters(), "lr": 10 * RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [RATE, 10 * RATE], epochs=EPOCHS, steps_per_epoch=len(loaders["train"])
    )
    started = time.perf_counter()
    for _ in range(EPOCHS):
        net.train()
        for images, targets in loaders["train"]:
            logits = net(images).values()
            losses = [functional.cross_entropy(part, targets[:, t]) for t, part in enumerate(logits)
                      if (targets[:, t] >= 0).any()]  # fmt: skip
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        scores(net, loaders["val"])
    seconds = time.perf_counter() - started
    return {"seconds": seconds, **scores(net, loaders["test"])}


@torch.no_grad()
def scores(net: nn.Module, loader: DataLoader) -> dict[str, float]:
    """Means over the tasks; F1 over the classes that the split or the predictions have."""
    net.eval()
    found = [
        (torch.stack([part.argmax(dim=1) for part in net(images).values()], dim=1), targets)
        for images, targets in loader
    ]
    predicted, targets = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    accuracies, f1s = [], []
    for t in range(targets.shape[1]):
        known = targets[:, t] >= 0
        accuracies.append(accuracy_score(targets[known, t], predicted[known, t]))
        f1s.append(f1_score(targets[known, t], predicted[known, t], average="macro", zero_division=0))
    return {"accuracy": float(np.mean(accuracies)), "f1": float(np.mean(f1s))}


def in_process(*arguments: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as here:
        command = [sys.executable, str(Path(__file__).resolve()), *arguments]
        done = subprocess.run(
            command, cwd=here, env=os.environ | {"TQDM_DISABLE": "1"}, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def ours(data: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The same of ``fmtl train``, as its run says it."""
    from fmtl.commands.train import train_whole
    from fmtl.metric_names import score
    from fmtl.settings.train import TrainSettings
    from fmtl.tracking.record import journal

    _, folder = train_whole(TrainSettings(data=data, extra_plots=False, gallery=False, offline=True, **settings))
    lines = list(folder.journal().lines())
    said = journal.last_metrics(lines)
    seconds = sum(line["values"]["epoch_seconds"] for line, _ in lines if "epoch_seconds" in line.get("values", {}))
    return {"seconds": seconds, **{name: said[score("test", None, name)] for name in ("accuracy", "f1")}}


def race(options: argparse.Namespace, prepared: dict[int, str], photos: Path) -> dict[str, Any]:
    found = {}
    for split, data in prepared.items():
        reached = in_process("loop", data, str(photos), str(split))
        print(f"split {split}: loop {reached}", flush=True)
        tried = {}
        for epochs in options.epochs:
            settings = {"backbone": evidence.BASE["backbone"], "weights": "bundled", "epochs": epochs, "seed": split}
            tried[epochs] = in_process("ours", data, json.dumps(settings | json.loads(options.settings)))
            print(f"split {split}: fmtl, {epochs} epochs {tried[epochs]}", flush=True)
            if all(tried[epochs][name] >= reached[name] for name in ("accuracy", "f1")):
                break
        share = tried[epochs]["seconds"] / reached["seconds"]
        found[str(split)] = {"loop": reached, "fmtl": tried, "share of its time": share}
        print(f"split {split}: {share:.2f} of its time", flush=True)
    return found


def equal(options: argparse.Namespace, prepared: dict[int, str], photos: Path) -> dict[str, Any]:
    settings = {k: v for k, v in (evidence.BASE | evidence.ARMS[ARM]).items() if k != "prepare"}
    found = {}
    for split, data in prepared.items():
        found[str(split)] = {
            "loop": in_process("loop", data, str(photos), str(split)),
            "its recipe in fmtl": in_process("ours", data, json.dumps(settings | {"seed": split})),
        }
        print(f"split {split}: {found[str(split)]}", flush=True)
    return found


def main() -> None:
    if sys.argv[1] == "loop":
        print(json.dumps(loop(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
        return
    if sys.argv[1] == "ours":
        print(json.dumps(ours(sys.argv[2], json.loads(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["race", "equal"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--splits", type=int, default=2)
    parser.add_argument("--epochs", type=int, nargs="+", default=[2, 3, 4, 5, 6, 8])
    parser.add_argument("--settings", default="{}", help="further ones of fmtl train, as JSON")
    options = parser.parse_args()
    if "FMTL_REAL_DATA" not in os.environ:
        print("benchmarks/plain.py: skipped, FMTL_REAL_DATA is not set")
        return
    photos = Path(os.environ["FMTL_REAL_DATA"]).resolve() / "fashion" / "images"
    with tempfile.TemporaryDirectory() as folder:
        how = {"fit": "stretch"} if options.what == "equal" else {}
        prepared = {k: evidence.prepared(Path(folder), "fashion", k, how) for k in range(options.splits)}
        found = {"race": race, "equal": equal}[options.what](options, prepared, photos)
    options.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
