"""The one way to a training: a plan, and what is built of it before the first step."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fmtl.errors import UsageError
from fmtl.loading.augment import Augmentation
from fmtl.model import autotune, backbones, synchronised
from fmtl.model.backbones import NetworkPlan
from fmtl.model.execution import Execution
from fmtl.model.network import MultiTaskNet
from fmtl.tasks import Tasks
from fmtl.together import collectives
from fmtl.training import criterion
from fmtl.training.criterion import Criterion, LossPlan, MultiTaskLoss
from fmtl.training.optim import Recipe


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """A training that is decided on, but for what this machine decides by trial.

    Attributes:
        network: What is trained.
        loss: What is minimised.
        recipe: How, for all epochs together.
        augmentation: How training photos vary; None: they don't.
        ways: To run the network; the fastest is found by trial.
        batch_size: Images per batch; of the trial too.
        find_batch_size: Whether a trial decides on another one.
        frozen_epochs: First epochs in which the heads alone are trained.
        cache_features: Compute features once for those epochs.
        choose_by: See ``Training``.
        sync_batchnorm: Of processes that train together, normalise over the images of all.
    """

    network: NetworkPlan
    loss: LossPlan
    recipe: Recipe
    augmentation: Augmentation | None
    ways: tuple[Execution, ...]
    batch_size: int
    find_batch_size: bool = False
    frozen_epochs: int = 0
    cache_features: bool = True
    choose_by: str = "loss"
    sync_batchnorm: bool = False

    def stage_recipe(self, *, frozen: bool) -> Recipe:
        """The recipe of the frozen epochs, or of those that train the backbone too.

        Patience is for the epochs that come last: those before pass on to them.
        """
        epochs = self.frozen_epochs if frozen else self.recipe.epochs - self.frozen_epochs
        passing = frozen and epochs < self.recipe.epochs
        return replace(self.recipe, epochs=epochs, patience=0 if passing else self.recipe.patience)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A network on its device and its loss, and how both will be trained."""

    plan: TrainPlan
    tasks: Tasks
    device: torch.device
    net: MultiTaskNet
    loss: MultiTaskLoss
    execution: Execution
    batch_size: int

    def without(self, epochs: int) -> "Setup":
        """The same, whose plan is for the epochs after so many."""
        plan = self.plan
        recipe = replace(plan.recipe, epochs=plan.recipe.epochs - epochs)
        return replace(self, plan=replace(plan, recipe=recipe, frozen_epochs=max(plan.frozen_epochs - epochs, 0)))


def set_up(
    plan: TrainPlan,
    tasks: Tasks,
    *,
    device: torch.device,
    num_images: int,
    counts: Mapping[str, Tensor],
    criterions: Mapping[str, Criterion] | None = None,
) -> Setup:
    """Build the network, find out how it runs here, and build the loss.

    Of processes that train together, the batch is what all of them have of it.

    Args:
        num_images: In the training split.
        counts: Training images of each class by task name, ``(K,)``, or of a set with and without each value,
            ``(K, 2)``; needed where classes are weighed, and for sets.
        criterions: See ``MultiTaskLoss``.

    Raises:
        UsageError: The batch is too small for all processes.
        UsageError, DataError, EnvironmentFault: As ``backbones.build`` and ``autotune.fastest``.
    """
    num = collectives.size()
    if plan.batch_size < collectives.place().least(is_training=True):
        raise UsageError(f"batch_size: {plan.batch_size} images are too few for {num} processes; each needs 2 at least")
    net = backbones.from_plan(plan.network, tasks.num_classes, tasks.sets)
    net.start_at_base_rates(counts)
    execution = autotune.choose_execution(
        net, device, plan.ways, backbone=plan.network.backbone, px=plan.network.px, batch_size=plan.batch_size // num
    )
    batch_size = plan.batch_size
    if plan.find_batch_size:
        of_each = autotune.choose_batch_size(net, device, execution, px=plan.network.px, num_images=num_images // num)
        batch_size = collectives.least(of_each) * num
    net.run_on(device, execution)
    if plan.sync_batchnorm and num > 1:
        synchronised.synchronise(net, device)
    loss = criterion.from_plan(plan.loss, tasks.num_classes, tasks.sets, counts=counts, criterions=criterions)
    return Setup(plan=plan, tasks=tasks, device=device, net=net, loss=loss, execution=execution, batch_size=batch_size)
