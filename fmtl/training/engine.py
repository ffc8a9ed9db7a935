"""The training loop in plain torch: no MLflow, no files, no printing.

``fit`` is a generator, so the caller logs, saves and stops between epochs. Nothing is read back from the
device inside an epoch that it has to be waited for. N images, T tasks, K classes of a task, S classes of all tasks.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import CutMix, MixUp

from fmtl import interruption
from fmtl.errors import Diverged
from fmtl.loading.batches import Batch
from fmtl.loading.pacing import Loader, Paced, Watch, unwatched
from fmtl.model.network import MultiTaskNet
from fmtl.together import collectives
from fmtl.training.criterion import MultiTaskLoss
from fmtl.training.evaluating import Evaluation, evaluate, to_device
from fmtl.training.optim import Recipe, Updater
from fmtl.training.position import Position
from fmtl.training.skipping import MOST_IN_A_ROW, Guard, SkippedStep, Trial


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
        num_skipped: Steps that were not taken, since the loss or the gradient was not finite.
    """

    epoch: int
    train_loss: float
    val: Evaluation
    learning_rates: dict[str, float]
    images_per_second: float
    data_share: float
    epoch_seconds: float
    num_skipped: int = 0


def _as_it_is(step: SkippedStep) -> SkippedStep:
    return step


@dataclass(frozen=True)
class Between:
    """What is between the steps of an epoch.

    Attributes:
        position: Kept true; where it comes from an earlier process, its epoch goes on from there.
        at_step: Called after every step and every batch of the validation, when ``position`` and weights agree.
        on_skip: Called with every step that is not taken, since its loss or gradient is not finite; returns it with
            what else is known of it.
    """

    position: Position
    at_step: Callable[[], object] = lambda: None
    on_skip: Callable[[SkippedStep], SkippedStep] = _as_it_is


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
    between: Between | None = None,
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
    between = between or Between(Position(device))
    position = between.position
    whole = collectives.averaging(_Whole(net, loss), device)
    images_in = getattr(train_loader, "images_in", None)
    for epoch in epochs or range(1, recipe.epochs + 1):
        position.begin(epoch, recipe.seed)
        if hasattr(train_loader, "set_epoch"):
            train_loader.set_epoch(epoch)
        paced = Paced(_rest(train_loader, position.num_batches))
        train_loss = train_one_epoch(
            net, watch(paced, f"epoch {epoch}"), recipe=recipe, updater=updater, loss=loss, device=device, whole=whole,
            between=replace(between, on_skip=partial(_named, train_loader, between.on_skip)), images_in=images_in,
        )  # fmt: skip
        images_per_second, data_share = collectives.total(paced.images_per_second), paced.data_share
        collectives.spread_buffers(updater.evaluated)
        if not math.isfinite(train_loss):
            raise _diverged(f"epoch {epoch}: the training loss is {train_loss}", updater)
        val = evaluate(
            updater.evaluated, val_loader, loss=loss, device=device, choose_thresholds=True,
            watch=lambda loader, what: interruption.checked(watch(loader, what), between.at_step),
        )  # fmt: skip
        if not math.isfinite(val.loss):
            raise _diverged(f"epoch {epoch}: the validation loss is {val.loss}", updater)
        result = EpochResult(
            epoch=epoch,
            train_loss=train_loss,
            val=val,
            learning_rates=updater.learning_rates,
            images_per_second=images_per_second,
            data_share=data_share,
            epoch_seconds=position.seconds,
            num_skipped=position.num_skipped,
        )
        position.end()
        yield result


def _rest(loader: Loader, num_batches: int) -> Iterable[Batch]:
    """What is left of an epoch; the loader of one that an earlier process had begun can do that."""
    return loader.after(num_batches) if num_batches and hasattr(loader, "after") else loader


def _named(loader: Loader, tell: Callable[[SkippedStep], SkippedStep], step: SkippedStep) -> SkippedStep:
    """With its photos, where the loader knows them."""
    if hasattr(loader, "paths"):
        first = step.first_batch - 1
        step = replace(step, photos=loader.paths(first, first + len(step.batches)))
    return tell(step)


