import copy

import pytest
import torch
from torch import nn

from fmtl.model import backbones
from fmtl.model.network import MultiTaskNet
from fmtl.training.criterion import MultiTaskLoss
from fmtl.training.optim import Recipe, Updater, build_optimizer, build_schedule

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
    schedule = build_schedule(optimizer, Recipe(**TUNED), num_steps=30)
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
    schedule = build_schedule(optimizer, recipe, num_steps=12)
    for _ in range(12):
        optimizer.step()
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-2]
    one = Recipe(**TUNED | {"epochs": 1})
    optimizer = build_optimizer(net(), one)
    schedule = build_schedule(optimizer, one, num_steps=1)
    optimizer.step()
    schedule.step()
    assert all(0 < group["lr"] <= 1e-2 for group in optimizer.param_groups)


def test_a_frozen_backbone_has_no_group():
    frozen = net()
    frozen.freeze_backbone()
    assert [group["name"] for group in build_optimizer(frozen, Recipe(**TUNED)).param_groups] == ["heads"]


def named(optimizer):
    return [(group["name"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups]


def test_norms_and_biases_decay_only_if_asked_to():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = MultiTaskNet(backbone, 4, {"a": 3})
    optimizer = build_optimizer(network, Recipe(**TUNED, decay_norms=False))
    decays = {p.ndim: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {4: 1e-4, 2: 1e-4, 1: 0.0}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    everything = build_optimizer(network, Recipe(**TUNED))
    assert {group["weight_decay"] for group in everything.param_groups} == {1e-4}


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0"])  # of torchvision and of timm
def test_layer_decay_lowers_the_rate_from_the_heads_down(backbone):
    network = backbones.build(backbone, {"a": 3}, weights="none", px=32)
    optimizer = build_optimizer(network, Recipe(**TUNED, layer_decay=0.5))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(network.parameters()))
    ordered = [rates[id(p)] for p in network.backbone.parameters()]
    assert ordered == sorted(ordered)
    assert ordered[0] < 0.3 * ordered[-1] <= 0.3 * 1e-3
    assert rates[id(network.heads.weight)] == 1e-2


def test_learnt_task_weights_are_trained_and_do_not_decay():
    network = net()
    loss = MultiTaskLoss(network.num_classes, learn_task_weights=True)
    assert named(build_optimizer(network, Recipe(**TUNED | {"schedule": "constant"}), loss))[-1] == ("loss", 1e-2, 0.0)


@pytest.mark.parametrize(("warmup", "peak"), [(0.0, 0), (0.2, 20)])
def test_cosine_rises_to_the_peak_and_falls_to_nothing(warmup, peak):
    recipe = Recipe(**TUNED | {"schedule": "cosine", "warmup": warmup})
    optimizer = build_optimizer(net(), recipe)
    schedule = build_schedule(optimizer, recipe, num_steps=100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[-1]["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) == pytest.approx(1e-2) and rates.index(max(rates)) == peak
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)
    assert optimizer.param_groups[-1]["lr"] == pytest.approx(0, abs=1e-9)
    half = peak + (100 - peak) // 2
    assert rates[half] == pytest.approx(5e-3, rel=0.05)


@pytest.mark.parametrize(("warmup", "num_steps"), [(0.1, 10), (0.5, 2), (0.05, 20), (0.0, 5), (0.99, 3)])
def test_a_cycle_of_any_warm_up_can_be_gone_through(warmup, num_steps):
    optimizer = build_optimizer(net(), Recipe(**TUNED))
    schedule = build_schedule(optimizer, Recipe(**TUNED, warmup=warmup), num_steps=num_steps)
    for _ in range(num_steps):
        assert 0 < optimizer.param_groups[0]["lr"] <= 1e-3
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "constant"])
def test_an_updater_goes_on_from_its_state_as_if_it_had_not_stopped(schedule):
    recipe = Recipe(**TUNED | {"schedule": schedule, "ema_decay": 0.9})
    images = torch.randn(8, 3, 2, 2)

    def steps(network, updater, num):
        for _ in range(num):
            logits = network.logits(images)
            updater.loss(logits, torch.zeros(8, 1, dtype=torch.int64))[0].backward()
            updater.step()

    def updater_of(network):
        return Updater(network, MultiTaskLoss(network.num_classes, learn_task_weights=True), recipe, num_batches=10)

    whole = net()
    unbroken = updater_of(whole)
    steps(whole, unbroken, 7)
    first = net()
    stopped = updater_of(first)
    steps(first, stopped, 4)
    second = net()
    second.load_state_dict(first.state_dict())
    resumed = updater_of(second)
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    steps(second, resumed, 3)
    for a, b in ((whole, second), (unbroken.evaluated, resumed.evaluated), (unbroken.loss, resumed.loss)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert unbroken.learning_rates == resumed.learning_rates
