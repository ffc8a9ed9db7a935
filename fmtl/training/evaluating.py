"""A network's losses, counts and probabilities over a loader. N images, T tasks, K classes of a task."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from operator import length_hint

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from fmtl.loading.batches import Batch
from fmtl.loading.pacing import Paced, Watch, unwatched
from fmtl.model import decisions
from fmtl.model.confidence import calibration, temperature
from fmtl.model.network import MultiTaskNet
from fmtl.tasks import IGNORE_INDEX, Tasks
from fmtl.together import collectives
from fmtl.training import metrics
from fmtl.training.criterion import MultiTaskLoss

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """A network's performance on one split.

    Attributes:
        loss: Sum over tasks of ``task_losses``; a task without targets adds nothing, a nan stays nan.
        task_losses: Mean over the labelled images, by task name; nan without any.
        confusion: ``(K, K)`` int64 by task name, sparse where K is large; see ``confusions``. Of a set ``(K, 2, 2)``.
        probs: ``(N, K)`` float32 by task name, in the loader's order.
        targets: ``(N,)`` int64 by task name; of a set ``(N, K)``, 1 for each value that an image has.
        own: Names of the tasks that have a criterion of their own.
        not_averaged: Names of the tasks that averages leave out: those that say whether an attribute applies.
        thresholds: ``(K,)`` float32 by name of each set, that its values were told by.
    """

    loss: float
    task_losses: dict[str, float]
    confusion: dict[str, metrics.Confusion]
    probs: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]
    own: frozenset[str] = frozenset()
    not_averaged: frozenset[str] = frozenset()
    thresholds: dict[str, np.ndarray] = field(default_factory=dict)

    def predicted(self, name: str) -> np.ndarray:
        """What a task's images are said to be, as ``targets`` has it."""
        probs = self.probs[name]
        return (probs >= self.thresholds[name]).astype(np.int64) if name in self.thresholds else probs.argmax(axis=1)

    def mistakes(self, name: str) -> metrics.Confusion:
        """Images ``(K, K)`` of one class (rows) for which another was said (columns), of a set in its place."""
        if name in self.thresholds:
            return metrics.set_mistakes(self.predicted(name), self.targets[name])
        return self.confusion[name]

    @cached_property
    def temperatures(self) -> dict[str, temperature.Fit]:
        """The best temperature by name of the tasks that cross-entropy is for."""
        return {
            name: temperature.fit_set(probs, self.targets[name])
            if name in self.thresholds
            else temperature.fit(probs, self.targets[name])
            for name, probs in self.probs.items()
            if name not in self.own
        }

    def rescaled(self, temperatures: Mapping[str, float], thresholds: Mapping[str, np.ndarray]) -> "Evaluation":
        """The same under temperatures by task name, which its losses are not.

        Args:
            thresholds: Of sets, where they move along.
        """
        changed = {
            name: temperature.rescaled(self.probs[name], value, is_set=name in self.thresholds)
            for name, value in temperatures.items()
        }
        return replace(self, probs=self.probs | changed, thresholds=self.thresholds | dict(thresholds))

    def reliability(self, name: str) -> dict:
        """How true a task's confidences are; see ``calibration``."""
        judge = calibration.of_set if name in self.thresholds else calibration.calibration
        return judge(self.probs[name], self.targets[name])

    def calibration_error(self, name: str) -> float | None:
        """None without any label."""
        return self.reliability(name)["ece"]

    def averaged_over(self, tasks: Tasks) -> "Evaluation":
        """The same, with averages over the attributes among tasks."""
        return replace(self, not_averaged=frozenset(tasks.names).difference(tasks.attributes))

    @property
    def refined_loss(self) -> float:
        """``loss`` under those temperatures: what over-confidence costs is left out of it."""
        losses = self.task_losses | {name: found.loss for name, found in self.temperatures.items()}
        return sum(losses[name] for name, targets in self.targets.items() if (targets != IGNORE_INDEX).any())

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """Accuracy, f1, precision, recall by task name and under ``avg``; see ``metrics.set_metrics`` for sets."""
        return metrics.with_average(
            {
                name: metrics.set_metrics(self.predicted(name), self.targets[name])
                if name in self.thresholds
                else metrics.task_metrics(confusion)
                for name, confusion in self.confusion.items()
            },
            self.not_averaged,
        )


