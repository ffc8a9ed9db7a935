import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fmtl.errors import Diverged
from fmtl.loading.pacing import Paced
from fmtl.model.network import MultiTaskNet
from fmtl.tasks import IGNORE_INDEX
from fmtl.training.criterion import MultiTaskLoss
from fmtl.training.engine import fit, train_one_epoch
from fmtl.training.evaluating import evaluate
from fmtl.training.optim import Recipe, Updater

CPU = torch.device("cpu")
NUM_CLASSES = {"a": 3, "b": 2}


def make_net(dropout=0.2):
    torch.manual_seed(1)
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return MultiTaskNet(backbone, 8, NUM_CLASSES)


def make_batches(num=6, size=8, missing=True):
    """Images whose brightness decides both targets; a few targets are missing."""
    g = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(num):
        level = torch.rand(size, generator=g) * 3
        images = level.view(-1, 1, 1, 1) + 0.1 * torch.randn(size, 3, 6, 6, generator=g)
        targets = {"a": level.long().clamp(max=2), "b": (level > 1.5).long()}
        if missing:
            targets["a"][0] = IGNORE_INDEX
            targets["b"][:2] = IGNORE_INDEX
        batches.append((images, targets))
    return batches


def recipe(**changes):
    values = {
        "epochs": 3, "learning_rate": 3e-2, "backbone_lr_scale": 0.5, "optimizer": "adamw", "weight_decay": 1e-4,
        "schedule": "onecycle", "clip_norm": 1.0, "seed": 0,
    }  # fmt: skip
    return Recipe(**values | changes)


def run(net, batches, plan, val=None, **loss_options):
    loss = MultiTaskLoss(net.num_classes, **loss_options)
    updater = Updater(net, loss, plan, num_batches=len(batches))
    return fit(net, batches, val or batches, recipe=plan, updater=updater, loss=loss, device=CPU)


def evaluated(net, batches, **loss_options):
    return evaluate(net, batches, loss=MultiTaskLoss(net.num_classes, **loss_options), device=CPU)


def test_the_loss_falls_and_accuracy_rises_in_a_few_dozen_steps():
    results = list(run(make_net(), make_batches(), recipe(epochs=12)))
    assert [r.epoch for r in results] == list(range(1, 13))
    assert results[-1].val.loss < 0.6 < results[0].val.loss
    assert results[-1].val.scores["avg"]["accuracy"] > 0.85


