"""What a notebook brings to a training, checked before any work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fmtl.errors import DataError, UsageError, did_you_mean
from fmtl.hardware import choose_device
from fmtl.loading.checked import Checked, GivenLoader
from fmtl.loading.preprocess import Preprocess
from fmtl.settings.reading import Given, build
from fmtl.settings.train import TrainSettings
from fmtl.tasks import Tasks, make_tasks
from fmtl.training.criterion import Criterion

# The loaders decide these, or they need a prepared dataset.
OF_LOADERS = {
    "data", "allow_stale", "batch_size", "augment", "colour_jitter", "colour_tasks", "policy", "px", "cache_features",
    "gallery", "resume", "device",
}  # fmt: skip


@dataclass(frozen=True)
class Brought:
    """What the caller brought, checked; ``settings`` have the loaders' input size and batch size."""

    settings: TrainSettings
    tasks: Tasks
    loaders: dict[str, Checked]
    criterions: Mapping[str, Criterion]
    device: torch.device

    @property
    def used(self) -> dict[str, Any]:
        """The settings that had a say, by name, and what was found out about the loaders."""
        values = self.settings.model_dump(mode="json", exclude=OF_LOADERS | {"run_name", "experiment"})
        found = {"px": self.settings.px, "batch_size": self.settings.batch_size, "device": str(self.device)}
        return values | found


def check(
    chosen: Mapping[str, Any],
    num_classes: Mapping[str, int],
    names: Sequence[str],
    loaders: Mapping[str, GivenLoader],
    device: torch.device | str,
    criterions: Mapping[str, Criterion],
    classes: Mapping[str, Sequence[str]],
    preprocess: Preprocess | None,
) -> Brought:
    settings = _settings({**chosen, "device": str(device)})
    for what, given in (("label_cols", names), ("criterions", criterions), ("classes", classes)):
        if unknown := [name for name in given if name not in num_classes]:
            hint = did_you_mean(unknown[0], num_classes, otherwise=f"the tasks are {', '.join(num_classes)}")
            raise UsageError(f"{what}: '{unknown[0]}' is not in num_classes_dict; {hint}")
    if criterions and (settings.mixup or settings.cutmix):
        raise UsageError("criterions: they take one target per image, and mixup and cutmix give two; leave one out")
    tasks = make_tasks({name: _labels(name, classes, int(num_classes[name])) for name in names})
    checked = {split: Checked(split, loader, tasks) for split, loader in loaders.items()}
    shapes = {split: loader.first_shape() for split, loader in checked.items()}
    sides = {shape[2:] for shape in shapes.values()}
    if len(sides) > 1 or len(set(next(iter(sides)))) > 1:
        told = f"images must be square and of one size, got {', '.join(map(str, sorted(sides)))}"
        raise DataError(told, where="loaders")
    px = shapes["val"][3]
    if preprocess and preprocess.px != px:
        raise UsageError(f"preprocess: it makes images of {preprocess.px} px, the loaders give {px}")
    settings = settings.model_copy(update={"px": px, "batch_size": shapes["train"][0]})
    return Brought(settings, tasks, checked, criterions, choose_device(settings.device))


def _labels(name: str, classes: Mapping[str, Sequence], num: int) -> list[str]:
    """A task's labels as plain text; their numbers where none are given."""
    labels = [str(label) for label in classes.get(name, range(num))]
    if len(labels) != num:
        raise UsageError(f"classes: {name} has {len(labels)} labels, expected {num}")
    if len(set(labels)) < num or not all(label.strip() for label in labels):
        twice = next((label for label in labels if labels.count(label) > 1), "")
        raise UsageError(f"classes: {name}: expected different labels, none blank, got '{twice}'")
    return labels


def _settings(chosen: dict[str, Any]) -> TrainSettings:
    if taken := sorted((OF_LOADERS - {"device"}) & set(chosen)):
        raise UsageError(f"{', '.join(taken)}: the loaders decide that, or it needs a prepared dataset (fmtl train)")
    given = {name: Given(value, name) for name, value in chosen.items() if value is not None}
    return build(TrainSettings, given).with_mode()