@torch.no_grad()
def evaluate(
    net: MultiTaskNet,
    loader: Iterable[Batch],
    *,
    loss: MultiTaskLoss,
    device: torch.device,
    watch: Watch = unwatched,
    choose_thresholds: bool = False,
) -> Evaluation:
    """Losses, confusion counts and probabilities over a loader, in its order.

    What is kept of a batch are its probabilities, and the logits of tasks with a criterion of their own, which is
    called once with all of them. Of processes that train together each does its share of every batch, and all of them
    have what one alone would have.

    Args:
        choose_thresholds: The network's thresholds of sets become those that are best on these images.
    """
    net.eval()
    loss.eval()
    num_batches, fitting = length_hint(loader), _Parts(net)
    probs = {name: _Rows(num_batches) for name in net.num_classes}
    own: dict[str, list[Tensor]] = {name: [] for name in loss.criterions}
    all_targets, all_predicted = _Rows(num_batches), _Rows(num_batches)
    sums = torch.zeros(sum(net.packing.widths.values()), dtype=torch.float64, device=device)
    for given_images, by_task in watch(Paced(loader), "evaluate"):
        images, targets = to_device(net, given_images, by_task, device)
        logits = fitting.logits(images)
        sums += loss.plain(logits, targets).double() * (targets != IGNORE_INDEX).sum(dim=0)
        all_targets.add(targets)
        all_predicted.add(net.packing.likeliest(logits))
        of_task = net.packing.split(logits)
        for name, part in net.probs(of_task).items():
            probs[name].add(part)
        for name, parts in own.items():
            parts.append(of_task[name])
    together = _in_order(loader)
    targets, sums = together(all_targets.all()), collectives.summed(sums)
    by_task = net.packing.by_task(targets)
    losses = _by_task(net, sums, targets)
    losses |= {
        name: float(loss.criterion(name, together(torch.cat(parts)), by_task[name])) for name, parts in own.items()
    }
    return _summed_up(
        net, {name: together(rows.all()).cpu().numpy() for name, rows in probs.items()}, by_task,
        together(all_predicted.all()), own=own,
        choose_thresholds=choose_thresholds, losses=losses,
    )  # fmt: skip


def _in_order(loader: Iterable[Batch]) -> Callable[[Tensor], Tensor]:
    """Rows of this process to rows of all, in the order of one that is alone."""
    if collectives.size() == 1:
        return lambda rows: rows
    return partial(collectives.in_order, positions=loader.positions())  # type: ignore[attr-defined]


def _by_task(net: MultiTaskNet, sums: Tensor, targets: Tensor) -> dict[str, float]:
    """Losses from sums of columns ``(C,)``: of each the mean, and of a set the sum over its values."""
    means = (sums / (targets != IGNORE_INDEX).sum(dim=0).clamp(min=1)).float()
    parts = means.split(list(net.packing.widths.values()))
    return {name: float(part.sum()) for name, part in zip(net.num_classes, parts, strict=True)}


def _summed_up(
    net: MultiTaskNet,
    probs: dict[str, np.ndarray],
    targets: Mapping[str, Tensor],
    predicted: Tensor,
    *,
    losses: dict[str, float],
    own: Iterable[str],
    choose_thresholds: bool,
) -> Evaluation:
    wanted = {name: part.cpu().numpy() for name, part in targets.items()}
    known = {name for name, part in wanted.items() if (part != IGNORE_INDEX).any()}
    for name, of_net in net.thresholds_of.items() if choose_thresholds else ():
        of_net.copy_(torch.from_numpy(decisions.best_thresholds(probs[name], wanted[name])))
    chosen = {name: values.cpu().numpy().copy() for name, values in net.thresholds_of.items()}
    singles = {name: size for name, size in net.num_classes.items() if name not in chosen}
    counts: dict[str, metrics.Confusion] = {}
    if singles:
        counts = confusions(predicted, torch.stack([targets[name] for name in singles], dim=1), singles)
    for name, values in chosen.items():
        counts[name] = metrics.set_confusion(probs[name] >= values, wanted[name])
    return Evaluation(
        loss=sum(value for name, value in losses.items() if name in known),
        task_losses={name: value if name in known else math.nan for name, value in losses.items()},
        confusion={name: counts[name] for name in net.num_classes},
        probs=probs,
        targets=wanted,
        own=frozenset(own),
        thresholds=chosen,
    )