def test_same_seed_twice_gives_equal_weights_and_another_seed_does_not():
    weights = []
    for seed in (0, 0, 1):
        net = make_net()
        list(run(net, make_batches(), recipe(seed=seed)))
        weights.append(torch.cat([p.flatten() for p in net.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_step_equals_the_loop_written_by_hand():
    batches, plan = make_batches(), recipe(epochs=2)
    ours, by_hand = make_net(dropout=0), make_net(dropout=0)
    list(run(ours, batches, plan))
    optimizer = torch.optim.AdamW(
        [{"params": by_hand.backbone.parameters()}, {"params": by_hand.heads.parameters()}], weight_decay=1e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [1.5e-2, 3e-2], total_steps=12)
    for epoch in (1, 2):
        torch.manual_seed(epoch)
        by_hand.train()
        for images, targets in batches:
            logits = by_hand(images)
            loss = sum(F.cross_entropy(logits[t], targets[t], ignore_index=IGNORE_INDEX) for t in NUM_CLASSES)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    for a, b in zip(ours.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_evaluation_does_not_depend_on_how_images_are_batched():
    net = make_net()
    batches = make_batches()
    images = torch.cat([b[0] for b in batches])
    targets = {t: torch.cat([b[1][t] for b in batches]) for t in NUM_CLASSES}
    many = evaluated(net, batches)
    one = evaluated(net, [(images, targets)])
    assert many.loss == pytest.approx(one.loss)
    for t in NUM_CLASSES:
        np.testing.assert_array_equal(many.confusion[t], one.confusion[t])
        np.testing.assert_allclose(many.probs[t], one.probs[t], rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(many.targets[t], targets[t].numpy())
    known = targets["a"] != IGNORE_INDEX
    with torch.no_grad():
        want = F.cross_entropy(net.eval()(images)["a"][known], targets["a"][known])
    assert one.task_losses["a"] == pytest.approx(want.item())


def test_a_task_without_targets_leaves_the_others_as_they_are():
    net, batches = make_net(), make_batches()
    without = [(i, {"a": t["a"], "b": torch.full_like(t["b"], IGNORE_INDEX)}) for i, t in batches]
    full, part = (evaluated(net, b) for b in (batches, without))
    assert part.loss == pytest.approx(full.task_losses["a"])
    assert np.isnan(part.task_losses["b"])
    assert part.scores["avg"] == pytest.approx(full.scores["a"])


def test_a_loss_that_is_not_finite_stops_the_run():
    with pytest.raises(Diverged, match="epoch 1: the training loss is nan.*lower learning_rate"):
        list(run(make_net(), [(i * float("nan"), t) for i, t in make_batches()], recipe()))


def test_a_validation_loss_that_is_not_finite_stops_the_run_and_is_never_zero():
    net, batches = make_net(), make_batches()
    broken = [(images * float("nan"), targets) for images, targets in batches]
    assert np.isnan(evaluated(net, broken).loss)
    with pytest.raises(Diverged, match="the validation loss is nan"):
        list(run(net, batches, recipe(), val=broken))


class Counted(list):
    """Batches that count the epochs that were asked of them."""

    epochs = 0

    def __iter__(self):
        self.epochs += 1
        return super().__iter__()


def test_stopping_early_is_breaking_out_of_the_loop():
    net, train, val = make_net(), Counted(make_batches()), Counted(make_batches())
    for result in run(net, train, recipe(epochs=50), val=val):
        if result.epoch == 2:
            break
    assert result.epoch == 2
    assert (train.epochs, val.epochs) == (2, 2)  # nothing was trained that nobody asked for


def test_an_epoch_is_trained_when_it_is_asked_for():
    net, train = make_net(), Counted(make_batches())
    before = [p.clone() for p in net.parameters()]
    results = run(net, train, recipe(epochs=3), val=make_batches())
    assert train.epochs == 0 and all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))
    next(results)
    assert train.epochs == 1 and not all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))


def test_the_users_criterion_is_used():
    def twice(logits, targets):
        return 2 * F.cross_entropy(logits, targets)

    net, batches = make_net(), make_batches()
    plain = evaluated(net, batches)
    doubled = evaluated(net, batches, criterions={"a": twice})
    assert doubled.task_losses["a"] == pytest.approx(2 * plain.task_losses["a"])
    assert doubled.task_losses["b"] == pytest.approx(plain.task_losses["b"])


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for a device: values read as Python numbers, and shapes that depend on values."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._schema.name.removeprefix("aten::") in self.WAITING
        return func(*args, **kwargs or {})


FULL = {"ema_decay": 0.9, "accumulate": 2, "clip_norm": 1.0, "schedule": "cosine", "decay_norms": False}


@pytest.mark.parametrize(
    ("changes", "loss_options"),
    [
        ({}, {}),
        (FULL, {"label_smoothing": 0.1, "learn_task_weights": True, "class_weights": {"a": torch.ones(3)}}),
    ],
)
@pytest.mark.parametrize("num", [4, 12])
def test_an_epoch_reads_one_number_from_the_device_however_many_steps_it_has(changes, loss_options, num):
    net, batches, plan = make_net(), make_batches(num), recipe(**changes)
    loss = MultiTaskLoss(net.num_classes, **loss_options)
    updater = Updater(net, loss, plan, num_batches=num)
    with Reads() as reads:
        train_one_epoch(net, batches, recipe=plan, updater=updater, loss=loss, device=CPU)
    assert reads.count == 1


@pytest.mark.parametrize(
    "read", [lambda loss: loss.item(), lambda loss: float(loss.detach()), lambda loss: bool(loss > 0)]
)
def test_a_loop_that_reads_its_loss_is_caught(read):
    net = make_net()
    with Reads() as reads:
        for images, targets in make_batches(5):
            loss = sum(F.cross_entropy(net(images)[t], targets[t], ignore_index=IGNORE_INDEX) for t in NUM_CLASSES)
            loss.backward()
            read(loss)
    assert reads.count == 5


def test_an_evaluation_reads_as_often_for_many_batches_as_for_few():
    counts = []
    for num in (2, 9):
        with Reads() as reads:
            evaluated(make_net(), make_batches(num))
        counts.append(reads.count)
    assert counts[0] == counts[1]


def joined(batches):
    return torch.cat([b[0] for b in batches]), {t: torch.cat([b[1][t] for b in batches]) for t in NUM_CLASSES}


def test_accumulated_batches_are_one_step_of_their_mean_gradient_and_so_are_the_fewer_last_ones():
    batches = make_batches(6, missing=False)
    plan = {"epochs": 2, "schedule": "constant", "clip_norm": 0.0}
    small, large = make_net(dropout=0), make_net(dropout=0)
    for net in (small, large):  # whose normalisation does not depend on the batch
        net.backbone[1] = nn.GroupNorm(2, 8)
    torch.manual_seed(0)
    list(run(small, batches, recipe(accumulate=4, **plan)))
    list(run(large, [joined(batches[:4]), joined(batches[4:])], recipe(**plan)))
    for a, b in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_the_last_batches_make_a_step_too_when_they_are_fewer():
    net, plan = make_net(), recipe(epochs=1, accumulate=4)
    loss = MultiTaskLoss(net.num_classes)
    updater = Updater(net, loss, plan, num_batches=6)
    train_one_epoch(net, make_batches(6), recipe=plan, updater=updater, loss=loss, device=CPU)
    assert updater.schedule.last_epoch == 2


def test_the_average_of_the_weights_is_what_is_evaluated():
    net, batches, plan = make_net(), make_batches(), recipe(epochs=2, ema_decay=0.9)
    loss = MultiTaskLoss(net.num_classes)
    updater = Updater(net, loss, plan, num_batches=len(batches))
    *_, last = fit(net, batches, batches, recipe=plan, updater=updater, loss=loss, device=CPU)
    assert updater.evaluated is not net
    assert last.val.loss == pytest.approx(evaluated(updater.evaluated, batches).loss)
    assert last.val.loss != pytest.approx(evaluated(net, batches).loss)


@pytest.mark.parametrize("changes", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_a_network_learns_from_mixed_images_and_the_same_seed_mixes_alike(changes):
    losses = [[r.val.loss for r in run(make_net(), make_batches(missing=True), recipe(epochs=12, **changes))]
              for _ in range(2)]  # fmt: skip
    assert losses[0] == losses[1]
    assert losses[0][-1] < 0.8 * losses[0][0]


def test_a_pace_counts_images_and_the_wait_for_them():
    def slow():
        for batch in make_batches(3):
            time.sleep(0.05)
            yield batch

    paced = Paced(slow())
    for _ in paced:
        time.sleep(0.05)
    assert paced.num_images == 24
    assert 0.15 <= paced.data_seconds < 0.15 + 0.5 * (paced.seconds - 0.3) + 0.1
    assert 0.3 < paced.data_share < 0.7
