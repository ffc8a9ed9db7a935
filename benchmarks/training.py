"""Training speed against other loops on the same photos, weights and work, and against what the machine allows.

    python benchmarks/training.py [--parts PART ...] [--json FILE]

Needs ``FMTL_REAL_DATA``, a folder with ``fashion/fashion.csv`` and ``fashion/images``. Every arm has a process of its
own; arms take turns, in alternating order; ratios are printed with their median and range. Parts:

notebook   images per second, data included, against the loop of many notebooks, ten backbones
resident   an epoch against as many of the same steps on one batch that is in memory already
profile    shares of the processor's time by kind of operator, one epoch
peers      against Lightning, Hugging Face Trainer, fastai and timm's script: once as their docs say, and with fmtl's
           precision, layout and decoded pixels
frozen     ten epochs on a frozen backbone: features kept, features computed each epoch, the notebook's fine-tuning
tasks      seven heads against one; one training of all tasks against one training per task
mlflow     share of an epoch that goes to MLflow
limits     matrix products and memory copies of this machine
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import peers
import torch
from peers import Work

from fmtl import hardware
from fmtl.commands.prepare import build_dataset
from fmtl.model import backbones
from fmtl.settings.schema import PrepareSettings

HERE = Path(__file__).parent
# Backbone: side, batch, photos of an epoch: 512, or as many as take the slower side a minute on two cores. An epoch has
# whole batches of all arms.
BACKBONES = {
    "resnet50": (224, 16, 256),
    "convnext_tiny": (224, 16, 192),
    "vit_b_16": (224, 8, 72),
    "efficientnet_b5": (224, 8, 128),
    "tf_efficientnet_lite0": (128, 32, 512),
    "resnet18": (224, 32, 512),
    "mobilenet_v3_large": (224, 32, 512),
    "regnet_y_400mf": (224, 32, 512),
    "swin_t": (224, 16, 192),
    "densenet121": (128, 16, 512),
}
RESIDENT = ("resnet50", "convnext_tiny", "vit_b_16", "efficientnet_b5", "tf_efficientnet_lite0")
LABELS = ("Gender", "Category", "SubCategory", "ProductType", "Colour", "Usage", "Brand")
NUM_VAL = 64
REPEATS = 3
RATE = 1e-4


class Bench:
    """The photos, prepared, and a work for each backbone."""

    def __init__(self, data: Path, folder: Path):
        self.photos, self.folder, self.data = data / "fashion" / "images", folder, folder / "prepared"
        # All training photos must fit: those of the longest epoch, and the validation photos.
        sampled = pd.read_csv(data / "fashion" / "fashion.csv", dtype=str).drop_duplicates("Image")
        most = max(size for _, _, size in BACKBONES.values()) + NUM_VAL
        sampled["Brand"] = sampled["ProductTitle"].str.split().str[0]  # a seventh attribute
        sampled.sample(most, random_state=0).to_csv(folder / "sampled.csv", index=False)
        settings = PrepareSettings(
            table=str(folder / "sampled.csv"), images=str(self.photos), out=str(self.data), label_cols=LABELS
        )
        self.dataset, _ = build_dataset(settings)
        rows = np.random.default_rng(0).permutation(len(self.dataset.table))
        paths = self.dataset.table["path"].to_numpy()
        self.items = [(paths[row], self.dataset.targets[row].tolist()) for row in rows]

    def work(self, backbone: str, *, epochs: int = 2) -> Work:
        px, batch_size, size = BACKBONES[backbone]
        return Work(
            photos=str(self.photos),
            train=self.items[NUM_VAL : NUM_VAL + size],
            val=self.items[:NUM_VAL],
            num_classes=self.dataset.tasks.num_classes,
            backbone=backbone,
            weights=str(self._weights(backbone, px)),
            px=px,
            batch_size=batch_size,
            epochs=epochs,
            learning_rate=RATE,
            seed=0,
        )

    def _weights(self, backbone: str, px: int) -> Path:
        """One start for all arms: the bundled weights where there are some, else random ones."""
        file = self.folder / f"{backbone}.pt"
        if not file.exists():
            weights = "bundled" if backbone in backbones.BUNDLED else "none"
            torch.manual_seed(0)
            torch.save(backbones.build(backbone, {"a": 2}, weights=weights, px=px).backbone.state_dict(), file)
        return file

    def matched(self, work: Work, execution: dict) -> Work:
        """The work with decoded pixels for all, and the precision and layout that fmtl chose."""
        file = self.folder / f"pixels_{work.px}.npy"
        from PIL import Image

        names = [name for name, _ in (*work.train, *work.val)]
        pixels = [Image.open(self.photos / n).convert("RGB").resize((work.px, work.px), Image.BILINEAR) for n in names]
        np.save(file, np.stack([np.asarray(image) for image in pixels]))
        return replace(
            work,
            pixels=str(file),
            precision=execution["precision"],
            channels_last=execution["channels_last"],
        )

    @cached_property
    def peers_python(self) -> Path:
        return peers.make_environment(Path(sys.prefix) / "bench")

    def ours(self, arm: str, work: Work) -> dict:
        return self._run(Path(sys.executable), "ours.py", ["--arm", arm, "--data", str(self.data)], work)

    def peer(self, name: str, lane: str, work: Work) -> dict:
        python = self.peers_python if peers.PACKAGES[name] else Path(sys.executable)
        return self._run(python, "peers.py", ["--peer", name, "--lane", lane], work)

    def _run(self, python: Path, script: str, options: list[str], work: Work) -> dict:
        file = self.folder / "work.json"
        file.write_text(work.to_json())
        environment = os.environ | {"XDG_CACHE_HOME": str(self.folder / "cache"), "TQDM_DISABLE": "1"}
        environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db"}
        command = [str(python), str(HERE / script), *options, "--work", str(file)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-3000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float]) -> dict:
    return {"median": statistics.median(values), "range": [min(values), max(values)]}


def show(name: str, row: dict, note: str = "") -> None:
    low, high = row["range"]
    print(f"  {name:38} {row['median']:8.3f}   {low:.3f} to {high:.3f}   {note}", flush=True)


def rate(result: dict) -> float:
    """Without the first epoch, which makes kernels ready."""
    return statistics.median(result["images_per_second"][1:])


def take_turns(arms: dict, repeats: int) -> dict[str, list[dict]]:
    """Results of each arm, run in alternating order."""
    found: dict[str, list[dict]] = {name: [] for name in arms}
    for repeat in range(repeats):
        for name in list(arms)[:: -1 if repeat % 2 else 1]:
            found[name].append(arms[name]())
    return found


def ratios(ours: list[dict], others: list[dict]) -> dict:
    return spread([rate(a) / rate(b) for a, b in zip(ours, others, strict=True)])


def notebook(bench: Bench, repeats: int) -> dict:
    found = {}
    for backbone, (px, batch_size, size) in BACKBONES.items():
        work = bench.work(backbone)
        bench.ours("train", replace(work, epochs=1))  # the probe, kept from now on
        arms = {
            "fmtl": lambda work=work: bench.ours("train", work),
            "notebook": lambda work=work: bench.peer("notebook", "default", work),
        }
        runs = take_turns(arms, repeats)
        how = runs["fmtl"][0]["execution"]
        found[f"{backbone}@{px}"] = {
            "fmtl / notebook": ratios(runs["fmtl"], runs["notebook"]),
            "without the start of its loader": spread(
                [rate(a) / _without_start(b, size) for a, b in zip(runs["fmtl"], runs["notebook"], strict=True)]
            ),
            "start of its loader, s": [statistics.median(r["starts"][1:]) for r in runs["notebook"]],
            "images per second": {name: [rate(r) for r in results] for name, results in runs.items()},
            "data share": [r["data_share"][-1] for r in runs["fmtl"]],
            "accuracy": {name: [r["accuracy"] for r in results] for name, results in runs.items()},
            "execution": how,
            "batch": batch_size,
            "photos": size,
        }
        note = f"{how['precision']}, {'channels last' if how['channels_last'] else 'channels first'}"
        show(f"{backbone}@{px}", found[f"{backbone}@{px}"]["fmtl / notebook"], note)
        show("  without the start of its loader", found[f"{backbone}@{px}"]["without the start of its loader"])
    return found


def _without_start(result: dict, size: int) -> float:
    """Images per second from the first batch on: what an epoch of very many photos comes to."""
    steady = [size / (size / r - start) for r, start in zip(result["images_per_second"], result["starts"], strict=True)]
    return rate({"images_per_second": steady})


def resident(bench: Bench, repeats: int) -> dict:
    found = {}
    for backbone in RESIDENT:
        values = bench.ours("resident", bench.work(backbone, epochs=2 * repeats))["ratios"]
        found[backbone] = spread(values)
        show(f"{backbone}, end to end / resident", found[backbone])
    return found


def profile(bench: Bench, repeats: int) -> dict:
    found = {}
    for backbone in RESIDENT:
        found[backbone] = bench.ours("profile", bench.work(backbone))["shares"]
        print(
            f"  {backbone:22}" + ", ".join(f"{kind} {share:.1%}" for kind, share in found[backbone].items()), flush=True
        )
    return found


def against_peers(bench: Bench, repeats: int) -> dict:
    found: dict = {}
    for backbone in BACKBONES.keys() & {"tf_efficientnet_lite0", "resnet50"}:
        work = bench.work(backbone)
        how = bench.ours("train", replace(work, epochs=1))["execution"]
        same = bench.matched(work, how)
        arms = {("fmtl", "default"): lambda w=work: bench.ours("train", w)}
        arms[("fmtl", "matched")] = lambda w=same: bench.ours("train", w)
        for name in peers.PEERS:
            problem = peers.install(str(bench.peers_python), name)
            if problem:
                found[name] = {"pip": problem}
                print(f"  {name}: can't be installed\n{problem}")
                continue
            for lane, its in (("default", work), ("matched", same)):
                arms[(name, lane)] = lambda name=name, lane=lane, its=its: bench.peer(name, lane, its)
        runs = {}
        for lane, turns in (("default", 1), ("matched", repeats)):
            runs |= take_turns({arm: run for arm, run in arms.items() if arm[1] == lane}, turns)
        for (name, lane), results in runs.items():
            row = ratios(runs[("fmtl", lane)], results)
            row |= {"accuracy": [r["accuracy"] for r in results], "versions": results[0].get("versions")}
            row["images per second"] = [rate(r) for r in results]
            found.setdefault(backbone, {}).setdefault(lane, {})[name] = row
            accuracy = statistics.mean(row["accuracy"])
            if name != "fmtl":
                show(f"{backbone}, fmtl / {name}, {lane}", row, f"accuracy {accuracy:.3f}")
    return found


def frozen(bench: Bench, repeats: int) -> dict:
    work = bench.work("tf_efficientnet_lite0", epochs=10)
    found: dict[str, list[float]] = {"notebook / kept": [], "computed each epoch / kept": []}
    for _ in range(repeats):
        for file in (bench.folder / "cache" / "fmtl" / "features").glob("*"):
            file.unlink()
        kept, again = bench.ours("frozen", work), bench.ours("recomputed", work)
        if kept["labels"] != again["labels"]:
            raise AssertionError("other predictions with kept features than with computed ones")
        tuned = bench.peer("notebook", "default", work)
        seconds = sum(len(work.train) / r for r in tuned["images_per_second"])
        found["notebook / kept"].append(seconds / kept["seconds"])
        found["computed each epoch / kept"].append(again["seconds"] / kept["seconds"])
    rows = {name: spread(values) for name, values in found.items()}
    for name, row in rows.items():
        show(f"10 frozen epochs, {name}", row)
    return rows


def tasks(bench: Bench, repeats: int) -> dict:
    found = bench.ours("tasks", bench.work("resnet50"))
    rows = {"step, 7 heads / 1 head, resnet50@224": spread(found["step, 7 heads / 1 head"])}
    several = [bench.ours("one_by_one", bench.work("resnet50", epochs=1)) for _ in range(repeats)]
    rows[f"{several[0]['tasks']} trainings of one task / one of all"] = spread([r["ratio"] for r in several])
    for name, row in rows.items():
        show(name, row)
    return rows


def mlflow_share(bench: Bench, repeats: int) -> dict:
    found = spread(bench.ours("mlflow_share", bench.work("tf_efficientnet_lite0", epochs=2 * repeats))["shares"])
    show("MLflow's share of an epoch", found)
    return found


def limits(bench: Bench, repeats: int) -> dict:
    rows = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(4096, 4096, dtype=dtype) for _ in range(2))
        rows[f"matrix product, {dtype}, GFLOP/s"] = spread([2 * 4096**3 / s / 1e9 for s in _seconds(lambda: a @ b)])  # noqa: B023
    block = torch.empty(2**28, dtype=torch.uint8)
    copy = torch.empty_like(block)
    rows["copy, GB/s read and written"] = spread([2 * 2**28 / s / 1e9 for s in _seconds(lambda: copy.copy_(block))])
    for name, row in rows.items():
        show(name, row)
    return rows


def _seconds(work, num: int = 5) -> list[float]:
    work()
    found = []
    for _ in range(num):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found


PARTS = {
    "limits": limits,
    "notebook": notebook,
    "resident": resident,
    "profile": profile,
    "peers": against_peers,
    "frozen": frozen,
    "tasks": tasks,
    "mlflow": mlflow_share,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES), help="of parts notebook and peers"
    )
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--json", type=Path, help="also write the figures there; other parts and rows in it stay")
    options = parser.parse_args()
    if "FMTL_REAL_DATA" not in os.environ:
        print("benchmarks/training.py: skipped, FMTL_REAL_DATA is not set")
        return
    for backbone in set(BACKBONES) - set(options.backbones):
        del BACKBONES[backbone]
    figures = json.loads(options.json.read_text(encoding="utf-8")) if options.json and options.json.is_file() else {}
    figures["machine"] = hardware.describe(torch.device("cpu"))
    figures["python"] = platform.python_version()
    figures["versions"] = {name: version(name) for name in ("torch", "torchvision", "timm", "mlflow", "Pillow")}
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(os.environ["FMTL_REAL_DATA"]).resolve(), Path(temporary))
        for part in options.parts:
            print(f"{part}:", flush=True)
            figures[part] = figures.get(part, {}) | PARTS[part](bench, options.repeats)
            if options.json:
                options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
