"""The loss that is trained on, and the one that epochs are chosen by.

N images, S classes and values of all tasks, C columns of targets: one of each task, or of each value of a set.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from fmtl.errors import FmtlError, UsageError
from fmtl.model.packing import Packing
from fmtl.tasks import IGNORE_INDEX
from fmtl.together import collectives

Criterion = Callable[[Tensor, Tensor], Tensor]


class MultiTaskLoss(nn.Module):
    """Cross-entropy per task over the rows that have the label, and their weighted sum.

    Of a set it is the sum of the binary cross-entropies of its values, each over the rows where it is known: like a
    single label's it is in nats per image, and where the base rates are all that is known it is at most 1 nat larger
    than that of one label with the same rates.

    Of processes that train together each has its share of the loss, and all shares together are the loss of the whole
    batch: means are over what is known in it, wherever it lies.

    In evaluation mode it is the plain sum of plain cross-entropies, so that losses of runs with other weights
    can be compared; a user's criterion is used in both modes.

    Args:
        num_classes: By task name.
        sets: Names of the tasks that are sets.
        criterions: A loss by task name, called with logits ``(n, classes)`` and targets ``(n,)`` of the rows that
            have the label, of a set ``(n, values)`` float32; the other tasks use cross-entropy.
        class_weights: ``(classes,)`` by task name; as in ``torch.nn.CrossEntropyLoss``. Of a set ``(values, 2)``: of
            the images that have a value, and of those that don't.
        task_weights: Factor by task name, 1 for the others.
        learn_task_weights: Weigh by learnt uncertainty: Kendall et al. 2018, arXiv:1705.07115, equation 10.
        label_smoothing: Share of each target that is spread evenly over its task's classes; the values of a set become
            what a class would. A row counts by the weight of its own class; torch, with both, weighs what is spread by
            each class's weight, and so leads the network towards rare classes.
    """

    class_weights: Tensor
    exists: Tensor
    smoothing: Tensor
    answer_weights: Tensor
    answer_smoothing: Tensor
    task_weights: Tensor

    def __init__(
        self,
        num_classes: Mapping[str, int],
        sets: Collection[str] = (),
        *,
        criterions: Mapping[str, Criterion] | None = None,
        class_weights: Mapping[str, Tensor] | None = None,
        task_weights: Mapping[str, float] | None = None,
        learn_task_weights: bool = False,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        self.num_classes, self.criterions = dict(num_classes), dict(criterions or {})
        # Known to torch, so that weights which they hold move to the device.
        self._modules_given = nn.ModuleList(c for c in self.criterions.values() if isinstance(c, nn.Module))
        self.packing = Packing(num_classes, sets)
        given = class_weights or {}
        for name, value in (*self._of_singles(given, label_smoothing), *self._of_sets(given, label_smoothing)):
            self.register_buffer(name, value, persistent=False)
        factors = torch.tensor([(task_weights or {}).get(name, 1.0) for name in num_classes])
        self.register_buffer("task_weights", factors, persistent=False)
        self.label_smoothing = label_smoothing
        self.log_variances = nn.Parameter(torch.zeros(len(factors))) if learn_task_weights else None

    def _of_singles(self, class_weights: Mapping[str, Tensor], label_smoothing: float) -> list[tuple[str, Tensor]]:
        sizes = {name: size for name, size in self.num_classes.items() if name not in self.packing.sets}
        weights = torch.ones(len(sizes), self.packing.most)
        for t, name in enumerate(sizes):
            if name in class_weights:
                weights[t, : sizes[name]] = class_weights[name]
        num = torch.tensor(list(sizes.values())).unsqueeze(1)
        exists = torch.arange(self.packing.most) < num
        return [("class_weights", weights), ("exists", exists), ("smoothing", exists * (label_smoothing / num))]

    def _of_sets(self, class_weights: Mapping[str, Tensor], label_smoothing: float) -> list[tuple[str, Tensor]]:
        sizes = {name: size for name, size in self.num_classes.items() if name in self.packing.sets}
        weights = [class_weights.get(name, torch.ones(size, 2)) for name, size in sizes.items()]
        spread = [torch.full((size,), label_smoothing / max(size, 2)) for size in sizes.values()]
        yes = torch.cat([torch.zeros(0), *spread])
        return [
            ("answer_weights", torch.cat([torch.zeros(0, 2), *weights])),
            ("answer_smoothing", torch.stack([yes, label_smoothing - yes], dim=1)),
        ]

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The scalar differentiated, and the loss of each task; 0 for a task without any target.

        Args:
            logits: ``(N, S)``.
            targets: ``(N, C)`` int64, ``IGNORE_INDEX`` where unknown; or what ``Packing.shares`` makes of them.
        """
        shares = targets if targets.is_floating_point() else self.packing.shares(targets)
        losses = self._of_tasks(self._cross_entropies(logits, shares))
        if self.criterions:
            losses = self._with_criterions(losses, logits, targets)
        return self._total(losses, shares), losses

    def plain(self, logits: Tensor, targets: Tensor) -> Tensor:
        """In evaluation mode: cross-entropies ``(C,)``, each the mean over the rows that have the label; 0 without any.

        Args:
            logits, targets: As of ``forward``.
        """
        return self._cross_entropies(logits, self.packing.shares(targets))

    def criterion(self, name: str, logits: Tensor, targets: Tensor) -> Tensor:
        """A user's criterion of one task, a scalar, over the rows that have the label; 0 without any.

        Args:
            logits: ``(N, classes)``.
            targets: ``(N,)`` int64, ``IGNORE_INDEX`` where unknown; of a set ``(N, values)``, of which rows that are
                known in part are left out.
        """
        if name in self.packing.sets:
            known, targets = (targets != IGNORE_INDEX).all(dim=1), targets.float()
        else:
            known = targets != IGNORE_INDEX
        chosen = logits[known]
        return self._criterion(name, chosen, targets[known]) if len(chosen) else chosen.sum()

    def _cross_entropies(self, logits: Tensor, shares: Tensor) -> Tensor:
        """``(C,)``; for index targets the same numbers as ``torch.nn.functional.cross_entropy``, except 0 for nan."""
        packing = self.packing
        classes, answers = packing.masses(shares)
        if not packing.num_singles:
            return self._of_answers(logits, answers)
        log_probs = packing.pad(logits).float().log_softmax(dim=2).masked_fill(~self.exists, 0.0)
        of_singles = self._means(log_probs, classes, self.class_weights, self.smoothing)
        if not packing.sets:
            return of_singles
        found = of_singles.new_empty(len(packing.singles) + len(packing.questions))
        found = found.index_copy(0, packing.singles, of_singles)
        return found.index_copy(0, packing.questions, self._of_answers(logits, answers))

    def _of_answers(self, logits: Tensor, answers: Tensor) -> Tensor:
        """Binary cross-entropies ``(V,)`` of the values of all sets."""
        of_values = logits[:, self.packing.values].float()
        log_probs = torch.stack([logsigmoid(of_values), logsigmoid(-of_values)], dim=2)
        return self._means(log_probs, answers, self.answer_weights, self.answer_smoothing)

    def _means(self, log_probs: Tensor, mass: Tensor, weights: Tensor, smoothing: Tensor) -> Tensor:
        """Cross-entropies ``(columns,)`` of ``(N, columns, classes)``, each a mean over what is known."""
        if self.training:
            mass = mass * weights
            of_row = mass.sum(dim=2, keepdim=True)
            mass = (1 - self.label_smoothing) * mass + of_row * smoothing
        total = self._of_all(mass.sum(dim=(0, 2)))
        losses = -(mass * log_probs).sum(dim=(0, 2))
        return losses / torch.where(total > 0, total, 1.0)

    def _of_all(self, amounts: Tensor) -> Tensor:
        """Of all that train together."""
        return collectives.summed(amounts) if self.training else amounts

    def _of_tasks(self, columns: Tensor) -> Tensor:
        """``(C,)`` to a sum for each task."""
        if not self.packing.sets:
            return columns
        return torch.stack([part.sum() for part in columns.split(list(self.packing.widths.values()))])

    def _with_criterions(self, losses: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        parts = list(losses.unbind())
        by_task, of_task = self.packing.by_task(targets), self.packing.split(logits)
        for t, name in enumerate(self.num_classes):
            if name in self.criterions:
                parts[t] = self.criterion(name, of_task[name], by_task[name])
        return torch.stack(parts)

    def _criterion(self, name: str, logits: Tensor, targets: Tensor) -> Tensor:
        try:
            found = self.criterions[name](logits, targets)
        except (FmtlError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the user's own code
            raise UsageError(f"criterions: {name}: {type(error).__name__}: {error}") from error
        if not isinstance(found, Tensor) or found.ndim:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UsageError(f"criterions: {name}: expected a tensor of one number, got {got}; reduce it in torch")
        return found.float()

    def _total(self, losses: Tensor, shares: Tensor) -> Tensor:
        if not self.training:
            return losses.sum()
        if self.log_variances is None:
            return (losses * self.task_weights).sum()
        present = self._present(shares)
        halves = self.log_variances / 2 / collectives.size()
        return ((losses * (-self.log_variances).exp() + halves) * self.task_weights * present).sum()

    def _present(self, shares: Tensor) -> Tensor:
        """Whether a task has any target, ``(tasks,)``."""
        classes, answers = (mass.sum(dim=(0, 2)) for mass in self.packing.masses(shares))
        columns = classes.new_zeros(len(classes) + len(answers))
        columns = columns.index_copy(0, self.packing.singles, classes).index_copy(0, self.packing.questions, answers)
        return self._of_tasks(self._of_all(columns)) > 0


def class_weights(counts: Tensor, power: float) -> Tensor:
    """Weights ``(K,)`` proportional to ``counts ** -power``, whose mean over the images is 1.

    Args:
        counts: Training images of each class, ``(K,)``; a class without any gets the largest weight.
        power: 0 for equal weights, 1 for what scikit-learn calls balanced.
    """
    weights = counts.float().clamp(min=1) ** -power
    return weights * counts.sum().clamp(min=1) / (weights * counts).sum().clamp(min=1e-12)


def answer_weights(counts: Tensor, power: float) -> Tensor:
    """``class_weights`` of the yes and no of each value of a set, ``(K, 2)``.

    Args:
        counts: Training images that have it, and that don't, ``(K, 2)``.
    """
    return torch.stack([class_weights(of_value, power) for of_value in counts])


def answer_counts(targets: Tensor) -> Tensor:
    """Images with and without each value of a set, ``(K, 2)``, of targets ``(N, K)``."""
    return torch.stack([(targets == answer).sum(dim=0) for answer in (1, 0)], dim=1)


@dataclass(frozen=True, kw_only=True)
class LossPlan:
    """How tasks, classes and labels count in training.

    Attributes:
        class_weights: Power of 1 / frequency that a class counts by; 0 for all alike, 1 for balanced.
        task_weights: Factor by task name, 1 for the others.
        learn_task_weights, label_smoothing: See ``MultiTaskLoss``.
    """

    class_weights: float
    label_smoothing: float
    task_weights: Mapping[str, float] = field(default_factory=dict)
    learn_task_weights: bool = False


def from_plan(
    plan: LossPlan,
    num_classes: Mapping[str, int],
    sets: Collection[str] = (),
    *,
    counts: Mapping[str, Tensor],
    criterions: Mapping[str, Criterion] | None = None,
) -> MultiTaskLoss:
    """The loss of a plan.

    Args:
        counts: Training images of each class by task name, ``(K,)``, or of a set with and without each value,
            ``(K, 2)``; needed where classes are weighed.
    """
    power = plan.class_weights
    weigh = {name: answer_weights if name in sets else class_weights for name in num_classes}
    return MultiTaskLoss(
        num_classes,
        sets,
        criterions=criterions,
        class_weights={name: weigh[name](found, power) for name, found in counts.items()} if power else {},
        task_weights=plan.task_weights,
        learn_task_weights=plan.learn_task_weights,
        label_smoothing=plan.label_smoothing,
    )
