"""A training that goes on from any step ends with the same bits as one that was never interrupted."""

import hashlib
import io
import math

import pytest
import torch
from test_engine import NUM_CLASSES, make_batches, make_net, recipe
from torch import nn

from fmtl.errors import Diverged
from fmtl.tasks import make_tasks
from fmtl.training import checkpoints, skipping
from fmtl.training.criterion import MultiTaskLoss
from fmtl.training.run import Resumed, Stage, Training

CPU = torch.device("cpu")
TASKS = make_tasks({name: [str(k) for k in range(num)] for name, num in NUM_CLASSES.items()})
PLAN = (
    (recipe(epochs=1, accumulate=2, ema_decay=0.9, mixup=0.3, cutmix=0.3), True),
    (recipe(epochs=2, accumulate=2, ema_decay=0.9, mixup=0.3, cutmix=0.3), False),
)


class Stop(BaseException):
    pass


class Loader(list):
    """Batches in an order drawn from the epoch."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def order(self):
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(self.epoch)).tolist()

    def __iter__(self):
        yield from (self[i] for i in self.order()[self.start :])

    start = 0

    def after(self, num_batches):
        rest = type(self)(list.__getitem__(self, slice(None)))
        rest.epoch, rest.start = self.epoch, num_batches
        return rest

    def paths(self, first, last):
        return [f"{i}.jpg" for i in self.order()[first:last]]


class WithoutAGenerator(Loader):
    """Draws from torch's own, which a training's dropout and mixing draw from, too."""

    def order(self):
        return torch.randperm(len(self)).tolist()


def training(net, kind=Loader, resumed=None):
    made = [Stage(net=net, train=kind(make_batches(5)), val=make_batches(2), recipe=how, frozen=frozen)
            for how, frozen in PLAN]  # fmt: skip
    return Training(net, TASKS, made, loss=MultiTaskLoss(NUM_CLASSES), device=CPU, resumed=resumed)


def content(work):
    """All that a training has: weights, their average, optimizer, schedule, history, best weights."""
    rows = [{k: v for k, v in row.items() if "second" not in k and k != "data_share"} for row in work.history.rows]
    buffer = io.BytesIO()
    torch.save([work.net.state_dict(), work.state["updater"], dict(work.best_weights)], buffer)
    return hashlib.sha256(buffer.getvalue() + repr(rows).encode()).hexdigest()


def run_until(work, stop, best):
    """Counts the boundaries between steps, and stops at one of them."""
    num = 0

    def at_step():
        nonlocal num
        num += 1
        if num == stop:
            raise Stop

    try:
        for record in work.epochs(at_step=at_step):
            if record.is_best:
                best.clear()
                best.update({k: v.clone() for k, v in work.evaluated_weights.items()})
    except Stop:
        pass
    return num


def interrupted_at(stop, folder, kind=Loader):
    """What becomes of a training that is stopped, written to a disk, read and continued by another one."""
    torch.manual_seed(5)
    best = {}
    first = training(make_net(), kind)
    run_until(first, stop, best)
    rows = first.history.rows
    checkpoints.save(folder / "x.pt", model=first.net.state_dict(), tasks=TASKS, settings={}, epoch=len(rows),
                     metrics=rows[-1] if rows else {}, training=first.state)  # fmt: skip
    torch.manual_seed(99)
    saved = checkpoints.load(folder / "x.pt")
    net = make_net()
    net.load_state_dict(saved.model)
    state = saved.training
    resumed = Resumed(history=state["history"], updater=state["updater"], best_weights=best, position=state["position"])
    second = training(net, kind, resumed)
    run_until(second, 0, best)
    return content(second)


def test_it_goes_on_from_every_step_and_every_batch_of_the_validation_to_the_same_bits(tmp_path):
    whole = training(make_net())
    boundaries = run_until(whole, 0, {})
    assert boundaries == 3 * (3 + 2)
    for stop in range(1, boundaries + 1):
        assert interrupted_at(stop, tmp_path) == content(whole), f"boundary {stop} of {boundaries}"


def test_a_loader_without_a_generator_of_its_own_does_not_repeat_itself(tmp_path):
    """The control: the comparison above can fail."""
    torch.manual_seed(5)
    whole = training(make_net(), WithoutAGenerator)
    run_until(whole, 0, {})
    assert interrupted_at(6, tmp_path, WithoutAGenerator) != content(whole)


class Explodes(nn.Module):
    """A backbone whose output is not finite for some calls."""

    def __init__(self, body, calls):
        super().__init__()
        self.body, self.calls, self.num = body, calls, 0

    def forward(self, images):
        if self.training:
            self.num += 1
            if self.num in self.calls:
                images = images * torch.inf
        return self.body(images)


def exploding(calls, batches):
    net = make_net()
    net.backbone = Explodes(net.backbone, calls)
    stage = Stage(net=net, train=Loader(batches), val=make_batches(2), recipe=recipe(epochs=1, schedule="constant"))
    return net, Training(net, TASKS, [stage], loss=MultiTaskLoss(NUM_CLASSES), device=CPU)


def test_a_step_that_is_not_finite_leaves_nothing_but_what_repeats_it(tmp_path):
    batches, skipped, before = make_batches(4), [], {}
    net, work = exploding({2}, batches)

    def at_step():
        before[len(before)] = {k: v.clone() for k, v in net.state_dict().items()}

    def on_skip(step):
        skipped.append(step)
        skipping.save(tmp_path / "step.pt", step)
        return step

    (record,) = list(work.epochs(at_step=at_step, on_skip=on_skip))
    assert all(torch.equal(before[0][k], before[1][k]) for k in before[0])  # BatchNorm's statistics, too
    assert any(not torch.equal(before[1][k], before[2][k]) for k in before[0])
    assert all(value.isfinite().all() for value in net.state_dict().values())
    (step,) = skipped
    assert (step.epoch, step.first_batch, list(step.tasks)) == (1, 2, ["a", "b"])
    loader = Loader(batches)
    loader.set_epoch(1)
    assert list(step.photos) == loader.paths(1, 2)
    assert record.metrics["train/skipped_steps"] == 1
    again, loss = make_net(), MultiTaskLoss(NUM_CLASSES)
    again.backbone = Explodes(again.backbone, {1})
    found = skipping.replay(tmp_path / "step.pt", again, loss, CPU)
    assert all(math.isnan(value) for value in found.values())
    again.backbone.calls = set()
    assert all(map(math.isfinite, skipping.replay(tmp_path / "step.pt", again, loss, CPU).values()))


def test_too_many_in_a_row_end_the_training_and_name_step_task_and_photos():
    net, work = exploding(set(range(3, 99)), make_batches(20))
    with pytest.raises(Diverged, match=r"epoch 1, batch 12, photos \d+.jpg: the loss of a, b is not finite, as of 10 "):
        list(work.epochs())
    assert all(value.isfinite().all() for value in net.state_dict().values())
