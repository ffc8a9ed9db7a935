"""Per-task losses over the rows that have the label. N images, K classes of a task."""

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

from fmtl.tasks import IGNORE_INDEX

Criterion = Callable[[Tensor, Tensor], Tensor]


def masked_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the rows with a target; 0 where there is none (plain PyTorch gives nan).

    Args:
        logits: ``(N, K)``.
        targets: ``(N,)`` int64, ``IGNORE_INDEX`` where unknown.
    """
    total = F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (targets != IGNORE_INDEX).sum().clamp(min=1)


def task_losses(
    logits: Mapping[str, Tensor], targets: Mapping[str, Tensor], criterions: Mapping[str, Criterion]
) -> dict[str, Tensor]:
    """A scalar loss by task name.

    Args:
        criterions: By task name; called with the rows that have the label only, so that any loss will do. Tasks
            without one use ``masked_cross_entropy``, which gets all rows and no copy.
    """
    losses = {}
    for name, task_logits in logits.items():
        criterion = criterions.get(name)
        if criterion is None:
            losses[name] = masked_cross_entropy(task_logits, targets[name])
            continue
        known = targets[name] != IGNORE_INDEX
        chosen = task_logits[known]
        losses[name] = criterion(chosen, targets[name][known]) if len(chosen) else chosen.sum()
    return losses


def total_loss(losses: Mapping[str, Tensor]) -> Tensor:
    """The scalar differentiated: the sum over tasks."""
    return sum(losses.values())
