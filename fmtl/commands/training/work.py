"""All that a training needs, built and checked before anything is trained."""

import logging
from dataclasses import dataclass
from pathlib import Path

from fmtl.commands.choosing import inherited
from fmtl.commands.training import calling
from fmtl.dataset.freshness import check_sources
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.dataset.prepared import PreparedDataset, open_dataset
from fmtl.dataset.splits import SPLITS
from fmtl.errors import DataError, UsageError
from fmtl.hardware import choose_device
from fmtl.loading.sources import resident_pixels
from fmtl.model import backbones
from fmtl.model.backbones import InputSpec
from fmtl.settings.train import TrainSettings
from fmtl.tasks import IGNORE_INDEX
from fmtl.together import collectives
from fmtl.training.checkpoints import Checkpoint
from fmtl.training.setup import Setup, TrainPlan, set_up
from fmtl.training.stages import DatasetStages, counts_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """All that a run needs, built and checked before anything is trained.

    Attributes:
        settings: With everything filled in that was found out.
    """

    settings: TrainSettings
    setup: Setup
    data: DatasetStages

    @property
    def dataset(self) -> PreparedDataset:
        return self.data.dataset


def check(settings: TrainSettings) -> None:
    """Raise what ``train`` would raise before its first epoch; the network is built, and let go."""
    choose_device(settings.device)
    earlier, settings = inherited.find(settings.with_mode())
    dataset, _, plan = _plan(settings, earlier.input_spec if earlier else None)
    net = backbones.from_plan(plan.network, dataset.tasks.num_classes, dataset.tasks.sets)
    if earlier:
        earlier.take_over(net, dataset.tasks)


def _plan(settings: TrainSettings, spec: InputSpec | None) -> tuple[PreparedDataset, InputSpec, TrainPlan]:
    """What can be said without building anything; ``plan.network.px`` is the side of the input."""
    dataset = open_dataset(Path(settings.data))
    if not settings.allow_stale and not settings.resume:
        check_sources(dataset)
    _check_splits(dataset)
    spec = spec or backbones.input_spec(settings.backbone)
    return dataset, spec, settings.resolve(dataset.tasks.names, px=side(settings, dataset, spec.px))


def prepare(
    settings: TrainSettings, *, spec: InputSpec | None = None, last: Checkpoint | None = None, quietly: bool = False
) -> Work:
    """Build and check all of it.

    Args:
        last: What it goes on from, for processes that train together: the others are called to work here.
        quietly: It is not what will be trained, and nothing is said of it.
        spec: What the network has been trained to see, where it goes on from a checkpoint.
    """
    device, say = choose_device(settings.device), log.debug if quietly else log.info
    earlier, settings = inherited.find(settings.with_mode())
    dataset, spec, plan = _plan(settings, earlier.input_spec if earlier else spec)
    px = plan.network.px
    if not quietly:
        calling.call(settings.model_copy(update={"weights": "none", "px": px}), spec, last)
        calling.same(dataset.digest, dataset.folder)
        _check_shares(dataset)
    if device.type == "cuda":
        resident_pixels(dataset, device)  # before a batch size is tried, which may take of what they leave
    counts = counts_of(dataset) if settings.class_weights or dataset.tasks.sets else {}
    setup = set_up(plan, dataset.tasks, device=device, num_images=len(dataset.rows("train")), counts=counts)
    found: dict[str, object] = {"px": px, "batch_size": setup.batch_size}
    if earlier:
        for line in earlier.take_over(setup.net, dataset.tasks):
            say("%s", line)
        found["weights"] = earlier.source
    found |= {name: getattr(setup.execution, name) for name in ("precision", "channels_last")}
    if {"auto", None} & {settings.precision, settings.channels_last, settings.batch_size}:
        layout = "channels last" if setup.execution.channels_last else "channels first"
        say("%s: %s, %s, batches of %d", device.type, setup.execution.precision, layout, setup.batch_size)
    image = dataset.manifest["image"]
    preprocess = Preprocess(
        dataset.px, image["fit"], image["background"], px, spec.mean, spec.std, image.get("profiles", False)
    )
    data = DatasetStages(setup=setup, dataset=dataset, preprocess=preprocess)
    return Work(settings.model_copy(update=found), setup, data)


def _check_splits(dataset: PreparedDataset) -> None:
    """Raise DataError where a split can't do its part."""
    where = str(dataset.folder)
    for split in SPLITS:
        if len(dataset.rows(split)) == 0:
            raise DataError(f"the {split} split is empty; prepare more images or another fraction", where=where)
        if split != "test" and (dataset.targets[dataset.rows(split)] == IGNORE_INDEX).all():
            raise DataError(f"no image of the {split} split has a label", where=where)
    if len(dataset.rows("train")) < 2:
        raise DataError("1 training image; BatchNorm needs 2 at least", where=where)


def _check_shares(dataset: PreparedDataset) -> None:
    """Raise DataError where a split has too few images for all that train together."""
    place = collectives.place()
    for split in SPLITS if place.size > 1 else ():
        num = len(dataset.rows(split))
        if num < place.least(is_training=split == "train"):
            raise DataError(
                f"{num} images in the {split} split are too few for {place.size} processes; start fewer, or prepare "
                "more images", where=str(dataset.folder),
            )  # fmt: skip


def side(settings: TrainSettings, dataset: PreparedDataset, weights_px: int) -> int:
    """Of the input, in pixels. ``auto``: the median side of the photos, rounded up to a multiple of 32."""
    most = min(dataset.px, weights_px)
    if settings.px == "auto":
        return min(most, -(-dataset.source_px // 32) * 32)
    if settings.px is not None and settings.px > dataset.px:
        raise UsageError(
            f"px: {settings.px} is larger than the stored side {dataset.px}; prepare with px={settings.px} or lower it"
        )
    return settings.px or most
