"""Other training loops on the same photos, network and weights, each as its own documentation writes it.

    python benchmarks/peers.py --peer NAME --lane LANE --work WORK.json

Runs one peer and prints its result as one line of JSON, the last of standard output. Lane ``default`` is what the
peer's users get: fp32, NCHW, JPEGs decoded by two workers. Lane ``matched`` gives it the work's precision and memory
format, and pixels that are decoded already, so that only the loops differ. Peers that need packages of their own run in
an environment of their own: see :func:`make_environment` and :func:`install`.
"""

import argparse
import contextlib
import json
import logging
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, default_collate
from torchvision import transforms

PACKAGES = {  # beyond the project's own; the first is the one that's imported
    "notebook": (),
    "lightning": ("lightning",),
    "huggingface": ("transformers", "accelerate"),
    "fastai": ("fastai",),
    "timm_script": (),
}
HELD = ("torch", "torchvision", "numpy", "pandas", "Pillow")
WORKERS = 2
UNKNOWN = -100
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


@dataclass(frozen=True)
class Work:
    """What every loop trains on, and how. Precision, memory format and pixels are for lane ``matched`` only."""

    photos: str  # folder
    train: list[tuple[str, list[int]]]  # file name below it, one target index per task, -100 where unknown
    val: list[tuple[str, list[int]]]
    num_classes: dict[str, int]  # per task, in the order of the targets
    backbone: str  # a classification model of torchvision, else of timm
    weights: str | None  # state dict of the backbone without its classifier; None: random
    px: int
    batch_size: int
    epochs: int  # the first is slower than the others: callers drop it
    learning_rate: float  # constant
    seed: int  # of weights, order and flips
    precision: str = "fp32"  # or bf16
    channels_last: bool = False
    pixels: str | None = None  # .npy of uint8 (N, px, px, 3), the rows of train, then those of val

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Work":
        values = json.loads(text)
        for split in ("train", "val"):
            values[split] = [(name, targets) for name, targets in values[split]]
        return cls(**values)

    def in_lane(self, lane: str) -> "Work":
        """The work as a lane does it."""
        if lane == "default":
            return replace(self, precision="fp32", channels_last=False, pixels=None)
        if self.pixels is None:
            raise ValueError("lane 'matched' reads decoded pixels: set Work.pixels")
        return self

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16")

    def ordered(self, images: Tensor) -> Tensor:
        """Images in the work's memory format."""
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images


class Photos(Dataset):
    """JPEGs opened, resized and normalised one at a time."""

    def __init__(self, work: Work, rows: list[tuple[str, list[int]]], train: bool) -> None:
        self.folder, self.rows, self.tasks = Path(work.photos), rows, list(work.num_classes)
        flip = [transforms.RandomHorizontalFlip()] if train else []
        self.transform = transforms.Compose(
            [transforms.Resize((work.px, work.px)), *flip, transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, index: int) -> Tensor:
        return self.transform(Image.open(self.folder / self.rows[index][0]).convert("RGB"))

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, int]]:
        return self.image(index), dict(zip(self.tasks, self.rows[index][1], strict=True))


class Pixels(Photos):
    """The same images, decoded and resized beforehand."""

    def __init__(self, work: Work, rows: list[tuple[str, list[int]]], train: bool) -> None:
        super().__init__(work, rows, train)
        self.pixels = np.load(work.pixels, mmap_mode="r")
        self.train, self.first = train, 0 if train else len(work.train)
        self.mean, self.std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)

    def image(self, index: int) -> Tensor:
        image = torch.from_numpy(np.array(self.pixels[self.first + index])).permute(2, 0, 1)
        if self.train and torch.rand(()) < 0.5:
            image = image.flip(2)
        return image.float().div_(255).sub_(self.mean).div_(self.std)


def datasets(work: Work) -> tuple[Dataset, Dataset]:
    kind = Photos if work.pixels is None else Pixels
    return kind(work, work.train, True), kind(work, work.val, False)


def leaves_one(dataset: Dataset, work: Work) -> bool:
    """Whether the last batch has one image, on which BatchNorm can't train."""
    return len(dataset) % work.batch_size == 1


def trained(dataset: Dataset, work: Work) -> int:
    """Images of an epoch."""
    return len(dataset) - leaves_one(dataset, work)


