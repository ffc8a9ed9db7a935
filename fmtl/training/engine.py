"""The training loop in plain torch: no MLflow, no files, no printing.

``fit`` is a generator, so the caller logs, saves and stops between epochs. Nothing is read back from the
device inside an epoch. N images, T tasks, K classes of a task, S classes of all tasks.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from operator import length_hint
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import CutMix, MixUp

from fmtl.errors import Diverged
from fmtl.loading.batches import Batch
from fmtl.model.network import MultiTaskNet
from fmtl.tasks import IGNORE_INDEX
from fmtl.training import metrics
from fmtl.training.criterion import MultiTaskLoss
from fmtl.training.optim import Recipe, Updater


class Loader(Sized, Protocol):
    """An epoch of ``(images, targets)``; one that has ``set_epoch`` is told which."""

    def __iter__(self) -> Iterator[Batch]: ...


Watch = Callable[["Paced", str], Iterable[Batch]]  # wraps a loader to show progress


class Paced:
    """A loader that knows how many images it gave, and how long they took to come.

    Attributes:
        num_images: Given so far.
        data_seconds: Waited for them.
    """

    def __init__(self, loader: Iterable[Batch]):
        self._loader = loader
        self.num_images, self.data_seconds, self._started = 0, 0.0, time.monotonic()

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]  # asked only of loaders that have one

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        self._started = time.monotonic()
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            self.data_seconds += time.monotonic() - asked
            if batch is None:
                return
            self.num_images += len(batch[0])
            yield batch

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self._started, 1e-9)

    @property
    def images_per_second(self) -> float:
        return self.num_images / self.seconds

    @property
    def data_share(self) -> float:
        """Of the time so far, in [0, 1]."""
        return self.data_seconds / self.seconds


def unwatched(loader: Paced, _: str) -> Paced:
    return loader


@dataclass(frozen=True)
class Evaluation:
    """A network's performance on one split.

    Attributes:
        loss: Sum over tasks of ``task_losses``; a task without targets adds nothing, a nan stays nan.
        task_losses: Mean over the labelled images, by task name; nan without any.
        confusion: ``(K, K)`` int64 by task name, sparse where K is large; see ``metrics.confusions``.
        probs: ``(N, K)`` float32 by task name, in the loader's order.
        targets: ``(N,)`` int64 by task name.
    """

    loss: float
    task_losses: dict[str, float]
    confusion: dict[str, metrics.Confusion]
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
        data_share: Of the training time, waiting for images; in [0, 1].
        epoch_seconds: Training and validation.
    """

    epoch: int
    train_loss: float
    val: Evaluation
    learning_rates: dict[str, float]
    images_per_second: float
    data_share: float
    epoch_seconds: float


def fit(
    net: MultiTaskNet,
    train_loader: Loader,
    val_loader: Loader,
    *,
    recipe: Recipe,
    updater: Updater,
    loss: MultiTaskLoss,
    device: torch.device,
    epochs: range | None = None,
    watch: Watch = unwatched,
) -> Iterator[EpochResult]:
    """Train, yielding after each epoch.

    Each epoch seeds torch from (seed, epoch), so that continuing from a checkpoint repeats what an unbroken
    run does.

    Args:
        epochs: Those to train, counted from 1; all of the recipe's if not given.

    Raises:
        Diverged: An epoch's training or validation loss is not finite.
    """
    for epoch in epochs or range(1, recipe.epochs + 1):
        torch.manual_seed(recipe.seed * 1_000_003 + epoch)
        if hasattr(train_loader, "set_epoch"):
            train_loader.set_epoch(epoch)
        started = time.monotonic()
        paced = Paced(train_loader)
        train_loss = train_one_epoch(
            net, watch(paced, f"epoch {epoch}"), recipe=recipe, updater=updater, loss=loss, device=device
        )
        images_per_second, data_share = paced.images_per_second, paced.data_share
        if not math.isfinite(train_loss):
            raise _diverged(epoch, "training", train_loss, updater)
        val = evaluate(updater.evaluated, val_loader, loss=loss, device=device, watch=watch)
        if not math.isfinite(val.loss):
            raise _diverged(epoch, "validation", val.loss, updater)
        yield EpochResult(
            epoch=epoch,
            train_loss=train_loss,
            val=val,
            learning_rates=updater.learning_rates,
            images_per_second=images_per_second,
            data_share=data_share,
            epoch_seconds=time.monotonic() - started,
        )


def _diverged(epoch: int, which: str, loss: float, updater: Updater) -> Diverged:
    rates = ", ".join(f"{name} {rate:.2g}" for name, rate in updater.learning_rates.items())
    return Diverged(
        f"epoch {epoch}: the {which} loss is {loss} (learning rates now: {rates}); lower learning_rate, "
        "or use mode=tuned, which clips gradients"
    )


