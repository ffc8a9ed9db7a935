"""What a notebook calls a training with, in the kinds that notebooks have it, as what was meant or an error."""

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.errors import UsageError, did_you_mean
from fmtl.training.criterion import Criterion


def num_classes_of(given: object) -> tuple[dict[str, int], dict[str, list]]:
    """K by task name, and the labels of those tasks that were given as lists of them.

    Args:
        given: A dict or Series of numbers, or of lists of labels.
    """
    what = "num_classes_dict: expected the number of classes by attribute, such as {'colour': 3}"
    if not isinstance(given, Mapping | pd.Series):
        raise UsageError(f"{what}, got {type(given).__name__}")
    if len(given) == 0:
        raise UsageError(f"{what}, got none")
    numbers: dict[str, int] = {}
    labels: dict[str, list] = {}
    for name, value in given.items():
        if not isinstance(name, str):
            raise UsageError(f"num_classes_dict: names of attributes are text, got {name!r}; targets' names, too")
        if isinstance(value, Sequence | np.ndarray | pd.Series) and not isinstance(value, str):
            labels[name] = list(value)
            value = len(labels[name])
        whole = int(value) if isinstance(value, float | np.floating) and float(value).is_integer() else value
        try:
            numbers[name] = operator.index(whole)
        except TypeError as error:
            raise UsageError(f"num_classes_dict: {name}: expected a number of classes, got {value!r}") from error
        if numbers[name] < 1:
            raise UsageError(f"num_classes_dict: {name}: expected at least one class, got {value}")
    return numbers, labels


def names_of(label_cols: object, num_classes: Mapping[str, int]) -> list[str]:
    """The tasks to train, in order."""
    if label_cols is None:
        return list(num_classes)
    names = [label_cols] if isinstance(label_cols, str) else list(_sequence("label_cols", label_cols))
    if not names:
        raise UsageError("label_cols: expected at least one attribute; leave it out to train them all")
    check_names("label_cols", names, num_classes)
    if len(set(names)) < len(names):
        raise UsageError(f"label_cols: an attribute is named twice in {', '.join(names)}")
    return names


def sets_of(set_cols: object, num_classes: Mapping[str, int]) -> list[str]:
    """The tasks that are sets."""
    if set_cols is None:
        return []
    names = [set_cols] if isinstance(set_cols, str) else list(_sequence("set_cols", set_cols))
    check_names("set_cols", names, num_classes)
    return names


def labels_of(given: object, num_classes: Mapping[str, int]) -> dict[str, list]:
    """The K labels by task name in index order; numbers for the tasks that are not given.

    Args:
        given: By task name: labels in index order, a dict from index to label or back, or an encoder with ``classes_``.
    """
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise UsageError(
            f"classes: expected labels by attribute, such as {{'colour': ['red', 'blue']}}, got {type(given).__name__}"
        )
    check_names("classes", list(given), num_classes)
    found = {}
    for name, num in num_classes.items():
        labels = [str(label) for label in (_in_order(name, given[name]) if name in given else range(num))]
        if len(labels) != num:
            raise UsageError(f"classes: {name} has {len(labels)} labels, expected {num}")
        if len(set(labels)) < num or not all(label.strip() for label in labels):
            twice = next((label for label in labels if labels.count(label) > 1), "")
            raise UsageError(f"classes: {name}: expected different labels, none blank, got '{twice}'")
        found[name] = labels
    return found


def criterions_of(given: object, names: Sequence[str], num_classes: Mapping[str, int]) -> dict[str, Criterion]:
    """A loss by task name.

    Args:
        given: By task name, or one for all: a module, a function, or a class of a module.
    """
    if given is None:
        return {}
    if isinstance(given, nn.ModuleDict):
        given = dict(given.items())
    if not isinstance(given, Mapping):
        if not callable(given):
            raise UsageError(f"criterions: expected a loss, or losses by attribute, got {type(given).__name__}")
        given = dict.fromkeys(names, given)
    check_names("criterions", list(given), num_classes)
    return {name: _criterion(name, criterion) for name, criterion in given.items() if criterion is not None}


def device_of(given: object) -> str:
    """A device's name; a number is one of CUDA's."""
    if given is None:
        return "auto"
    return f"cuda:{given}" if isinstance(given, int) and not isinstance(given, bool) else str(given)


def preprocess_of(given: object) -> Preprocess | None:
    if given is None or isinstance(given, Preprocess):
        return given
    raise UsageError(
        f"preprocess: expected a fmtl.loading.preprocess.Preprocess, got {type(given).__name__}; it says how images "
        "become input: Preprocess(stored_px=256, fit='stretch', background='#ffffff', px=224, mean=..., std=...)"
    )


def check_names(what: str, given: Sequence[object], names: Mapping[str, int]) -> None:
    """Raise UsageError where one is no task, with the nearest name."""
    if unknown := [name for name in given if name not in names]:
        hint = did_you_mean(str(unknown[0]), names, otherwise=f"the tasks are {', '.join(names)}")
        raise UsageError(f"{what}: '{unknown[0]}' is not in num_classes_dict; {hint}")


def _sequence(what: str, given: Any) -> Sequence:
    try:
        return list(given)
    except TypeError as error:
        raise UsageError(f"{what}: expected a list, got {type(given).__name__}") from error


def _in_order(name: str, labels: Any) -> Sequence:
    """Labels in the order of their indices."""
    labels = getattr(labels, "classes_", labels)  # of scikit-learn's encoders
    if isinstance(labels, str | set | frozenset):
        raise UsageError(f"classes: {name}: expected labels in index order, got {type(labels).__name__}")
    if not isinstance(labels, Mapping):
        return _sequence(f"classes: {name}", labels)
    indices = set(range(len(labels)))
    by_index = {int(k) if str(k).isdecimal() else k: v for k, v in labels.items()}
    from_index, to_index = set(by_index) == indices, set(map(str, labels.values())) == set(map(str, indices))
    if from_index and to_index and any(str(k) != str(v) for k, v in labels.items()):
        raise UsageError(f"classes: {name}: both sides of the dict could be indices; give a list in index order")
    if from_index:
        return [by_index[n] for n in range(len(labels))]
    if to_index:
        return sorted(labels, key=lambda label: int(labels[label]))
    raise UsageError(f"classes: {name}: expected a dict from 0 to {len(labels) - 1} to labels, or back")


def _criterion(name: str, given: Any) -> Callable:
    if isinstance(given, type) and issubclass(given, nn.Module):
        given = given()
    if not callable(given):
        raise UsageError(f"criterions: {name}: expected a loss to be called, got {type(given).__name__}")
    if isinstance(given, nn.Module) and not list(given.parameters()):
        # A copy, since it moves to the device; float32, since weights from numpy are float64 and logits are not.
        return copy.deepcopy(given).to(torch.float32)
    return given