def loader(dataset: Dataset, work: Work, train: bool) -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=work.batch_size,
        shuffle=train,
        num_workers=WORKERS if work.pixels is None else 0,
        drop_last=train and leaves_one(dataset, work),
    )


class Network(nn.Module):
    """A backbone and one linear head per task."""

    def __init__(self, backbone: nn.Module, features: int, num_classes: dict[str, int]) -> None:
        super().__init__()
        self.backbone, self.tasks = backbone, list(num_classes)
        self.heads = nn.ModuleList(nn.Linear(features, classes) for classes in num_classes.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)
        return {task: head(features) for task, head in zip(self.tasks, self.heads, strict=True)}


def torchvision_backbone(work: Work) -> tuple[nn.Module, int]:
    """A model of torchvision with its last linear layer replaced by the identity, and its number of features."""
    sized = {"image_size": work.px} if work.backbone.startswith("vit_") else {}
    model = torchvision.models.get_model(work.backbone, **sized)
    name, last = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return model, last.in_features


def network(work: Work) -> Network:
    """The network that every peer trains, in the work's memory format, with the same weights for the same seed."""
    torch.manual_seed(work.seed)
    if work.backbone in torchvision.models.list_models(module=torchvision.models):
        backbone, features = torchvision_backbone(work)
    else:
        backbone = timm.create_model(work.backbone, num_classes=0)
        features = getattr(backbone, "head_hidden_size", backbone.num_features)
    if work.weights is not None:
        backbone.load_state_dict(torch.load(work.weights, weights_only=True))
    model = Network(backbone, features, work.num_classes)
    return model.to(memory_format=torch.channels_last) if work.channels_last else model


def multi_task_loss(logits: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    """Sum over tasks of the mean cross-entropy of known targets; 0 rather than nan for a task that has none."""
    criterion = nn.CrossEntropyLoss(ignore_index=UNKNOWN, reduction="sum")
    loss = torch.zeros(())
    for task, scores in logits.items():
        known = (targets[task] != UNKNOWN).sum().clamp(min=1)
        loss = loss + criterion(scores.float(), targets[task]) / known
    return loss


class Answers:
    """Targets and predictions per task, gathered batch by batch."""

    def __init__(self) -> None:
        self.truth: dict[str, list[np.ndarray]] = {}
        self.predicted: dict[str, list[np.ndarray]] = {}

    def add(self, logits: dict[str, Tensor], targets: dict[str, Tensor]) -> None:
        for task, scores in logits.items():
            self.truth.setdefault(task, []).append(targets[task].cpu().numpy())
            self.predicted.setdefault(task, []).append(scores.argmax(1).cpu().numpy())

    def scores(self) -> dict[str, float]:
        """Means over tasks of accuracy and macro-F1, over known targets."""
        accuracy, f1 = [], []
        for task in self.truth:
            truth, predicted = np.concatenate(self.truth[task]), np.concatenate(self.predicted[task])
            known = truth != UNKNOWN
            if known.any():
                accuracy.append(accuracy_score(truth[known], predicted[known]))
                f1.append(f1_score(truth[known], predicted[known], average="macro", zero_division=0))
        return {"accuracy": float(np.mean(accuracy)), "f1": float(np.mean(f1))}


@torch.no_grad()
def evaluate(model: nn.Module, batches: DataLoader, work: Work) -> dict[str, float]:
    model.eval()
    answers = Answers()
    for images, targets in batches:
        with work.autocast():
            logits = model(work.ordered(images))
        answers.add(logits, targets)
    return answers.scores()


@dataclass
class Clock:
    """Images per second of each epoch's training part, its data included."""

    images: int
    images_per_second: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)  # seconds to the first batch, where they are known
    started: float = 0.0

    def start(self) -> None:
        self.started = time.perf_counter()

    def stop(self) -> None:
        self.images_per_second.append(self.images / (time.perf_counter() - self.started))

    def batches(self, loader: DataLoader) -> Iterator[Any]:
        """Those of an epoch, the first of which comes when the loader's processes have started."""
        for number, batch in enumerate(loader):
            if number == 0:
                self.starts.append(time.perf_counter() - self.started)
            yield batch