def train_one_epoch(
    net: MultiTaskNet,
    loader: Iterable[Batch],
    *,
    recipe: Recipe,
    updater: Updater,
    loss: MultiTaskLoss,
    device: torch.device,
) -> float:
    """One pass of updates. Returns the mean loss per image; reading it is the epoch's only wait for the device."""
    net.train()
    loss.train()
    mix = _mixing(recipe)
    total, num_images, waiting = torch.zeros((), device=device), 0, 0
    for given_images, by_task in loader:
        images, targets = to_device(net, given_images, by_task, device)
        if mix:
            images, targets = mix(images, net.packing.one_hot(targets))
        value, _ = loss(net.packing.pad(net.logits(images)), targets)
        value.backward()
        total += value.detach() * len(images)
        num_images += len(images)
        waiting += 1
        if waiting == recipe.accumulate:
            updater.step(waiting)
            waiting = 0
    if waiting:  # the last batches, fewer than the others
        updater.step(waiting)
    return total.item() / max(num_images, 1)


def _mixing(recipe: Recipe) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """MixUp or CutMix of images and of shares ``(N, T, K)``; with both set, one of them by chance per batch."""
    kinds = [kind(alpha=a) for kind, a in ((MixUp, recipe.mixup), (CutMix, recipe.cutmix)) if a]
    if not kinds:
        return None

    def mix(images: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        chosen = kinds[int(torch.randint(len(kinds), ()))] if len(kinds) > 1 else kinds[0]
        images, flat = chosen(images, shares.flatten(1))
        return images, flat.view(shares.shape)

    return mix


@torch.no_grad()
def evaluate(
    net: MultiTaskNet, loader: Iterable[Batch], *, loss: MultiTaskLoss, device: torch.device, watch: Watch = unwatched
) -> Evaluation:
    """Losses, confusion counts and probabilities over a loader, in its order.

    What is kept of a batch are its probabilities, and the logits of tasks with a criterion of their own, which is
    called once with all of them.
    """
    net.eval()
    loss.eval()
    names = list(net.num_classes)
    num_batches = length_hint(loader)
    probs = {name: _Rows(num_batches) for name in names}
    own: dict[str, list[Tensor]] = {name: [] for name in loss.criterions}
    all_targets, all_predicted = _Rows(num_batches), _Rows(num_batches)
    sums = torch.zeros(len(names), dtype=torch.float64, device=device)
    for given_images, by_task in watch(Paced(loader), "evaluate"):
        images, targets = to_device(net, given_images, by_task, device)
        logits = net.logits(images)
        padded = net.packing.pad(logits)
        sums += loss.plain(padded, targets).double() * (targets != IGNORE_INDEX).sum(dim=0)
        all_targets.add(targets)
        all_predicted.add(padded.argmax(dim=2))
        for name, part in net.packing.split(logits).items():
            probs[name].add(part.softmax(dim=1))
            if name in own:
                own[name].append(part)
    targets = all_targets.all()
    known = (targets != IGNORE_INDEX).sum(dim=0)
    losses = (sums / known.clamp(min=1)).float()
    for name, parts in own.items():
        t = names.index(name)
        losses[t] = loss.criterion(name, torch.cat(parts), targets[:, t])
    values = [value if num else math.nan for value, num in zip(losses.tolist(), known.tolist(), strict=True)]
    return Evaluation(
        loss=sum(value for value, num in zip(losses.tolist(), known.tolist(), strict=True) if num),
        task_losses=dict(zip(names, values, strict=True)),
        confusion=metrics.confusions(all_predicted.all(), targets, net.num_classes),
        probs={name: rows.all().cpu().numpy() for name, rows in probs.items()},
        targets=dict(zip(names, targets.T.cpu().numpy(), strict=True)),
    )


class _Rows:
    """Rows of many batches in one block of memory, made at the first: pieces among short-lived ones scatter the heap.

    Args:
        num_batches: Expected; more are taken, too.
    """

    def __init__(self, num_batches: int):
        self._num_batches, self._num = num_batches, 0
        self._block: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        if self._block is None:
            self._block = rows.new_empty(max(self._num_batches, 1) * len(rows), *rows.shape[1:])
        end = self._num + len(rows)
        if end > len(self._block):
            more = self._block.new_empty(max(end, 2 * len(self._block)), *rows.shape[1:])
            more[: self._num] = self._block[: self._num]
            self._block = more
        self._block[self._num : end] = rows
        self._num = end

    def all(self) -> Tensor:
        if self._block is None:
            raise AssertionError("no batch was given")
        return self._block[: self._num]


def to_device(
    net: MultiTaskNet, images: Tensor, targets: Mapping[str, Tensor], device: torch.device
) -> tuple[Tensor, Tensor]:
    """A batch on the device; targets of all tasks in one tensor ``(N, T)``, so that they travel together."""
    return images.to(device, non_blocking=True), net.packing.stack(targets).to(device, non_blocking=True)