def _diverged(what: str, updater: Updater) -> Diverged:
    rates = ", ".join(f"{name} {rate:.2g}" for name, rate in updater.learning_rates.items())
    return Diverged(
        f"{what} (learning rates now: {rates}); lower learning_rate, or use mode=tuned, which clips gradients"
    )


class _Whole(nn.Module):
    """Images and targets to what ``MultiTaskLoss`` gives: all that a gradient passes."""

    def __init__(self, net: MultiTaskNet, loss: MultiTaskLoss):
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self.loss(self.net.logits(images), targets)


def train_one_epoch(
    net: MultiTaskNet,
    loader: Iterable[Batch],
    *,
    recipe: Recipe,
    updater: Updater,
    loss: MultiTaskLoss,
    device: torch.device,
    between: Between | None = None,
    whole: nn.Module | None = None,
    images_in: Callable[[int, int], int] | None = None,
) -> float:
    """One pass of updates. Returns the mean loss per image of the steps that were taken; nan where none was.

    Args:
        whole: ``_Whole`` of both, where others train it too.
        images_in: Of batches [first, last) of this epoch, where others train on shares of them too.

    Raises:
        Diverged: Too many steps in a row were not finite.
    """
    net.train()
    loss.train()
    whole = whole or _Whole(net, loss)
    mix, between = _mixing(recipe), between or Between(Position(device))
    position = between.position
    guard = Guard(net, updater.evaluated, loss, position=position, told=partial(_told, between, updater))
    for group in _groups(loader, recipe.accumulate):
        guard.begin()
        total, of_tasks, num_images = torch.zeros((), device=device), [], 0
        for number, (given_images, by_task) in enumerate(group, 1):
            images, targets = to_device(net, given_images, by_task, device)
            if mix:
                images, targets = mix(images, net.packing.shares(targets))
            with nullcontext() if number == len(group) else collectives.unaveraged(whole):
                value, losses = whole(images, targets)
                (value * collectives.size()).backward()
            first = position.num_batches + number - 1
            num = images_in(first, first + 1) if images_in else len(images)
            total += value.detach() * num
            of_tasks.append(losses.detach())
            num_images += num
        total, of_tasks = _of_all(total, of_tasks)
        is_finite = updater.step(len(group), total)
        position.stepped(len(group), torch.where(is_finite, total, 0.0))
        guard.judge(is_finite, Trial(group, of_tasks, position.num_batches, num_images))
        between.at_step()
    guard.settle()
    return position.mean_loss


def _of_all(total: Tensor, of_tasks: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """A step's losses, of which each that trains has its share."""
    if collectives.size() == 1:
        return total, of_tasks
    summed = collectives.summed(torch.cat([total.unsqueeze(0), *of_tasks]))
    return summed[0], list(summed[1:].split(len(of_tasks[0])))


def _told(between: Between, updater: Updater, step: SkippedStep) -> None:
    """Of a step that was not taken; too many of them end the training."""
    step = between.on_skip(step)
    if between.position.in_a_row >= MOST_IN_A_ROW:
        raise _diverged(f"{step}, as of {between.position.in_a_row} steps in a row", updater)


def _groups(loader: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Batches whose gradients make one step; the last of them may be fewer."""
    batches = iter(loader)
    while group := list(islice(batches, size)):
        yield group


def _mixing(recipe: Recipe) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """MixUp or CutMix of images and of ``Packing.shares``; with both set, one of them by chance per batch."""
    kinds = [kind(alpha=a) for kind, a in ((MixUp, recipe.mixup), (CutMix, recipe.cutmix)) if a]
    if not kinds:
        return None

    def mix(images: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        chosen = kinds[int(torch.randint(len(kinds), ()))] if len(kinds) > 1 else kinds[0]
        return chosen(images, shares)

    return mix
