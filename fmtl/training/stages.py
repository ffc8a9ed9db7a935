"""What a training goes through: stages on a prepared dataset, or on loaders that a user brings."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.dataset.prepared import PreparedDataset, class_counts
from fmtl.loading.augment import Augmentation
from fmtl.loading.batches import Batch, Batches
from fmtl.loading.pacing import Loader
from fmtl.loading.sources import Features, Photos, Source
from fmtl.model import feature_cache
from fmtl.model.network import MultiTaskNet
from fmtl.together import collectives
from fmtl.training.criterion import answer_counts
from fmtl.training.optim import Recipe
from fmtl.training.progress import watch_batches
from fmtl.training.run import Stage
from fmtl.training.setup import Setup

log = logging.getLogger(__name__)

WatchBatches = Callable[[Iterable[Batch], str], Iterable[Batch]]


@dataclass(frozen=True, kw_only=True)
class DatasetStages:
    """A prepared dataset as what a network is trained on.

    Attributes:
        preprocess: How its photos become network input.
        watch: Shows progress over the batches of which features are computed.
    """

    setup: Setup
    dataset: PreparedDataset
    preprocess: Preprocess
    watch: WatchBatches = watch_batches

    def stages(self, *, done: int = 0) -> list[Stage]:
        """Frozen epochs, on features if they may be kept, and then those that train the backbone too.

        Args:
            done: Epochs of an earlier attempt; the network holds its weights.
        """
        plan, stages = self.setup.plan, []
        if plan.frozen_epochs:
            recipe = plan.stage_recipe(frozen=True)
            stages.append(self._frozen(recipe, cache=plan.cache_features and done < plan.frozen_epochs))
        if plan.frozen_epochs < plan.recipe.epochs:
            photos = (self.photos(plan.augmentation), self.photos())
            stages.append(self._stage(self.setup.net, plan.stage_recipe(frozen=False), *photos))
        return stages

    def _frozen(self, recipe: Recipe, *, cache: bool) -> Stage:
        plan = self.setup.plan
        if not cache:
            photos = (self.photos(plan.augmentation), self.photos())
            return self._stage(self.setup.net, recipe, *photos, frozen=True)
        source = Features(self.features())
        if plan.augmentation or recipe.mixup or recipe.cutmix:
            log.info("the photos are not augmented or mixed while features are kept (cache_features=false)")
        recipe = replace(recipe, mixup=0.0, cutmix=0.0)
        return self._stage(self.setup.net.heads_alone(), recipe, source, source, frozen=True)

    def features(self, *, keep: bool = True) -> Tensor:
        """Features of all photos, ``(rows of the dataset, D)``; see ``feature_cache.compute``."""
        return feature_cache.compute(
            self.setup.net,
            self.dataset,
            backbone=self.setup.plan.network.backbone,
            preprocess=self.preprocess,
            batch_size=self.setup.batch_size,
            device=self.setup.device,
            watch=self.watch,
            keep=keep,
        )

    def _stage(self, net: MultiTaskNet, recipe: Recipe, train: Source, val: Source, *, frozen: bool = False) -> Stage:
        loaders = {"train": self.batches("train", train), "val": self.batches("val", val)}
        return Stage(net=net, **loaders, recipe=recipe, frozen=frozen)

    def photos(self, augmentation: Augmentation | None = None) -> Photos:
        return Photos(
            self.dataset,
            preprocess=self.preprocess,
            augmentation=augmentation,
            seed=self.setup.plan.recipe.seed,
            device=self.setup.device,
        )

    def batches(self, split: str, source: Source) -> Batches:
        """Those of a split; training's in an order drawn anew in each epoch."""
        # A policy draws from torch's own generator, which a second thread must not share.
        drawn = isinstance(source, Photos) and source.augmentation and source.augmentation.policy != "none"
        return Batches(
            source,
            self.dataset.targets,
            self.dataset.rows(split),
            tasks=self.dataset.tasks,
            batch_size=self.setup.batch_size,
            shuffle=split == "train",
            seed=self.setup.plan.recipe.seed,
            prefetch=self.setup.device.type == "cuda" and isinstance(source, Photos) and not drawn,
            names=self._names,
            place=collectives.place(),
        )

    @cached_property
    def _names(self) -> list[str]:
        return self.dataset.table["path"].tolist()

    def test(self) -> Batches:
        return self.batches("test", self.photos())

    def val(self) -> Batches:
        return self.batches("val", self.photos())


def counts_of(dataset: PreparedDataset) -> dict[str, Tensor]:
    """Training images of each class by task name, ``(K,)``, or of a set with and without each value, ``(K, 2)``."""
    counts = {name: torch.tensor(table["train"].tolist()) for name, table in class_counts(dataset).items()}
    train = dataset.targets[dataset.rows("train")]
    sets = {name: targets for name, targets in dataset.tasks.by_name(train).items() if name in dataset.tasks.sets}
    return counts | {name: answer_counts(torch.from_numpy(targets)) for name, targets in sets.items()}


def of_loaders(setup: Setup, loaders: Mapping[str, Loader]) -> list[Stage]:
    """The stages on loaders by split: frozen epochs, and then those that train the backbone too."""
    plan, stages = setup.plan, []
    for frozen in (True, False):
        recipe = plan.stage_recipe(frozen=frozen)
        if recipe.epochs:
            stages.append(
                Stage(net=setup.net, train=loaders["train"], val=loaders["val"], recipe=recipe, frozen=frozen)
            )
    return stages
