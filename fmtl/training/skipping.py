"""Steps that are not taken, since their loss or gradient is not finite: what repeats them is all that stays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fmtl.loading.batches import Batch
from fmtl.model.network import MultiTaskNet
from fmtl.storage.records import checked
from fmtl.training import checkpoints
from fmtl.training.criterion import MultiTaskLoss
from fmtl.training.evaluating import to_device
from fmtl.training.position import Position, generators, set_generators

MOST_IN_A_ROW = 10  # then a training ends: weights that no step can move any more learn nothing
FORMAT, VERSION = "fmtl-step", 1
_FIELDS = {
    "format": str, "version": int, "epoch": int, "first_batch": int, "tasks": list, "photos": list, "model": dict,
    "loss": dict, "batches": list, "random": dict,
}  # fmt: skip


@dataclass(frozen=True)
class SkippedStep:
    """A step that was not taken.

    Attributes:
        epoch: From 1.
        first_batch: Of the step's batches, from 1.
        batches: As the loader gave them.
        tasks: Whose loss is not finite; none where only the gradient is not.
        photos: Their paths, where the loader knows them.
        random: States of torch's generators before the step.
        model: Weights and buffers before the step, on the device; on a GPU the weights may be those of one step later.
        loss: State of what was minimised.
    """

    epoch: int
    first_batch: int
    batches: Sequence[Batch]
    tasks: Sequence[str]
    photos: Sequence[str]
    random: Mapping[str, Tensor]
    model: Mapping[str, Tensor]
    loss: Mapping[str, Tensor]

    def __str__(self) -> str:
        what = f"the loss of {', '.join(self.tasks)}" if self.tasks else "the gradient"
        shown = ", ".join(self.photos[:5])
        of = f", photos {shown}{f' and {len(self.photos) - 5} more' if len(self.photos) > 5 else ''}" if shown else ""
        return f"epoch {self.epoch}, batch {self.first_batch}{of}: {what} is not finite"


@dataclass(frozen=True)
class Trial:
    """A step that was launched, and is not judged yet.

    Attributes:
        batches: As the loader gave them.
        losses: Of each of them by task, ``(T,)``.
        last_batch: From 1.
        num_images: In them.
    """

    batches: Sequence[Batch]
    losses: Sequence[Tensor]
    last_batch: int
    num_images: int


class Guard:
    """Undoes what a step changes besides the weights, where it turns out that it was not finite.

    On a GPU a step is judged when the next one is launched, so that nothing waits; the buffers of norms then go back to
    before it. On a CPU it is judged at once.

    Args:
        net: What is trained.
        evaluated: The same, or the moving average of its weights and buffers.
        position: Whose counts depend on the verdicts.
        told: Called with each step that is not finite.
    """

    def __init__(
        self,
        net: MultiTaskNet,
        evaluated: MultiTaskNet,
        loss: MultiTaskLoss,
        *,
        position: Position,
        told: Callable[[SkippedStep], object],
    ):
        self._net, self._loss, self._position, self._told = net, loss, position, told
        self._buffers = [*net.buffers(), *(evaluated.buffers() if evaluated is not net else ())]
        self._buffers.sort(key=lambda buffer: str(buffer.dtype))
        self._copies = [[buffer.clone() for buffer in self._buffers] for _ in range(2)]
        is_cuda = position.device.type == "cuda"
        self._verdicts = [torch.empty((), dtype=torch.bool, pin_memory=is_cuda) for _ in range(2)]
        self._events = [torch.cuda.Event() for _ in range(2)] if is_cuda else []
        self._slot = 0
        self._random: list[Mapping[str, Tensor]] = [{}, {}]
        self._waiting: tuple[Trial, int] | None = None
        position.settle = self.settle

    def begin(self) -> None:
        """A step begins."""
        self._slot = 1 - self._slot
        self._random[self._slot] = generators(self._position.device)
        _copy(self._copies[self._slot], self._buffers)

    def judge(self, is_finite: Tensor, trial: Trial) -> None:
        """A step was launched.

        Args:
            is_finite: 0-dimensional, on the device.
        """
        self._verdicts[self._slot].copy_(is_finite, non_blocking=True)
        if self._events:
            self._events[self._slot].record()
            self.settle()
        self._waiting = trial, self._slot
        if not self._events:
            self.settle()

    def settle(self) -> None:
        """Judge what is still to be judged."""
        if self._waiting is None:
            return
        (trial, slot), self._waiting = self._waiting, None
        if self._events:
            self._events[slot].synchronize()
        if self._verdicts[slot].numpy():
            self._position.taken(trial.num_images)
            return
        _copy(self._buffers, self._copies[slot])
        _copy(self._copies[1 - slot], self._copies[slot])  # of a step that has begun meanwhile
        self._position.skipped()
        self._told(self._skipped(trial, slot))

    def _skipped(self, trial: Trial, slot: int) -> SkippedStep:
        finite = torch.stack(list(trial.losses)).isfinite().all(dim=0).tolist()
        tasks = [name for name, good in zip(self._net.num_classes, finite, strict=True) if not good]
        first = trial.last_batch - len(trial.batches) + 1
        return SkippedStep(
            self._position.epoch, first, trial.batches, tasks, (), self._random[slot], self._net.state_dict(),
            self._loss.state_dict(),
        )  # fmt: skip


def _copy(to: list[Tensor], of: list[Tensor]) -> None:
    """In one kernel per type: both are sorted by it."""
    for _, pairs in groupby(zip(to, of, strict=True), key=lambda pair: pair[0].dtype):
        targets, sources = zip(*pairs, strict=True)
        torch._foreach_copy_(list(targets), list(sources))


def save(path: Path, step: SkippedStep) -> None:
    """Write all that it takes to repeat a step, to a file that ``replay`` reads."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "epoch": step.epoch,
        "first_batch": step.first_batch,
        "tasks": list(step.tasks),
        "photos": list(step.photos),
        "model": {name: value.detach().cpu() for name, value in step.model.items()},
        "loss": {name: value.detach().cpu() for name, value in step.loss.items()},
        "batches": [(images.cpu(), {name: part.cpu() for name, part in targets.items()})
                    for images, targets in step.batches],
        "random": dict(step.random),
    }  # fmt: skip
    checkpoints.write_sealed(path, content)


def replay(path: Path, net: MultiTaskNet, loss: MultiTaskLoss, device: torch.device) -> dict[str, float]:
    """The losses by task of a skipped step, computed again; its gradients are in ``net`` afterwards.

    Batches are taken as the loader gave them: of a recipe with MixUp or CutMix, before the mixing.

    Args:
        net, loss: Built as for the training; their state becomes that of the step.
    """
    content = checked(checkpoints.read_sealed(path), _FIELDS, where=str(path))
    net.load_state_dict(content["model"])
    loss.load_state_dict(content["loss"])
    net.train()
    loss.train()
    set_generators(content["random"], device)
    found: Any = 0.0
    for given, by_task in content["batches"]:
        images, targets = to_device(net, given, by_task, device)
        value, of_tasks = loss(net.logits(images), targets)
        value.backward()
        found = found + of_tasks.detach() / len(content["batches"])
    return dict(zip(net.num_classes, found.tolist(), strict=True))
