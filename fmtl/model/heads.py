"""Heads of one network for another, attribute by attribute and class by class."""

from collections.abc import Iterable

import torch

from fmtl.model.network import MultiTaskNet
from fmtl.tasks import Task, Tasks

MOST_NAMES = 8  # in a sentence


@torch.no_grad()
def take_over(net: MultiTaskNet, tasks: Tasks, source: MultiTaskNet, source_tasks: Tasks) -> list[str]:
    """Copy the rows of the classes that both have, by name. What is new keeps the weights it has.

    Args:
        net, tasks: Whose heads are changed.
        source, source_tasks: Whose are taken; of as many features.

    Returns:
        A sentence on each attribute of either.
    """
    theirs = {task.name: (task, rows) for task, rows in _rows(source_tasks)}
    told = []
    for task, rows in _rows(tasks):
        other, other_rows = theirs.pop(task.name, (None, range(0)))
        if other is None or other.kind != task.kind:  # a logit of one kind means nothing to the other
            told.append(f"{task.name}: new" + (f" as a {task.kind} of values" if other and task.is_set else ""))
            continue
        there = {name: row for name, row in zip(other.classes, other_rows, strict=True)}
        both = [(row, there[name]) for name, row in zip(task.classes, rows, strict=True) if name in there]
        to, by = [row for row, _ in both], [row for _, row in both]
        net.heads.weight[to] = source.heads.weight[by].to(net.heads.weight)
        net.heads.bias[to] = source.heads.bias[by].to(net.heads.bias)
        told.append(_told(task, other, len(both)))
    return [*told, *(f"{name}: not learnt any more" for name in theirs)]


def _rows(tasks: Tasks) -> Iterable[tuple[Task, range]]:
    """Each task with its rows of the heads."""
    start = 0
    for task in tasks:
        yield task, range(start, start + task.num_classes)
        start += task.num_classes


def _told(task: Task, other: Task, num: int) -> str:
    new = [name for name in task.classes if name not in set(other.classes)]
    gone = [name for name in other.classes if name not in set(task.classes)]
    changes = "".join(f"; {what}: {_listed(names)}" for what, names in (("new", new), ("gone", gone)) if names)
    return f"{task.name}: {num} of {task.num_classes} classes taken over{changes}"


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:MOST_NAMES])
    return f"{shown} and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else shown
