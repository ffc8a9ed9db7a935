"""A training with a budget of time: what is chosen for it, and when it ends."""

import logging
import math
import time

import mlflow
import pytest

from fmtl.commands.train import train, train_variants
from fmtl.commands.training import budget
from fmtl.commands.training.budget import ENOUGH_EPOCHS, MOST_EPOCHS, Limit, Rung, climb, ladder
from fmtl.commands.training.pace import Pace, measure
from fmtl.commands.training.work import prepare
from fmtl.errors import UsageError
from fmtl.settings import reading, schema
from fmtl.settings.reading import Given
from fmtl.training.run import EpochRecord

SMALL = {
    "backbone": "resnet18", "weights": "none", "px": 32, "batch_size": 64, "gallery": False, "precision": "fp32",
    "channels_last": True, "extra_plots": False,
}  # fmt: skip
RUNGS = [Rung("a", 64), Rung("a", 128), Rung("b", 224)]


def given(data, **changes):
    return schema.TrainSettings(data=str(data), **SMALL | changes)


@pytest.mark.parametrize(
    ("epochs", "rung", "chosen"),
    [
        ((3, 1, 0), 0, 3),  # too little for any: the fastest
        ((ENOUGH_EPOCHS, ENOUGH_EPOCHS - 1, 0), 0, ENOUGH_EPOCHS),
        ((40, ENOUGH_EPOCHS, 4), 1, ENOUGH_EPOCHS),
        ((400, 90, 30), 2, 30),
        ((9000, 800, 700), 2, MOST_EPOCHS),
        ((0, 0, 0), 0, 0),
    ],
)
def test_the_dearest_of_which_enough_epochs_fit_is_chosen(epochs, rung, chosen):
    assert climb(RUNGS, dict(zip(RUNGS, epochs, strict=True)).__getitem__) == (RUNGS[rung], chosen)


def test_what_is_given_is_not_chosen():
    bundled = [f"tf_efficientnet_lite{i}" for i in range(3)]

    def rungs(stored_px, **settings):
        return [(rung.backbone, rung.px) for rung in ladder(schema.TrainSettings(budget=60, **settings), stored_px)]

    assert rungs(256, backbone="resnet18", px=32) == [("resnet18", 32)]
    assert rungs(256, backbone="resnet18") == [("resnet18", px) for px in (64, 96, 128, 160, 192, 224)]
    assert rungs(80, weights="none") == [("convnext_tiny", 64), ("convnext_tiny", 80)]
    assert rungs(256, px=64) == [(name, 64) for name in bundled]
    assert rungs(128) == [(bundled[0], 64), (bundled[0], 96), *((name, 128) for name in bundled)]


def test_an_epoch_is_its_photos_and_what_is_kept_of_it():
    pace = Pace(trained=0.02, evaluated=0.01, kept=0.5, figure=0.1)
    assert pace.epoch(100, 10) == pytest.approx(2.0 + 0.1 + 0.5)
    assert pace.times(4).epoch(100, 10) == pytest.approx(8.0 + 0.4 + 0.5)


def test_what_is_timed_is_real_and_leaves_the_training_to_come_as_it_would_be(store, dataset):
    pace = measure(prepare(given(dataset.folder)))
    assert all(value > 0 and math.isfinite(value) for value in (pace.trained, pace.evaluated, pace.kept))
    alone = mlflow.get_run(train(given(dataset.folder, epochs=1))).data.metrics
    measure(prepare(given(dataset.folder)))
    after = mlflow.get_run(train(given(dataset.folder, epochs=1))).data.metrics
    assert after["val/loss"] == alone["val/loss"]


def test_a_run_with_a_budget_is_one_with_the_epochs_that_it_chose(store, dataset, caplog, monkeypatch):
    monkeypatch.setattr(budget, "MOST_EPOCHS", 2)
    caplog.set_level(logging.INFO, logger="fmtl")
    run = mlflow.get_run(train(given(dataset.folder, budget="10m")))
    epochs = int(run.data.params["epochs"])
    assert epochs == 2 and float(run.data.params["budget"]) == 600
    assert "2 epochs, the most there are, of resnet18 at 32 px" in caplog.text
    assert len(mlflow.MlflowClient().get_metric_history(run.info.run_id, "val/loss")) == epochs
    config = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.yaml")
    assert f"epochs: {epochs}" in config
    assert "budget: null" in config  # the file alone makes the same training anywhere


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "60", "epochs": "3"}, "budget, epochs: give one of them"),
        ({"budget": "60", "freeze": "true"}, "budget: .*leave freeze"),
        ({"budget": "5m", "resume": "last"}, "budget: a run that goes on"),
    ],
)
def test_what_does_not_go_with_a_budget_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        reading.build(schema.TrainSettings, {name: Given(value, name) for name, value in options.items()})


