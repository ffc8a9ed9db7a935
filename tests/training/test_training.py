"""A training across stages: who iterates over it decides what becomes of each epoch."""

import math

import pytest
import torch
from test_engine import NUM_CLASSES, Counted, make_batches, make_net, recipe

from fmtl.errors import DataError
from fmtl.tasks import IGNORE_INDEX, make_tasks
from fmtl.training.criterion import MultiTaskLoss
from fmtl.training.history import History
from fmtl.training.run import Resumed, Stage, Training

CPU = torch.device("cpu")
TASKS = make_tasks({name: [str(k) for k in range(num)] for name, num in NUM_CLASSES.items()})


def training(net, *stages, val=None, **more):
    """``stages``: (recipe, frozen or not)."""
    made = [
        Stage(net=net, train=make_batches(), val=val or make_batches(), recipe=how, frozen=frozen)
        for how, frozen in stages
    ]
    return Training(net, TASKS, made, loss=MultiTaskLoss(NUM_CLASSES), device=CPU, **more)


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize(("choose_by", "name"), [("loss", "val/loss"), ("refined_loss", "val/refined_loss")])
def test_epochs_are_counted_across_stages_and_the_result_is_of_the_best(choose_by, name):
    net = make_net()
    work = training(net, (recipe(epochs=2), True), (recipe(epochs=3), False), choose_by=choose_by)
    weights, records = {}, []
    for record in work.epochs():
        weights[record.epoch] = state(net)
        records.append(record)
    assert [record.epoch for record in records] == [1, 2, 3, 4, 5]
    assert all(torch.equal(weights[1][k], weights[2][k]) for k in weights[1] if k.startswith("backbone"))
    result = work.finish(make_batches())
    losses = [record.metrics[name] for record in records]
    assert result.best_epoch == losses.index(min(losses)) + 1
    assert [record.is_best for record in records] == [x == min(losses[: i + 1]) for i, x in enumerate(losses)]
    assert all(torch.equal(value, weights[result.best_epoch][k]) for k, value in net.state_dict().items())
    assert result.final_metrics[f"best/{name}"] == min(losses)
    assert math.isnan(records[0].seconds_left) is False and records[-1].seconds_left == 0


def test_over_confidence_decides_on_no_epoch_and_on_no_patience_where_it_is_left_out():
    history = History(4, "val/refined_loss")
    rows = [
        {"epoch": 1, "val/loss": 1.0, "val/refined_loss": 0.9},
        {"epoch": 2, "val/loss": 1.5, "val/refined_loss": 0.8},
    ]
    assert list(history.begin_stage(4)) == [1, 2, 3, 4]
    assert [history.add(row) for row in rows] == [True, True]
    assert history.best["epoch"] == 2 and not history.is_over(1)
    by_loss = History(4, "val/loss", rows)
    by_loss.begin_stage(4)
    assert by_loss.best["epoch"] == 1 and by_loss.is_over(1)


def test_a_score_chooses_the_first_of_the_highest():
    scores = [0.5, 0.7, 0.6, 0.7]
    history = History(4, "val/avg/f1")
    history.begin_stage(4)
    assert [history.add({"epoch": n, "val/avg/f1": f1}) for n, f1 in enumerate(scores, 1)] == [True, True, False, False]
    assert history.best["epoch"] == 2 and history.is_over(2) and not history.is_over(3)


def test_who_stops_iterating_stops_the_training():
    net, batches = make_net(), Counted(make_batches())
    stage = Stage(net=net, train=batches, val=make_batches(), recipe=recipe(epochs=9))
    work = Training(net, TASKS, [stage], loss=MultiTaskLoss(NUM_CLASSES), device=CPU)
    for record in work.epochs():
        if record.epoch == 2:
            break
    assert batches.epochs == 2 and len(work.history.rows) == 2


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_what_goes_on_from_a_state_ends_as_what_never_stopped(after):
    plan = ((recipe(epochs=2, ema_decay=0.9), True), (recipe(epochs=3, ema_decay=0.9), False))
    whole = make_net()
    unbroken = training(whole, *plan)
    list(unbroken.epochs())
    first = make_net()
    broken = training(first, *plan)
    for record in broken.epochs():
        if record.is_best:
            best = {k: v.clone() for k, v in broken.evaluated_weights.items()}
        if record.epoch == after:
            saved, weights = broken.state, state(first)
            break
    second = make_net()
    second.load_state_dict(weights)
    resumed = Resumed(history=saved["history"], updater=saved["updater"], best_weights=best)
    again = training(second, *plan, resumed=resumed)
    assert [record.epoch for record in again.epochs()] == list(range(after + 1, 6))
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True)
    )
    scores = [[row["val/loss"] for row in work.history.rows] for work in (unbroken, again)]
    assert scores[0] == scores[1]


def test_patience_ends_a_stage_and_says_so():
    still = recipe(epochs=9, learning_rate=1e-12, schedule="constant", weight_decay=0.0, patience=2)
    net = make_net(dropout=0)
    net.freeze_backbone()  # nor do BatchNorm's statistics move
    records = list(training(net, (still, True)).epochs())
    assert [record.stopped_after for record in records] == [0, 0, 2]


def test_without_any_validation_label_no_epoch_is_better_than_another():
    unknown = [(x, {k: torch.full_like(v, IGNORE_INDEX) for k, v in t.items()}) for x, t in make_batches()]
    with pytest.raises(DataError, match="validation: no image has a label"):
        next(training(make_net(), (recipe(), False), val=unknown).epochs())
