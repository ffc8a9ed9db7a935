"""Several tasks' classes in one tensor, so that no work is repeated per task.

N images, T tasks of one class per image, K classes of the one with the most, V values of all sets together, S classes
and values of all tasks, C columns of targets: T + V.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from fmtl.tasks import IGNORE_INDEX


class Packing(nn.Module):
    """Where each task's classes lie in ``(N, S)``, tasks one after the other, and in ``(N, T, K)``, padded.

    A value of a set is a question of its own, with a yes and a no: two classes, the second of which has a logit of 0.

    Args:
        num_classes: By task name.
        sets: Names of the tasks that are sets.
    """

    columns: Tensor
    classes: Tensor
    values: Tensor
    singles: Tensor
    questions: Tensor

    def __init__(self, num_classes: Mapping[str, int], sets: Collection[str] = ()):
        super().__init__()
        self.num_classes = dict(num_classes)
        self.sets = frozenset(sets)
        self.widths = {name: size if name in self.sets else 1 for name, size in self.num_classes.items()}
        self.most = max((size for name, size in self.num_classes.items() if name not in self.sets), default=0)
        columns: list[int] = []
        parts: dict[str, list[int]] = {"classes": [], "values": [], "singles": [], "questions": []}
        at = column = 0
        for name, size in self.num_classes.items():
            is_set, width = name in self.sets, self.widths[name]
            parts["values" if is_set else "classes"] += range(at, at + size)
            if not is_set:
                columns += [len(parts["singles"]) * self.most + k for k in range(size)]
            parts["questions" if is_set else "singles"] += range(column, column + width)
            at, column = at + size, column + width
        for name, indices in ({"columns": columns} | parts).items():
            self.register_buffer(name, torch.tensor(indices, dtype=torch.int64), persistent=False)

    @property
    def num_singles(self) -> int:
        return len(self.num_classes) - len(self.sets)

    def stack(self, targets: Mapping[str, Tensor]) -> Tensor:
        """``(N,)``, or of a set ``(N, values)``, int64 by task name to ``(N, C)``."""
        if not self.sets:
            return torch.stack([targets[name] for name in self.num_classes], dim=1)
        return torch.cat([targets[name].reshape(-1, width) for name, width in self.widths.items()], dim=1)

    def split(self, logits: Tensor) -> dict[str, Tensor]:
        """``(N, S)`` to ``(N, classes of the task)`` by task name."""
        return dict(zip(self.num_classes, logits.split(list(self.num_classes.values()), dim=1), strict=True))

    def by_task(self, targets: Tensor) -> dict[str, Tensor]:
        """``(N, C)`` to what ``stack`` took."""
        parts = targets.split(list(self.widths.values()), dim=1)
        named = zip(self.num_classes, parts, strict=True)
        return {name: part if name in self.sets else part[:, 0] for name, part in named}

    def pad(self, logits: Tensor) -> Tensor:
        """``(N, S)`` to ``(N, T, K)``; classes that a task does not have get -inf."""
        empty = logits.new_full((len(logits), self.num_singles * self.most), float("-inf"))
        of_singles = logits[:, self.classes] if self.sets else logits
        return empty.index_copy(1, self.columns, of_singles).view(len(logits), self.num_singles, self.most)

    def likeliest(self, logits: Tensor) -> Tensor:
        """``(N, S)`` to the class of each task that has one per image, ``(N, T)`` int64."""
        return self.pad(logits).argmax(dim=2) if self.num_singles else logits.new_empty(len(logits), 0).long()

    def shares(self, targets: Tensor) -> Tensor:
        """What each target says, ``(N, C)`` int64 to ``(N, T * K + V * 2)`` float32, all 0 where it is unknown.

        Of a class 1 where it is the one; of a value its yes and its no. ``masses`` takes it apart.
        """
        if not self.sets:
            return one_hot(targets, self.most).flatten(1)
        said = targets[:, self.questions]
        answers = one_hot(torch.where(said == IGNORE_INDEX, said, 1 - said), 2)
        return torch.cat([one_hot(targets[:, self.singles], self.most).flatten(1), answers.flatten(1)], dim=1)

    def masses(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Of classes, ``(N, T, K)``, and of the yes and no of values, ``(N, V, 2)``."""
        classes, answers = shares.split([self.num_singles * self.most, 2 * len(self.values)], dim=1)
        return classes.view(len(shares), self.num_singles, self.most), answers.view(len(shares), len(self.values), 2)


def one_hot(targets: Tensor, most: int) -> Tensor:
    """``(N, T)`` int64 to ``(N, T, most)`` float32, all zeros where the target is unknown.

    ``torch.nn.functional.one_hot`` reads the values back to check them.
    """
    known = (targets != IGNORE_INDEX).float().unsqueeze(2)
    return known.new_zeros(*targets.shape, most).scatter_(2, targets.clamp(min=0).unsqueeze(2), known)