def test_a_budget_that_is_too_little_says_what_it_takes(store, dataset):
    with pytest.raises(UsageError, match=r"budget: 1 seconds are too little: an epoch of resnet18 at 32 px takes"):
        train(given(dataset.folder, budget=1))
    assert not mlflow.search_runs(search_all_experiments=True, output_format="list")


def test_a_side_that_the_network_does_not_take_is_left_out(store, dataset, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="fmtl")
    made = budget.prepare

    def prepare(settings, **how):
        if settings.px != 16:
            raise UsageError(f"px: resnet18 can't take {settings.px}x{settings.px} images")
        return made(settings, **how)

    monkeypatch.setattr(budget, "SIDES", (16, 32, 48))
    monkeypatch.setattr(budget, "prepare", prepare)
    settings, _ = budget.settled(given(dataset.folder, px=None, budget=600), since=time.monotonic())
    assert settings.px == 16 and settings.budget is None
    assert "not at 64 px: px: resnet18 can't take 64x64" in caplog.text


def test_where_no_side_is_taken_the_reason_is_said(store, dataset):
    with pytest.raises(UsageError, match="px: 128 is larger than the stored side 64"):
        train(given(dataset.folder, budget=60, px=128))


def test_auto_is_a_side_that_was_given(store, dataset):
    settings, _ = budget.settled(given(dataset.folder, px="auto", budget=600), since=time.monotonic())
    assert settings.px == min(64, -(-dataset.source_px // 32) * 32)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("10 min", 600), ("1h30m", 5400), ("1.5h", 5400), ("45", 45)]
)
def test_a_time_as_people_write_it(text, seconds):
    assert reading.build(schema.TrainSettings, {"budget": Given(text, "--budget")}).budget == seconds


@pytest.mark.parametrize("text", ["soon", "-5m", "10m5", "1.2.3", "0s", "5 minutes or so"])
def test_what_is_no_time_is_named(text):
    with pytest.raises(UsageError, match="--budget: expected"):
        reading.build(schema.TrainSettings, {"budget": Given(text, "--budget")})


@pytest.mark.parametrize(
    ("left", "seconds_left", "stopped_after", "ends"),
    [(100, 50.0, 0, False), (8, 50.0, 0, True), (-5, 50.0, 0, True), (8, 0.0, 0, False), (8, 50.0, 3, False)],
)
def test_a_training_ends_after_an_epoch_where_the_next_one_would_be_late(left, seconds_left, stopped_after, ends):
    limit = Limit(budget=600, end=time.monotonic() + 20 + left, kept=2, rest=20)
    record = EpochRecord(
        epoch=1, metrics={"epoch_seconds": 10.0}, val=None, is_best=True, seconds_left=seconds_left,
        stopped_after=stopped_after,
    )  # fmt: skip
    assert limit.ends_after(record) is ends


def test_a_training_that_ends_early_says_so_and_is_complete(store, dataset, caplog, monkeypatch):
    late = Limit(budget=60, end=time.monotonic() + 5, kept=0, rest=10)
    monkeypatch.setattr(
        budget, "settled", lambda settings, since: (settings.model_copy(update={"epochs": 3}), late)
    )  # as if the machine had been free in the trial
    run = mlflow.get_run(train(given(dataset.folder, budget=60)))
    assert run.info.status == "FINISHED" and run.data.metrics["best/epoch"] == 1
    assert len(mlflow.MlflowClient().get_metric_history(run.info.run_id, "val/loss")) == 1
    assert "the training ends after epoch 1" in caplog.text
    assert "epoch 1 of 1, 3 were planned" in run.data.tags["mlflow.note.content"]


def test_a_budget_does_not_change_what_its_settings_come_to(store, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "MOST_EPOCHS", 2)
    run = mlflow.get_run(train(given(dataset.folder, budget=600)))
    config = tmp_path / "config.yaml"
    config.write_text(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.yaml"))
    (again,) = reading.build_from_file(schema.TrainSettings, {}, config)
    repeated = mlflow.get_run(train(again))
    assert repeated.data.metrics["test/loss"] == run.data.metrics["test/loss"]
    assert "budget" not in repeated.data.params


def test_variants_are_checked_as_what_they_may_become(store, dataset):
    variants = [schema.TrainSettings(data=str(dataset.folder), budget=1, seed=seed) for seed in (0, 1)]
    with pytest.raises(UsageError, match="1 seconds are too little: an epoch of tf_efficientnet_lite0"):
        train_variants(variants)  # and not: the ImageNet weights of convnext_tiny can't be fetched
