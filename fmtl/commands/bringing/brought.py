"""What a notebook brings to a training, checked before any work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fmtl.commands.bringing import arguments
from fmtl.commands.choosing import inherited
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.errors import DataError, UsageError
from fmtl.hardware import choose_device
from fmtl.loading.checked import Checked, GivenLoader
from fmtl.model import backbones
from fmtl.settings.reading import Given, build
from fmtl.settings.train import TrainSettings
from fmtl.tasks import Tasks, make_tasks
from fmtl.training.criterion import Criterion

# The loaders decide these, or they need a prepared dataset.
OF_LOADERS = {
    "data", "allow_stale", "batch_size", "augment", "crop_scale", "rotation", "colour_jitter", "colour_tasks", "policy",
    "px", "cache_features", "gallery", "resume", "device", "budget",
}  # fmt: skip
OF_OUR_LOSS = {"class_weights", "label_smoothing"}  # without a say where every task has a criterion of its own


@dataclass(frozen=True)
class Brought:
    """What the caller brought, checked; ``settings`` have the loaders' input size and batch size.

    Attributes:
        size: Height and width of the images, pixels; ``settings.px`` is the larger.
        named: Whether the caller said what the classes are called.
    """

    settings: TrainSettings
    tasks: Tasks
    loaders: dict[str, Checked]
    criterions: Mapping[str, Criterion]
    device: torch.device
    size: tuple[int, int]
    preprocess: Preprocess | None
    named: bool

    @property
    def used(self) -> dict[str, Any]:
        """The settings that had a say, by name, and what was found out about the loaders."""
        without_say = OF_LOADERS | {"run_name", "experiment", "offline", "run_folder"}
        if set(self.criterions) >= set(self.tasks.names):
            without_say |= OF_OUR_LOSS
        values = self.settings.model_dump(mode="json", exclude=without_say)
        found = {"px": self.settings.px, "batch_size": self.settings.batch_size, "device": str(self.device)}
        if self.size[0] != self.size[1]:
            found["image_size"] = " x ".join(map(str, self.size))
        return values | found


@dataclass(frozen=True)
class Asked:
    """What a caller said of its tasks; see ``notebook.train_and_evaluate_model``."""

    num_classes: object
    label_cols: object = None
    set_cols: object = ()


def check(
    chosen: Mapping[str, Any],
    *,
    asked: Asked,
    loaders: Mapping[str, GivenLoader],
    device: object,
    criterions: object,
    classes: object,
    preprocess: object,
    say: Callable[[str], object],
) -> Brought:
    """Raises UsageError and DataError, each naming its argument. What is odd and yet usable is said."""
    settings = _settings({**chosen, "device": arguments.device_of(device)})
    backbones.input_spec(settings.backbone)  # a wrong name is an error before a look at any batch
    numbers, listed = arguments.num_classes_of(asked.num_classes)
    names = arguments.names_of(asked.label_cols, numbers)
    of_sets = arguments.sets_of(asked.set_cols, numbers)
    known = {**listed, **classes} if isinstance(classes, Mapping) else listed if classes is None else classes
    labels = arguments.labels_of(known, numbers)
    losses = arguments.criterions_of(criterions, names, numbers)
    if losses and (settings.mixup or settings.cutmix):
        raise UsageError("criterions: they take one target per image, and mixup and cutmix give two; leave one out")
    how = arguments.preprocess_of(preprocess)
    tasks = make_tasks({name: labels[name] for name in names}, of_sets)
    checked = {split: Checked(split, loader, tasks, say) for split, loader in loaders.items()}
    size = _size(checked, how)
    if checked["train"].last_size == 1:
        say("warning: train_loader: its last batch has 1 image, which networks with BatchNorm may not take; "
            "DataLoader(..., drop_last=True) leaves it out")  # fmt: skip
    settings = settings.model_copy(update={"px": max(size), "batch_size": checked["train"].shape[0]})
    named = isinstance(known, Mapping) and set(names) <= set(known)
    return Brought(settings, tasks, checked, losses, choose_device(settings.device), size, how, named)


def _size(loaders: Mapping[str, Checked], preprocess: Preprocess | None) -> tuple[int, int]:
    """Height and width, the same in all loaders."""
    sizes = {split: loader.shape[2:] for split, loader in loaders.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{split} {' x '.join(map(str, size))}" for split, size in sizes.items())
        raise DataError(f"images must be of one size, got {told}", where="loaders")
    height, width = sizes["train"]
    if preprocess and (preprocess.px, preprocess.px) != (height, width):
        raise UsageError(f"preprocess: it makes images of {preprocess.px} px, the loaders give {height} x {width}")
    return height, width


def _settings(chosen: dict[str, Any]) -> TrainSettings:
    if taken := sorted((OF_LOADERS - {"device"}) & set(chosen)):
        raise UsageError(f"{', '.join(taken)}: the loaders decide that, or it needs a prepared dataset (fmtl train)")
    given = {name: Given(value, name) for name, value in chosen.items() if value is not None}
    return inherited.settled(build(TrainSettings, given)).with_mode()
