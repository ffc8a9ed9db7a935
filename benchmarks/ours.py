"""fmtl's side of the training benchmark: one arm per call, in a process of its own.

    python benchmarks/ours.py --arm NAME --work WORK.json

Prints its result as one line of JSON, the last of standard output. A work is that of ``peers.py``; its photos are
prepared by ``fmtl prepare`` beforehand, in the folder ``--data``, with the work's rows first: train, then val.
"""

import argparse
import contextlib
import json
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from peers import Work
from torch import Tensor

from fmtl import machine
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.dataset.prepared import open_dataset
from fmtl.loading.augment import Augmentation
from fmtl.loading.batches import Batches
from fmtl.loading.pacing import Paced
from fmtl.loading.sources import Features, Photos
from fmtl.model import autotune, backbones, feature_cache
from fmtl.model.backbones import NetworkPlan
from fmtl.model.execution import Execution
from fmtl.model.network import MultiTaskNet
from fmtl.tasks import Tasks
from fmtl.training import engine, evaluating
from fmtl.training.criterion import LossPlan, MultiTaskLoss
from fmtl.training.optim import Recipe, Updater
from fmtl.training.setup import TrainPlan, set_up

CPU = torch.device("cpu")
ANY_WAY = autotune.candidates("auto", None, False)
TUNED = {"schedule": "onecycle", "clip_norm": 1.0, "backbone_lr_scale": 0.1, "decay_norms": False}
AS_PEERS = {"schedule": "constant", "clip_norm": 0.0, "backbone_lr_scale": 1.0}


class Bench:
    """A work, set up as ``fmtl train`` sets it up.

    Args:
        tasks: Only these, if given.
        recipe: ``TUNED``, or ``AS_PEERS``: AdamW at one constant rate.
    """

    def __init__(self, work: Work, data: Path, *, tasks: list[str] | None = None, recipe: dict | None = None):
        self.work, self.dataset = work, open_dataset(data, verify=False)
        chosen = [t for t, task in enumerate(self.dataset.tasks) if tasks is None or task.name in tasks]
        self.tasks = Tasks(self.dataset.tasks[t] for t in chosen)
        self.targets = self.dataset.targets[:, chosen]
        spec = backbones.input_spec(work.backbone)
        self.preprocess = Preprocess(self.dataset.px, "pad", "#ffffff", work.px, spec.mean, spec.std)
        self.recipe = Recipe(
            epochs=work.epochs, learning_rate=work.learning_rate, optimizer="adamw", weight_decay=1e-2, seed=work.seed,
            **(recipe or TUNED),
        )  # fmt: skip
        plan = TrainPlan(
            network=NetworkPlan(backbone=work.backbone, weights="none", px=work.px, seed=work.seed),
            loss=LossPlan(class_weights=0.0, label_smoothing=0.0),
            recipe=self.recipe,
            augmentation=Augmentation(),
            # In the lane "matched", what was chosen for all.
            ways=(Execution(work.precision, work.channels_last),) if work.pixels else ANY_WAY,
            batch_size=work.batch_size,
        )
        setup = set_up(plan, self.tasks, device=CPU, num_images=len(work.train), counts={})
        self.net, self.loss, self.execution = setup.net, setup.loss, setup.execution
        if work.weights:
            self.net.backbone.load_state_dict(torch.load(work.weights, weights_only=True))

    def rows(self, split: str) -> np.ndarray:
        paths = {path: row for row, path in enumerate(self.dataset.table["path"])}
        return np.array([paths[name] for name, _ in getattr(self.work, split)])

    def batches(self, split: str, source: Photos | Features) -> Batches:
        return Batches(
            source, self.targets, self.rows(split), tasks=self.tasks, batch_size=self.work.batch_size,
            shuffle=split == "train", seed=self.work.seed,
        )  # fmt: skip

    def photos(self, *, augment: bool) -> Photos:
        how = Augmentation() if augment else None
        return Photos(self.dataset, preprocess=self.preprocess, augmentation=how, seed=self.work.seed)

    def loaders(self) -> tuple[Batches, Batches]:
        return self.batches("train", self.photos(augment=True)), self.batches("val", self.photos(augment=False))

    def updater(self, net: MultiTaskNet, batches: Batches) -> Updater:
        return Updater(net, self.loss, self.recipe, num_batches=len(batches))

    def fit(self, net: MultiTaskNet, train: Batches, val: Batches) -> list[engine.EpochResult]:
        updater = self.updater(net, train)
        return list(
            engine.fit(net, train, val, recipe=self.recipe, updater=updater, loss=self.loss, device=CPU)
        )  # fmt: skip


