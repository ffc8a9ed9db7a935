"""A training with a budget of time: what is chosen for it, and when it ends."""

import logging
import math
import time

import mlflow
import pytest

from fmtl.commands.train import train
from fmtl.commands.training import budget
from fmtl.commands.training.budget import ENOUGH_EPOCHS, MOST_EPOCHS, Limit, Rung, climb, ladder
from fmtl.commands.training.pace import Pace, measure
from fmtl.commands.training.work import prepare
from fmtl.errors import UsageError
from fmtl.settings import reading, schema
from fmtl.settings.reading import Given

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


def test_a_guess_for_another_side_goes_by_the_area():
    pace = Pace(trained=0.02, evaluated=0.01, kept=0.5, figure=0.1)
    assert pace.epoch(100, 10) == pytest.approx(2.0 + 0.1 + 0.5)
    assert pace.at(256, of=128).epoch(100, 10) == pytest.approx(8.0 + 0.4 + 0.5)


def test_what_is_timed_is_real_and_leaves_the_training_to_come_as_it_would_be(store, dataset):
    pace = measure(prepare(given(dataset.folder)))
    assert all(value > 0 and math.isfinite(value) for value in (pace.trained, pace.evaluated, pace.kept))
    alone = mlflow.get_run(train(given(dataset.folder, epochs=1))).data.metrics
    measure(prepare(given(dataset.folder)))
    after = mlflow.get_run(train(given(dataset.folder, epochs=1))).data.metrics
    assert after["val/loss"] == alone["val/loss"]


def test_a_run_with_a_budget_is_one_with_the_epochs_that_it_chose(store, dataset, caplog):
    caplog.set_level(logging.INFO, logger="fmtl")
    run = mlflow.get_run(train(given(dataset.folder, budget="45s")))
    epochs = int(run.data.params["epochs"])
    assert epochs >= 1 and float(run.data.params["budget"]) == 45
    assert f"{epochs} epochs of resnet18 at 32 px" in caplog.text
    assert len(mlflow.MlflowClient().get_metric_history(run.info.run_id, "val/loss")) == epochs
    config = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.yaml")
    assert f"epochs: {epochs}" in config
    assert "budget: null" in config  # the file alone makes the same training anywhere


def test_what_does_not_go_with_a_budget_is_refused(store, dataset):
    with pytest.raises(UsageError, match="budget, epochs: give one of them"):
        train(given(dataset.folder, budget=60, epochs=3))
    with pytest.raises(UsageError, match="budget: .*leave freeze"):
        train(given(dataset.folder, budget=60, freeze=True))
    with pytest.raises(UsageError, match="budget: a run that goes on"):
        reading.build(schema.TrainSettings, {n: Given(v, n) for n, v in {"budget": "5m", "resume": "last"}.items()})
    with pytest.raises(UsageError, match=r"budget: 1 s is too little: an epoch of resnet18 at 32 px takes"):
        train(given(dataset.folder, budget=1))
    assert not mlflow.search_runs(search_all_experiments=True, output_format="list")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("10 min", 600), ("1h30m", 5400), ("1.5h", 5400), ("45", 45)]
)
def test_a_time_as_people_write_it(text, seconds):
    assert reading.build(schema.TrainSettings, {"budget": Given(text, "--budget")}).budget == seconds


@pytest.mark.parametrize("text", ["soon", "-5m", "10m5", "1.2.3", "0s", "5 minutes or so"])
def test_what_is_no_time_is_named(text):
    with pytest.raises(UsageError, match="--budget: expected"):
        reading.build(schema.TrainSettings, {"budget": Given(text, "--budget")})


def test_a_training_that_would_be_late_ends_after_an_epoch(store, dataset, caplog, monkeypatch):
    now = time.monotonic()
    late = Limit(budget=60, end=now + 5, rest=10)
    monkeypatch.setattr(
        budget, "settled", lambda settings, since: (settings.model_copy(update={"epochs": 3}), late)
    )  # as if the machine had been free in the trial
    run = mlflow.get_run(train(given(dataset.folder, budget=60)))
    assert run.info.status == "FINISHED" and run.data.metrics["best/epoch"] == 1
    assert len(mlflow.MlflowClient().get_metric_history(run.info.run_id, "val/loss")) == 1
    assert "the training ends after epoch 1" in caplog.text