def result(clock: Clock, scores: dict[str, float], *packages: str, **more: int) -> dict:
    versions = {name: version(name) for name in ("torch", "torchvision", *packages)}
    return {
        "images_per_second": clock.images_per_second,
        "starts": clock.starts,
        **scores,
        "versions": versions,
        **more,
    }


def notebook(work: Work, lane: str) -> dict:
    """The loop of many notebooks: loss and predictions fetched at each step, scikit-learn after each epoch."""
    work = work.in_lane(lane)
    model, (train, val) = network(work), datasets(work)
    train_batches, val_batches = loader(train, work, True), loader(val, work, False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=work.learning_rate)
    clock, scores = Clock(trained(train, work)), {}
    for epoch in range(work.epochs):
        model.train()
        running_loss, answers = 0.0, Answers()
        clock.start()
        for images, targets in clock.batches(train_batches):
            optimizer.zero_grad()
            with work.autocast():
                logits = model(work.ordered(images))
                loss = multi_task_loss(logits, targets)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            answers.add(logits, targets)
        clock.stop()
        scores = evaluate(model, val_batches, work)
        print(epoch, running_loss / len(train_batches), answers.scores(), scores)
    return result(clock, scores)


def lightning(work: Work, lane: str) -> dict:
    """A LightningModule under Lightning's Trainer."""
    import lightning as pl

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    work = work.in_lane(lane)
    train, val = datasets(work)
    clock = Clock(trained(train, work))

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network(work)

        def training_step(self, batch: tuple[Tensor, dict[str, Tensor]], batch_idx: int) -> Tensor:
            images, targets = batch
            loss = multi_task_loss(self.network(work.ordered(images)), targets)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=work.learning_rate)

    class Timer(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            clock.start()

        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            clock.stop()

    module = Module()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=work.epochs,
        precision="bf16-mixed" if work.precision == "bf16" else "32-true",
        callbacks=[Timer()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader(train, work, True))
    return result(clock, evaluate(module.network, loader(val, work, False), work), "lightning")


def collate_for_trainer(items: list[tuple[Tensor, dict[str, int]]], work: Work) -> dict:
    images, targets = default_collate(items)
    return {"pixel_values": work.ordered(images), "labels": targets}


def huggingface(work: Work, lane: str) -> dict:
    """transformers' Trainer around a model that returns its own loss; a constant learning rate, as the other loops."""
    import transformers

    transformers.logging.set_verbosity_error()
    work = work.in_lane(lane)
    train, val = datasets(work)
    clock = Clock(trained(train, work))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network(work)

        def forward(self, pixel_values: Tensor, labels: dict[str, Tensor]) -> dict:
            logits = self.network(pixel_values)
            return {"loss": multi_task_loss(logits, labels), "logits": tuple(logits.values())}

    class Timer(transformers.TrainerCallback):
        def on_epoch_begin(self, args: object, state: object, control: object, **kwargs: object) -> None:
            clock.start()

        def on_epoch_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
            clock.stop()

    model = Model()
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=work.batch_size,
            num_train_epochs=work.epochs,
            learning_rate=work.learning_rate,
            lr_scheduler_type="constant",
            weight_decay=0.01,
            seed=work.seed,
            use_cpu=True,
            bf16=work.precision == "bf16",
            dataloader_num_workers=WORKERS if work.pixels is None else 0,
            dataloader_drop_last=leaves_one(train, work),
            remove_unused_columns=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        collate = partial(collate_for_trainer, work=work)
        trainer = transformers.Trainer(model, arguments, collate, train_dataset=train, callbacks=[Timer()])
        trainer.train()
    scores = evaluate(model.network, loader(val, work, False), work)
    return result(clock, scores, "transformers", "accelerate")


def fastai(work: Work, lane: str) -> dict:
    """fastai's Learner on PyTorch's DataLoaders, at a constant learning rate."""
    from fastai.basics import Callback, DataLoaders, Learner

    work = work.in_lane(lane)
    train, val = datasets(work)
    clock = Clock(trained(train, work))
    val_batches = loader(val, work, False)

    class Timer(Callback):
        def before_train(self) -> None:
            clock.start()

        def after_train(self) -> None:
            clock.stop()

    class Matched(Callback):
        """Memory format and autocast; fastai's own mixed precision is for CUDA alone."""

        def before_batch(self) -> None:
            self.learn.xb = tuple(work.ordered(images) for images in self.xb)
            self.autocast = work.autocast()
            self.autocast.__enter__()

        def after_loss(self) -> None:
            self.autocast.__exit__(None, None, None)

    callbacks = [Timer(), Matched()] if lane == "matched" else [Timer()]
    batches = DataLoaders(loader(train, work, True), val_batches)
    learner = Learner(batches, network(work), loss_func=multi_task_loss, cbs=callbacks)
    with learner.no_logging():
        learner.fit(work.epochs, lr=work.learning_rate)
    return result(clock, evaluate(learner.model, val_batches, work), "fastai")


def timm_script(work: Work, lane: str) -> dict:
    """The order of operations and the settings of timm's train.py, for the one label with the most classes.

    Its loss has no notion of an unknown label, so it trains and validates on the photos where that label is known.
    """
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.utils import AverageMeter

    work = work.in_lane(lane)
    task = max(work.num_classes, key=work.num_classes.__getitem__)
    position = list(work.num_classes).index(task)
    train, val = (
        Subset(dataset, [i for i, (_, targets) in enumerate(dataset.rows) if targets[position] != UNKNOWN])
        for dataset in datasets(work)
    )
    model = network(replace(work, num_classes={task: work.num_classes[task]}))
    train_batches, val_batches = loader(train, work, True), loader(val, work, False)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=work.learning_rate, weight_decay=2e-5)
    criterion, clock, scores = LabelSmoothingCrossEntropy(0.1), Clock(trained(train, work)), {}
    for _ in range(work.epochs):
        data_time, step_time, losses = AverageMeter(), AverageMeter(), AverageMeter()
        model.train()
        clock.start()
        optimizer.zero_grad()
        ready = began = time.time()
        for images, targets in train_batches:
            images = work.ordered(images)
            data_time.update(time.time() - ready)
            with work.autocast():
                loss = criterion(model(images)[task], targets[task])
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(images))
            optimizer.zero_grad()
            ready = time.time()
            step_time.update(ready - began)
            began = ready
        clock.stop()
        scores = evaluate(model, val_batches, work)
        print(losses.avg, data_time.avg, step_time.avg, scores)
    return result(clock, scores, "timm", tasks=1)


