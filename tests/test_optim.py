import pytest
import torch
from torch import nn

from fmtl.models import MultiTaskNet
from fmtl.optim import Recipe, build_optimizer, build_schedule

TUNED = {
    "epochs": 3,
    "learning_rate": 1e-2,
    "backbone_lr_scale": 0.1,
    "optimizer": "adamw",
    "weight_decay": 1e-4,
    "schedule": "onecycle",
    "clip_norm": 1.0,
    "seed": 0,
}


def net():
    torch.manual_seed(0)
    return MultiTaskNet(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), 4, {"a": 3})


@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
def test_updates_equal_plain_torch_with_the_same_groups(optimizer):
    ours, reference = net(), net()
    recipe = Recipe(**TUNED | {"optimizer": optimizer, "schedule": "constant"})
    built = build_optimizer(ours, recipe)
    plain = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[optimizer](
        [{"params": reference.backbone.parameters(), "lr": 1e-3}, {"params": reference.heads.parameters(), "lr": 1e-2}],
        weight_decay=1e-4,
        fused=False,
    )
    images = torch.randn(8, 3, 2, 2)
    for _ in range(5):
        for model, step in ((ours, built), (reference, plain)):
            step.zero_grad()
            model(images)["a"].square().mean().backward()
            step.step()
    for a, b in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_onecycle_peaks_at_the_rates_asked_for_and_keeps_their_ratio():
    optimizer = build_optimizer(net(), Recipe(**TUNED))
    schedule = build_schedule(optimizer, Recipe(**TUNED), steps_per_epoch=10)
    rates = []
    for _ in range(30):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    backbone, heads = torch.tensor(rates).T
    assert heads.max().item() == pytest.approx(1e-2, rel=1e-3)
    assert 0 < heads.argmax() < 29
    torch.testing.assert_close(backbone, heads * 0.1)


def test_constant_stays_constant_and_one_step_is_enough_for_a_cycle():
    recipe = Recipe(**TUNED | {"schedule": "constant"})
    optimizer = build_optimizer(net(), recipe)
    schedule = build_schedule(optimizer, recipe, steps_per_epoch=4)
    for _ in range(12):
        optimizer.step()
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-2]
    one = Recipe(**TUNED | {"epochs": 1})
    optimizer = build_optimizer(net(), one)
    schedule = build_schedule(optimizer, one, steps_per_epoch=1)
    optimizer.step()
    schedule.step()
    assert all(0 < group["lr"] <= 1e-2 for group in optimizer.param_groups)


def test_a_frozen_backbone_has_no_group():
    frozen = net()
    frozen.freeze_backbone()
    assert [group["name"] for group in build_optimizer(frozen, Recipe(**TUNED)).param_groups] == ["heads"]
