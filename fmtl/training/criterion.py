"""The loss that is trained on, and the one that epochs are chosen by.

N images, T tasks, K classes of the task with the most.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fmtl.errors import FmtlError, UsageError
from fmtl.model.packing import one_hot
from fmtl.tasks import IGNORE_INDEX

Criterion = Callable[[Tensor, Tensor], Tensor]


class MultiTaskLoss(nn.Module):
    """Cross-entropy per task over the rows that have the label, and their weighted sum.

    In evaluation mode it is the plain sum of plain cross-entropies, so that losses of runs with other weights
    can be compared; a user's criterion is used in both modes.

    Args:
        num_classes: By task name.
        criterions: A loss by task name, called with logits ``(n, classes)`` and targets ``(n,)`` of the rows that
            have the label; the other tasks use cross-entropy.
        class_weights: ``(classes,)`` by task name; as in ``torch.nn.CrossEntropyLoss``.
        task_weights: Factor by task name, 1 for the others.
        learn_task_weights: Weigh by learnt uncertainty: Kendall et al. 2018, arXiv:1705.07115, equation 10.
        label_smoothing: Share of each target that is spread evenly over its task's classes. A row counts by the weight
            of its own class; torch, with both, weighs what is spread by each class's weight, and so leads the network
            towards rare classes.
    """

    class_weights: Tensor
    exists: Tensor
    smoothing: Tensor
    task_weights: Tensor

    def __init__(
        self,
        num_classes: Mapping[str, int],
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
        sizes, most = torch.tensor(list(num_classes.values())), max(num_classes.values())
        weights = torch.ones(len(sizes), most)
        for t, name in enumerate(num_classes):
            if class_weights and name in class_weights:
                weights[t, : num_classes[name]] = class_weights[name]
        exists = torch.arange(most) < sizes.unsqueeze(1)
        self.register_buffer("class_weights", weights, persistent=False)
        self.register_buffer("exists", exists, persistent=False)
        self.register_buffer("smoothing", exists * (label_smoothing / sizes).unsqueeze(1), persistent=False)
        factors = torch.tensor([(task_weights or {}).get(name, 1.0) for name in num_classes])
        self.register_buffer("task_weights", factors, persistent=False)
        self.label_smoothing = label_smoothing
        self.log_variances = nn.Parameter(torch.zeros(len(sizes))) if learn_task_weights else None

    def forward(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The scalar differentiated, and the loss of each task, ``(T,)``; 0 for a task without any target.

        Args:
            logits: ``(N, T, K)``, -inf for classes that a task does not have.
            targets: ``(N, T)`` int64, ``IGNORE_INDEX`` where unknown; or ``(N, T, K)`` shares, all 0 where unknown.
        """
        shares = one_hot(targets, logits.shape[2]) if targets.ndim == 2 else targets
        losses = self._cross_entropies(logits, shares)
        if self.criterions:
            losses = self._with_criterions(losses, logits, targets)
        return self._total(losses, shares), losses

    def plain(self, logits: Tensor, targets: Tensor) -> Tensor:
        """In evaluation mode: cross-entropies ``(T,)``, each the mean over the rows that have the label; 0 without any.

        Args:
            logits, targets: As of ``forward``.
        """
        return self._cross_entropies(logits, one_hot(targets, logits.shape[2]))

    def criterion(self, name: str, logits: Tensor, targets: Tensor) -> Tensor:
        """A user's criterion of one task, a scalar, over the rows that have the label; 0 without any.

        Args:
            logits: ``(N, classes)``.
            targets: ``(N,)`` int64, ``IGNORE_INDEX`` where unknown.
        """
        known = targets != IGNORE_INDEX
        chosen = logits[known]
        return self._criterion(name, chosen, targets[known]) if len(chosen) else chosen.sum()

    def _cross_entropies(self, logits: Tensor, shares: Tensor) -> Tensor:
        """``(T,)``; for index targets the same numbers as ``torch.nn.functional.cross_entropy``, except 0 for nan."""
        log_probs = logits.float().log_softmax(dim=2).masked_fill(~self.exists, 0.0)
        mass = shares
        if self.training:
            mass = mass * self.class_weights
            of_row = mass.sum(dim=2, keepdim=True)
            mass = (1 - self.label_smoothing) * mass + of_row * self.smoothing
        total = mass.sum(dim=(0, 2))
        losses = -(mass * log_probs).sum(dim=(0, 2))
        return losses / torch.where(total > 0, total, 1.0)

    def _with_criterions(self, losses: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        parts = list(losses.unbind())
        for t, (name, size) in enumerate(self.num_classes.items()):
            if name in self.criterions:
                parts[t] = self.criterion(name, logits[:, t, :size], targets[:, t])
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
        present = shares.sum(dim=(0, 2)) > 0
        return ((losses * (-self.log_variances).exp() + self.log_variances / 2) * self.task_weights * present).sum()


def class_weights(counts: Tensor, power: float) -> Tensor:
    """Weights ``(K,)`` proportional to ``counts ** -power``, whose mean over the images is 1.

    Args:
        counts: Training images of each class, ``(K,)``; a class without any gets the largest weight.
        power: 0 for equal weights, 1 for what scikit-learn calls balanced.
    """
    weights = counts.float().clamp(min=1) ** -power
    return weights * counts.sum().clamp(min=1) / (weights * counts).sum().clamp(min=1e-12)


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
    *,
    counts: Mapping[str, Tensor],
    criterions: Mapping[str, Criterion] | None = None,
) -> MultiTaskLoss:
    """The loss of a plan.

    Args:
        counts: Training images of each class by task name; needed where classes are weighed.
    """
    power = plan.class_weights
    return MultiTaskLoss(
        num_classes,
        criterions=criterions,
        class_weights={name: class_weights(found, power) for name, found in counts.items()} if power else {},
        task_weights=plan.task_weights,
        learn_task_weights=plan.learn_task_weights,
        label_smoothing=plan.label_smoothing,
    )
