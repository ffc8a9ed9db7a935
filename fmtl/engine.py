"""The training loop in plain torch: no MLflow, no files, no printing.

``fit`` is a generator, so the caller logs, saves and stops between epochs. Nothing is read back from the
device inside an epoch. N images, K classes of a task.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fmtl import losses, metrics
from fmtl.errors import Diverged
from fmtl.hardware import MEMORY_FORMAT
from fmtl.losses import Criterion
from fmtl.models import MultiTaskNet
from fmtl.optim import Recipe
from fmtl.tasks import IGNORE_INDEX

Loader = Iterable[tuple[Tensor, dict[str, Tensor]]]
Watch = Callable[[Loader, str], Iterable]  # wraps a loader to show progress


def unwatched(loader: Loader, _: str) -> Loader:
    return loader


@dataclass(frozen=True)
class Evaluation:
    """A network's performance on one split.

    Attributes:
        loss: Sum over tasks of ``task_losses``; a task without targets adds nothing, a nan stays nan.
        task_losses: Mean over the labelled images, by task name; nan without any.
        confusion: ``(K, K)`` int64 by task name.
        probs: ``(N, K)`` float32 by task name, in the loader's order.
        targets: ``(N,)`` int64 by task name.
    """

    loss: float
    task_losses: dict[str, float]
    confusion: dict[str, np.ndarray]
    probs: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """Accuracy, f1, precision, recall by task name and under ``avg``."""
        return metrics.all_metrics(self.confusion)


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gave.

    Attributes:
        epoch: From 1.
        train_loss: Mean over the epoch's images, as the weights moved.
        val: Evaluation at its end.
        learning_rates: By group name, at its end.
        images_per_second: Of training, data time included.
        epoch_seconds: Training and validation.
    """

    epoch: int
    train_loss: float
    val: Evaluation
    learning_rates: dict[str, float]
    images_per_second: float
    epoch_seconds: float


def fit(
    net: MultiTaskNet,
    train_loader: Loader,
    val_loader: Loader,
    *,
    recipe: Recipe,
    optimizer: Optimizer,
    schedule: LRScheduler,
    criterions: Mapping[str, Criterion],
    device: torch.device,
    first_epoch: int = 1,
    watch: Watch = unwatched,
) -> Iterator[EpochResult]:
    """Train, yielding after each epoch.

    Each epoch seeds torch from (seed, epoch), so that continuing from a checkpoint repeats what an unbroken
    run does.

    Raises:
        Diverged: An epoch's training or validation loss is not finite.
    """
    for epoch in range(first_epoch, recipe.epochs + 1):
        torch.manual_seed(recipe.seed * 1_000_003 + epoch)
        if hasattr(train_loader, "set_epoch"):
            train_loader.set_epoch(epoch)
        started = time.monotonic()
        loss, num_images = train_one_epoch(
            net,
            watch(train_loader, f"epoch {epoch}/{recipe.epochs}"),
            optimizer=optimizer,
            schedule=schedule,
            criterions=criterions,
            device=device,
            clip_norm=recipe.clip_norm,
        )
        trained = time.monotonic()
        if not math.isfinite(loss):
            raise _diverged(epoch, "training", loss, optimizer)
        val = evaluate(net, val_loader, criterions=criterions, device=device, watch=watch)
        if not math.isfinite(val.loss):
            raise _diverged(epoch, "validation", val.loss, optimizer)
        yield EpochResult(
            epoch=epoch,
            train_loss=loss,
            val=val,
            learning_rates={group["name"]: group["lr"] for group in optimizer.param_groups},
            images_per_second=num_images / max(trained - started, 1e-9),
            epoch_seconds=time.monotonic() - started,
        )


def _diverged(epoch: int, which: str, loss: float, optimizer: Optimizer) -> Diverged:
    rates = ", ".join(f"{group['name']} {group['lr']:.2g}" for group in optimizer.param_groups)
    return Diverged(
        f"epoch {epoch}: the {which} loss is {loss} (learning rates now: {rates}); lower learning_rate, "
        "or use mode=tuned, which clips gradients"
    )


def train_one_epoch(
    net: MultiTaskNet,
    loader: Iterable,
    *,
    optimizer: Optimizer,
    schedule: LRScheduler,
    criterions: Mapping[str, Criterion],
    device: torch.device,
    clip_norm: float,
) -> tuple[float, int]:
    """One pass of updates. Returns the mean loss per image and the number of images."""
    net.train()
    total, num_images = torch.zeros((), device=device), 0
    for images, targets in loader:
        images, targets = to_device(images, targets, device)
        loss = losses.total_loss(losses.task_losses(net(images), targets, criterions))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip_norm:
            nn.utils.clip_grad_norm_(net.parameters(), clip_norm)
        optimizer.step()
        schedule.step()
        total += loss.detach() * len(images)
        num_images += len(images)
    return total.item() / max(num_images, 1), num_images


@torch.no_grad()
def evaluate(
    net: MultiTaskNet,
    loader: Loader,
    *,
    criterions: Mapping[str, Criterion],
    device: torch.device,
    watch: Watch = unwatched,
) -> Evaluation:
    """Losses, confusion counts and probabilities over a loader, in its order."""
    net.eval()
    confusion = {name: metrics.empty_confusion(k, device) for name, k in net.num_classes.items()}
    loss_sums = {name: torch.zeros((), device=device) for name in confusion}
    counts = {name: torch.zeros((), device=device) for name in confusion}
    probs: dict[str, list[Tensor]] = {name: [] for name in confusion}
    kept_targets: dict[str, list[Tensor]] = {name: [] for name in confusion}
    for images, targets in watch(loader, "evaluate"):
        images, targets = to_device(images, targets, device)
        logits = net(images)
        for name, loss in losses.task_losses(logits, targets, criterions).items():
            num_known = (targets[name] != IGNORE_INDEX).sum()
            loss_sums[name] += loss * num_known  # back from the mean over labelled rows to their sum
            counts[name] += num_known
            metrics.update_confusion(confusion[name], logits[name], targets[name])
            probs[name].append(logits[name].softmax(dim=1))
            kept_targets[name].append(targets[name])
    task_losses = {name: (loss_sums[name] / counts[name]).item() for name in confusion}
    return Evaluation(
        loss=sum(loss for name, loss in task_losses.items() if counts[name] > 0),
        task_losses=task_losses,
        confusion={name: cells.cpu().numpy() for name, cells in confusion.items()},
        probs={name: torch.cat(parts).float().cpu().numpy() for name, parts in probs.items()},
        targets={name: torch.cat(parts).cpu().numpy() for name, parts in kept_targets.items()},
    )


def to_device(images: Tensor, targets: Mapping[str, Tensor], device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """A batch on the device, images in the layout that convolutions prefer."""
    images = images.to(device, memory_format=MEMORY_FORMAT, non_blocking=True)
    return images, {name: target.to(device, non_blocking=True) for name, target in targets.items()}