PEERS = {loop.__name__: loop for loop in (notebook, lightning, huggingface, fastai, timm_script)}


def make_environment(folder: Path) -> Path:
    """A virtual environment that also sees the packages of the running one; returns its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", purelib], check=True, capture_output=True, text=True).stdout.strip()
    Path(packages, "project.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


def reasons(output: str) -> str:
    """The lines of pip's or Python's output that say what went wrong."""
    lines = [line[:300] for line in output.splitlines() if line.strip()]
    conflict = [i for i, line in enumerate(lines) if line.startswith("The conflict is caused by")]
    if conflict:
        return "\n".join(line for line in lines[conflict[0] :] if line.startswith(("The conflict", "    ")))
    errors = [line for line in lines if re.match(r"\s*(ERROR|error|\w+Error)\b", line)]
    return "\n".join(errors[-6:] or lines[-6:])


def install(bench_python: str, peer: str) -> str | None:
    """Install what a peer needs, the project's torch and arrays held at their versions.

    Returns:
        None when the peer can be imported afterwards, else why not.
    """
    if not PACKAGES[peer]:
        return None
    lines = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if re.split(r"[^\w.-]", line)[0] in PACKAGES[peer]]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        constraints.write_text("".join(f"{name}=={version(name)}\n" for name in HELD), encoding="utf-8")
        pip = ["-m", "pip", "install", "--progress-bar", "off", "--constraint", str(constraints), *wanted]
        for step in (pip, ["-c", f"import {PACKAGES[peer][0]}"]):  # --quiet would hide whose pins conflict
            done = subprocess.run([bench_python, *step], check=False, capture_output=True, text=True)
            if done.returncode:
                return reasons(done.stdout + done.stderr)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=PEERS, required=True)
    parser.add_argument("--lane", choices=("default", "matched"), required=True)
    parser.add_argument("--work", type=Path, required=True)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        found = PEERS[asked.peer](Work.from_json(asked.work.read_text(encoding="utf-8")), asked.lane)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
