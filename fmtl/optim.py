"""The recipe of a training run: parameter groups, optimizer, schedule."""

from dataclasses import dataclass

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from fmtl.models import MultiTaskNet

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: Passes over the training images.
        learning_rate: The heads' peak rate.
        backbone_lr_scale: The backbone's rate over the heads'.
        optimizer: ``adamw`` or ``adam``.
        weight_decay: Decoupled for AdamW, part of the gradient for Adam.
        schedule: ``onecycle`` (Smith & Topin 2017, arXiv:1708.07120; per step) or ``constant``.
        clip_norm: Largest norm of all gradients together; 0 for none.
        seed: Of dropout; loaders have their own.
    """

    epochs: int
    learning_rate: float
    backbone_lr_scale: float
    optimizer: str
    weight_decay: float
    schedule: str
    clip_norm: float
    seed: int


def build_optimizer(net: MultiTaskNet, recipe: Recipe) -> Optimizer:
    """One group for the backbone and one for the heads, updated by one fused kernel per group."""
    rates = {"backbone": recipe.learning_rate * recipe.backbone_lr_scale, "heads": recipe.learning_rate}
    groups = [
        {"params": [p for p in module.parameters() if p.requires_grad], "lr": rates[name], "name": name}
        for name, module in (("backbone", net.backbone), ("heads", net.heads))
    ]
    groups = [group for group in groups if group["params"]]  # a frozen backbone has nothing to update
    return OPTIMIZERS[recipe.optimizer](groups, weight_decay=recipe.weight_decay, fused=True)


def build_schedule(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> LRScheduler:
    """Stepped once per optimizer update."""
    if recipe.schedule == "constant":
        return LambdaLR(optimizer, lambda step: 1.0)
    rates = [group["lr"] for group in optimizer.param_groups]
    # A cycle needs a way up and a way down, so two steps at least.
    return OneCycleLR(optimizer, max_lr=rates, total_steps=max(recipe.epochs * steps_per_epoch, 2))
