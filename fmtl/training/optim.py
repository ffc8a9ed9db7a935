"""The recipe of a training run, and all that moves weights: optimizer, schedule, clipping, moving average."""

from dataclasses import dataclass

import torch
from timm.optim import param_groups_layer_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, LRScheduler, OneCycleLR, SequentialLR

from fmtl.errors import DataError
from fmtl.model.network import MultiTaskNet
from fmtl.storage.records import checked
from fmtl.training.criterion import MultiTaskLoss

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
WARMUP_START = 0.01  # of the peak rate, where a cosine's warm-up begins


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: Passes over the training images.
        learning_rate: The heads' peak rate.
        backbone_lr_scale: The rate of the backbone's last layers over the heads'.
        layer_decay: Rate of a layer over that of the next one towards the heads; 1 for none.
        optimizer: ``adamw`` or ``adam``.
        weight_decay: Decoupled for AdamW, part of the gradient for Adam.
        decay_norms: Whether norms and biases decay too.
        schedule: ``onecycle`` (Smith & Topin 2017, arXiv:1708.07120), ``cosine`` or ``constant``; per step.
        warmup: Share of the steps in which the rates rise; not of ``constant``.
        clip_norm: Largest norm of all gradients together; 0 for none.
        accumulate: Batches whose gradients make one step.
        ema_decay: Of the moving average of all weights, which is what is evaluated and kept; 0 for none.
        mixup: Alpha of MixUp (Zhang et al. 2017, arXiv:1710.09412); 0 for none.
        cutmix: Alpha of CutMix (Yun et al. 2019, arXiv:1905.04899); 0 for none.
        patience: Epochs without a better one after which training stops; 0 for never.
        seed: Of dropout and mixing; loaders have their own.
    """

    epochs: int
    learning_rate: float
    backbone_lr_scale: float
    optimizer: str
    weight_decay: float
    schedule: str
    clip_norm: float
    seed: int
    layer_decay: float = 1.0
    decay_norms: bool = True
    warmup: float = 0.3
    accumulate: int = 1
    ema_decay: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    patience: int = 0


def build_optimizer(net: MultiTaskNet, recipe: Recipe, loss: nn.Module | None = None) -> Optimizer:
    """Groups named ``backbone``, ``heads`` and, for learnt task weights, ``loss``; one fused kernel per group.

    timm finds the layers and the parameters that should not decay.
    """
    rates = {"backbone": recipe.learning_rate * recipe.backbone_lr_scale, "heads": recipe.learning_rate}
    groups = []
    for name, module in (("backbone", net.backbone), ("heads", net.heads)):
        for group in _layers(module, recipe):
            groups.append(
                {
                    "params": group["params"],
                    "lr": rates[name] * group["lr_scale"],
                    "weight_decay": group["weight_decay"],
                    "name": name,
                }
            )
    learnt = [] if loss is None else list(loss.parameters())
    if learnt:
        groups.append({"params": learnt, "lr": recipe.learning_rate, "weight_decay": 0.0, "name": "loss"})
    return OPTIMIZERS[recipe.optimizer](groups, weight_decay=recipe.weight_decay, fused=True)


def _layers(module: nn.Module, recipe: Recipe) -> list[dict]:
    """Parameter groups with ``lr_scale`` and ``weight_decay``, the layers next to the heads last."""
    if not any(p.requires_grad for p in module.parameters()):
        return []  # a frozen backbone has nothing to update
    if recipe.layer_decay == 1 or isinstance(module, nn.Linear):
        kinds: dict[float, list] = {}
        for parameter in module.parameters():
            decay = recipe.weight_decay if parameter.ndim > 1 or recipe.decay_norms else 0.0
            kinds.setdefault(decay, []).append(parameter)
        return [{"params": params, "lr_scale": 1.0, "weight_decay": decay} for decay, params in kinds.items()]
    return param_groups_layer_decay(
        module,
        weight_decay=recipe.weight_decay,
        weight_decay_exclude_1d=not recipe.decay_norms,
        layer_decay=recipe.layer_decay,
    )


def build_schedule(optimizer: Optimizer, recipe: Recipe, num_steps: int) -> LRScheduler:
    """Stepped once per optimizer update.

    Args:
        num_steps: Of the whole training.
    """
    if recipe.schedule == "constant":
        return LambdaLR(optimizer, lambda step: 1.0)
    if recipe.schedule == "onecycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        # A cycle needs a way up and a way down, so two steps at least; torch divides by the way up less one step.
        total = max(num_steps, 2)
        rising = recipe.warmup * (0.999 if recipe.warmup * total == 1 else 1)
        return OneCycleLR(optimizer, max_lr=rates, total_steps=total, pct_start=rising)
    rising = round(num_steps * recipe.warmup)
    falling = CosineAnnealingLR(optimizer, T_max=max(num_steps - rising, 1))
    if rising == 0:
        return falling
    return SequentialLR(optimizer, [LinearLR(optimizer, WARMUP_START, total_iters=rising), falling], [rising])


class Updater:
    """Everything that moves weights, one call per step, and its state.

    Attributes:
        evaluated: The network to evaluate and keep: the moving average if there is one, else ``net``.
    """

    def __init__(self, net: MultiTaskNet, loss: MultiTaskLoss, recipe: Recipe, *, num_batches: int):
        """
        Args:
            num_batches: In an epoch.
        """
        self.net, self.loss, self.recipe = net, loss, recipe
        self.optimizer = build_optimizer(net, recipe, loss)
        self._steps = -(-num_batches // recipe.accumulate) * recipe.epochs
        self.schedule = build_schedule(self.optimizer, recipe, self._steps)
        self._trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._average = ModelEmaV3(net, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None

    @property
    def evaluated(self) -> MultiTaskNet:
        return self._average.module if self._average else self.net

    @property
    def learning_rates(self) -> dict[str, float]:
        """The highest rate now, by group name."""
        rates: dict[str, float] = {}
        for group in self.optimizer.param_groups:
            rates[group["name"]] = max(group["lr"], rates.get(group["name"], 0.0))
        return rates

    def step(self, num_batches: int = 1, loss: Tensor | None = None) -> Tensor:
        """Apply the mean of the gradients that so many batches have added up, and clear them.

        Args:
            loss: Their sum or any other; it must be finite, too.

        Returns:
            Whether all were finite, 0-dimensional, on the device. Where not, no weight and no state of the optimizer
            moved; schedule and moving average went on.
        """
        if num_batches > 1:
            for parameter in self._trained:
                if parameter.grad is not None:
                    parameter.grad /= num_batches
        if self.recipe.clip_norm:
            norm = nn.utils.clip_grad_norm_(self._trained, self.recipe.clip_norm)
        else:
            norm = nn.utils.get_total_norm([p.grad for p in self._trained if p.grad is not None])
        is_finite = (norm if loss is None else norm + loss).isfinite()
        self.optimizer.found_inf = (~is_finite).float()  # type: ignore[attr-defined]  # as torch's GradScaler tells it
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.schedule.last_epoch < self._steps:  # a loader may give more batches than it said
            self.schedule.step()
        if self._average:
            self._average.update(self.net, step=self.schedule.last_epoch)
        return is_finite

    def state_dict(self) -> dict:
        state = {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}
        state["loss"] = self.loss.state_dict()
        if self._average:
            state["average"] = self._average.module.state_dict()
        return state

    def load_state_dict(self, state: dict) -> None:
        """Raises DataError where it is the state of something else."""
        kinds = {"optimizer": dict, "schedule": dict, "loss": dict} | ({"average": dict} if self._average else {})
        checked(state, kinds, where="the checkpoint's updater")
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            # Another number of processes may have another last batch, and so another number of steps.
            self._steps = min(self._steps, getattr(self.schedule, "total_steps", self._steps))
            self.loss.load_state_dict(state["loss"])
            if self._average:
                self._average.module.load_state_dict(state["average"])
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, IndexError) as error:
            raise DataError(f"does not fit this training ({error})", where="the checkpoint's updater") from error
