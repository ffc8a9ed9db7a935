"""Several tasks' classes in one tensor, so that no work is repeated per task.

N images, T tasks, K classes of the task with the most, S classes of all tasks together.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fmtl.tasks import IGNORE_INDEX


class Packing(nn.Module):
    """Where each task's classes lie in ``(N, S)``, tasks one after the other, and in ``(N, T, K)``, padded.

    Args:
        num_classes: By task name.
    """

    columns: Tensor

    def __init__(self, num_classes: Mapping[str, int]):
        super().__init__()
        self.num_classes = dict(num_classes)
        self.most = max(self.num_classes.values())
        columns = [t * self.most + k for t, size in enumerate(self.num_classes.values()) for k in range(size)]
        self.register_buffer("columns", torch.tensor(columns), persistent=False)

    def stack(self, targets: Mapping[str, Tensor]) -> Tensor:
        """``(N,)`` int64 by task name to ``(N, T)``."""
        return torch.stack([targets[name] for name in self.num_classes], dim=1)

    def split(self, logits: Tensor) -> dict[str, Tensor]:
        """``(N, S)`` to ``(N, classes of the task)`` by task name."""
        return dict(zip(self.num_classes, logits.split(list(self.num_classes.values()), dim=1), strict=True))

    def pad(self, logits: Tensor) -> Tensor:
        """``(N, S)`` to ``(N, T, K)``; classes that a task does not have get -inf."""
        empty = logits.new_full((len(logits), len(self.num_classes) * self.most), float("-inf"))
        return empty.index_copy(1, self.columns, logits).view(len(logits), -1, self.most)

    def one_hot(self, targets: Tensor) -> Tensor:
        """``one_hot`` of these tasks: ``(N, T)`` to ``(N, T, K)``."""
        return one_hot(targets, self.most)


def one_hot(targets: Tensor, most: int) -> Tensor:
    """``(N, T)`` int64 to ``(N, T, most)`` float32, all zeros where the target is unknown.

    ``torch.nn.functional.one_hot`` reads the values back to check them.
    """
    known = (targets != IGNORE_INDEX).float().unsqueeze(2)
    return known.new_zeros(*targets.shape, most).scatter_(2, targets.clamp(min=0).unsqueeze(2), known)