def train(work: Work, data: Path) -> dict:
    """Epochs as ``fmtl train`` runs them, with AdamW at one constant rate, as the peers are set."""
    bench = Bench(work, data, recipe=AS_PEERS)
    results = bench.fit(bench.net, *bench.loaders())
    scores = results[-1].val.scores["avg"]
    return {
        "images_per_second": [r.images_per_second for r in results],
        "data_share": [r.data_share for r in results],
        "accuracy": scores["accuracy"],
        "f1": scores["f1"],
        "execution": bench.execution.to_json(),
    }


def resident(work: Work, data: Path) -> dict:
    """Epochs in turns with as many of the same steps on one batch that is there already: their ratios."""
    bench = Bench(work, data, recipe=TUNED | {"schedule": "constant"})  # no end to the steps
    train_batches, _ = bench.loaders()
    updater = bench.updater(bench.net, train_batches)

    def images_per_second(batches: list | Batches) -> float:
        paced = Paced(batches)
        engine.train_one_epoch(
            bench.net, paced, recipe=bench.recipe, updater=updater, loss=bench.loss, device=CPU
        )  # fmt: skip
        return paced.images_per_second

    one = [next(iter(train_batches))] * (len(bench.rows("train")) // work.batch_size)
    images_per_second(one)
    ratios = []
    for epoch in range(work.epochs):
        train_batches.set_epoch(epoch)
        first, second = (train_batches, one) if epoch % 2 else (one, train_batches)
        rates = {id(batches): images_per_second(batches) for batches in (first, second)}
        ratios.append(rates[id(train_batches)] / rates[id(one)])
    return {"ratios": ratios, "execution": bench.execution.to_json()}


def frozen(work: Work, data: Path, *, cached: bool = True) -> dict:
    """Seconds of all epochs with a frozen backbone, its features computed once or each epoch; validation included."""
    bench = Bench(work, data)
    bench.net.freeze_backbone()
    started = time.perf_counter()
    if cached:
        found = feature_cache.compute(
            bench.net, bench.dataset, backbone=work.backbone, preprocess=bench.preprocess,
            batch_size=work.batch_size, device=CPU, watch=lambda batches, what: batches,
        )  # fmt: skip
        source = Features(found)
        results = bench.fit(bench.net.heads_alone(), *(bench.batches(split, source) for split in ("train", "val")))
    else:
        photos = bench.photos(augment=False)
        results = bench.fit(bench.net, *(bench.batches(split, photos) for split in ("train", "val")))
    seconds = time.perf_counter() - started
    probs = evaluating.evaluate(
        bench.net, bench.batches("val", bench.photos(augment=False)), loss=bench.loss, device=CPU
    ).probs
    labels = {name: part.argmax(axis=1).tolist() for name, part in probs.items()}
    return {"seconds": seconds, "labels": labels, "accuracy": results[-1].val.scores["avg"]["accuracy"]}


def recomputed(work: Work, data: Path) -> dict:
    return frozen(work, data, cached=False)


def tasks(work: Work, data: Path) -> dict:
    """Steps with seven heads against one head; and seven trainings of one task against one of seven tasks."""
    several = Bench(work, data)
    single = Bench(work, data, tasks=[several.tasks[0].name])
    seven = dict.fromkeys((f"task {t}" for t in range(7)), max(task.num_classes for task in several.tasks))
    step_ratios = []
    arms = {"seven": _steps(several, seven), "one": _steps(single, {"task 0": seven["task 0"]})}
    for step in arms.values():
        step(2)
    for repeat in range(7):
        order = list(arms) if repeat % 2 else list(arms)[::-1]
        seconds = {name: arms[name](2) for name in order}
        step_ratios.append(seconds["seven"] / seconds["one"])
    return {"step, 7 heads / 1 head": step_ratios, "execution": several.execution.to_json()}


def _steps(bench: Bench, num_classes: dict[str, int]):
    """A function of a number: seconds of so many steps with heads of these sizes."""
    torch.manual_seed(0)
    net = backbones.build(bench.work.backbone, num_classes, weights="none", px=bench.work.px)
    net.run_on(CPU, bench.execution)
    loss = MultiTaskLoss(num_classes)
    batches = _one_batch(bench, num_classes)
    updater = Updater(net, loss, bench.recipe, num_batches=100)

    def run(num: int) -> float:
        started = time.perf_counter()
        engine.train_one_epoch(
            net, batches * num, recipe=bench.recipe, updater=updater, loss=loss, device=CPU
        )  # fmt: skip
        return time.perf_counter() - started

    return run


def _one_batch(bench: Bench, num_classes: dict[str, int]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    images, _ = next(iter(bench.loaders()[0]))
    return [(images, {name: torch.randint(k, (len(images),), generator=generator) for name, k in num_classes.items()})]


def one_by_one(work: Work, data: Path) -> dict:
    """Seconds of one training of all tasks, and of one training per task of the same epochs; probes excluded."""
    names = [task.name for task in open_dataset(data, verify=False).tasks]
    seconds = []
    for chosen in (None, *([name] for name in names)):
        bench = Bench(work, data, tasks=chosen)
        started = time.perf_counter()
        bench.fit(bench.net, *bench.loaders())
        seconds.append(time.perf_counter() - started)
    return {"tasks": len(names), "ratio": sum(seconds[1:]) / seconds[0]}


def mlflow_share(work: Work, data: Path) -> dict:
    """Share of an ``fmtl train`` run's epochs that goes to MLflow: the time of its calls over that of the epochs."""
    from fmtl.commands.train import train as run_train
    from fmtl.settings.train import TrainSettings
    from fmtl.tracking.recording import Run

    spent: list[tuple[int, float]] = []
    log = Run.log_metrics

    def timed(self: Run, metrics: dict, step: int | None = None, model_id: str | None = None) -> None:
        started = time.perf_counter()
        log(self, metrics, step, model_id)
        if step is not None:
            spent.append((time.perf_counter() - started, metrics["epoch_seconds"]))

    Run.log_metrics = timed
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        run_train(
            TrainSettings(
                data=str(data), allow_stale=True, backbone=work.backbone, weights="bundled", px=work.px,
                epochs=work.epochs, extra_plots=False,
            )
        )  # fmt: skip
    return {"shares": [seconds / epoch for seconds, epoch in spent]}


KINDS = {  # of operators, by what their names hold; the first that fits
    "matrix products": r"::(addmm|mm|bmm|baddbmm|mkldnn_linear)",
    "convolutions": r"convolution|conv2d",
    "attention": r"attention",
    "norms": r"norm",
    "casts and copies": r"::(copy_|clone|contiguous|cat|_to_copy)$",
    "optimizer": r"fused_adam|foreach",
}


def profile(work: Work, data: Path) -> dict:
    """Share of the processor's time in an epoch's steps by kind of operator."""
    from torch.profiler import ProfilerActivity

    bench = Bench(work, data)
    batches, _ = bench.loaders()
    updater = bench.updater(bench.net, batches)
    how = {"recipe": bench.recipe, "updater": updater, "loss": bench.loss, "device": CPU}
    engine.train_one_epoch(bench.net, Paced(batches), **how)
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as profiler:
        engine.train_one_epoch(bench.net, Paced(batches), **how)
    shares = dict.fromkeys([*KINDS, "all else"], 0.0)
    for operator in profiler.key_averages():
        kind = next((k for k, pattern in KINDS.items() if re.search(pattern, operator.key)), "all else")
        shares[kind] += operator.self_cpu_time_total
    total = sum(shares.values())
    return {"shares": {kind: spent / total for kind, spent in shares.items()}, "execution": bench.execution.to_json()}


ARMS = {arm.__name__: arm for arm in (train, resident, frozen, recomputed, tasks, one_by_one, mlflow_share, profile)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=ARMS, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    asked = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr), machine.memory_kept():  # as fmtl train
        found = ARMS[asked.arm](Work.from_json(asked.work.read_text(encoding="utf-8")), asked.data.resolve())
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