def of_probs(
    probs: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray], thresholds: Mapping[str, np.ndarray]
) -> Evaluation:
    """An evaluation of what a model said of images, as ``Evaluation`` has it; its losses are those of the probabilities
    as they are."""
    known = {name for name, part in targets.items() if (part != IGNORE_INDEX).any()}
    losses = dict.fromkeys(probs, math.nan)
    for name in known:
        size = probs[name].shape[1] if name in thresholds else 1  # a set's is the sum over its values
        losses[name] = temperature.loss(probs[name], targets[name], 1.0) * size
    counts: dict[str, metrics.Confusion] = {}
    for name, part in probs.items():
        if name in thresholds:
            counts[name] = metrics.set_confusion(part >= thresholds[name], targets[name])
        else:
            predicted, wanted = (torch.from_numpy(v)[:, None] for v in (part.argmax(axis=1), targets[name]))
            counts |= confusions(predicted, wanted, {name: part.shape[1]})
    return Evaluation(
        loss=sum(losses[name] for name in known),
        task_losses=losses,
        confusion=counts,
        probs=dict(probs),
        targets=dict(targets),
        thresholds=dict(thresholds),
    )


class _Parts:
    """A network's answers in as many parts of a batch as the device's memory asks for: without gradients they come to
    the same."""

    def __init__(self, net: MultiTaskNet):
        self._net, self._most = net, 0  # images at once; 0: not known to be limited

    def logits(self, images: Tensor) -> Tensor:
        while True:
            try:
                return torch.cat([self._net.logits(part) for part in images.split(self._most or len(images))])
            except torch.OutOfMemoryError:
                if self._most == 1 or len(images) == 1:
                    raise
            # Not while the error is handled: it holds what there was no memory for.
            tried = min(self._most or len(images), len(images))
            self._most = -(-tried // 2)
            log.info("too little memory to evaluate %d images at once: %d are taken at a time", tried, self._most)


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


def confusions(predicted: Tensor, targets: Tensor, num_classes: Mapping[str, int]) -> dict[str, metrics.Confusion]:
    """Confusion counts of all tasks, those of usual size made on the device in one go and read from it once.

    Args:
        predicted: ``(N, T)`` int64, class indices.
        targets: ``(N, T)`` int64; where ``IGNORE_INDEX`` nothing is counted.
        num_classes: By task name, in the order of T.

    Returns:
        ``(classes, classes)`` int64 by task name; sparse above ``metrics.LARGEST_DENSE`` classes.
    """
    sizes = list(num_classes.values())
    dense = [t for t, size in enumerate(sizes) if size <= metrics.LARGEST_DENSE]
    starts = np.cumsum([0, *(sizes[t] ** 2 for t in dense)])
    width, start = torch.tensor([sizes[t] for t in dense]), torch.from_numpy(starts[:-1])
    known = targets != IGNORE_INDEX
    cells = start.to(targets.device) + targets[:, dense].clamp(min=0) * width.to(targets.device) + predicted[:, dense]
    counts = torch.zeros(int(starts[-1]), dtype=torch.int64, device=targets.device)
    counts.scatter_add_(0, cells.flatten(), known[:, dense].flatten().to(torch.int64))
    flat = counts.cpu().numpy()
    found: dict[str, metrics.Confusion] = {}
    for t, (name, size) in enumerate(num_classes.items()):
        if t in dense:
            at = starts[dense.index(t)]
            found[name] = flat[at : at + size**2].reshape(size, size)
        else:
            rows, columns = targets[known[:, t], t].cpu().numpy(), predicted[known[:, t], t].cpu().numpy()
            found[name] = csr_array((np.ones(len(rows), np.int64), (rows, columns)), shape=(size, size))
    return found


def to_device(
    net: MultiTaskNet, images: Tensor, targets: Mapping[str, Tensor], device: torch.device
) -> tuple[Tensor, Tensor]:
    """A batch on the device; targets of all tasks in one tensor ``(N, T)``, so that they travel together."""
    return images.to(device, non_blocking=True), net.packing.stack(targets).to(device, non_blocking=True)
