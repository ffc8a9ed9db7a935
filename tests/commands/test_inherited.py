"""Trainings that begin with a model of one's own."""

import logging

import mlflow
import pytest
import yaml

from fmtl.commands.train import train
from fmtl.errors import DataError, UsageError
from fmtl.settings.schema import TrainSettings
from fmtl.tracking import earlier, pyfunc, registry, store

QUICK = {
    "batch_size": 128, "epochs": 1, "extra_plots": False, "gallery": False, "precision": "fp32", "channels_last": False,
}  # fmt: skip
STILL = {"freeze": True, "learning_rate": 1e-12, "label_smoothing": 0, "save_checkpoints": False}


@pytest.fixture
def first(store, dataset):
    return train(TrainSettings(data=str(dataset.folder), backbone="test_efficientnet", weights="none", px=32, **QUICK))


@pytest.mark.parametrize("by", ["run", "alias", "folder"])
def test_a_training_that_moves_nothing_is_as_good_as_the_model_that_it_begins_with(first, dataset, caplog, by):
    caplog.set_level(logging.INFO, "fmtl")
    record = store.get_run(first)
    address = {"run": first, "folder": str(pyfunc.model_folder(str(record.model_uri)))}.get(by)
    if by == "alias":
        registry.register(record, name="shop", alias="champion")
        address = "models:/shop@champion"
    second = mlflow.get_run(train(TrainSettings(data=str(dataset.folder), weights=address, **QUICK | STILL)))
    was = mlflow.get_run(first).data.metrics
    for name in ("val/loss", "test/loss", "test/avg/f1", "test/avg/accuracy"):
        assert second.data.metrics[name] == pytest.approx(was[name], rel=1e-5), name
    params = second.data.params
    assert (params["backbone"], params["px"]) == ("test_efficientnet", "32")
    assert params["weights"] == (address if by == "folder" else record.model_uri)
    for task in dataset.tasks:
        assert f"{task.name}: {task.num_classes} of {task.num_classes} classes taken over" in caplog.text


def test_what_does_not_fit_is_refused_before_anything_is_trained(first, dataset):
    given = {"data": str(dataset.folder), "weights": first} | QUICK
    with pytest.raises(UsageError, match="is a test_efficientnet, and backbone=resnet18 is asked for"):
        train(TrainSettings(backbone="resnet18", **given))
    with pytest.raises(DataError, match="not in the store"):
        train(TrainSettings(**given | {"weights": "0" * 32}))
    with pytest.raises(DataError, match="models:/nobody@champion"):
        train(TrainSettings(**given | {"weights": "models:/nobody@champion"}))


def test_it_goes_on_after_an_interruption_without_asking_for_the_model_again(first, dataset):
    second = train(TrainSettings(data=str(dataset.folder), weights=first, run_name="next", **QUICK))
    third = train(TrainSettings(resume=second, extend_to=2))
    kept = yaml.safe_load((earlier.find_here(third).files / "config.yaml").read_text())
    assert kept["weights"] == store.get_run(first).model_uri and kept["backbone"] == "test_efficientnet"
