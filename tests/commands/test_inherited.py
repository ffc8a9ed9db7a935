"""Trainings that begin with a model of one's own."""

import json
import logging
import shutil

import mlflow
import pytest
import yaml

from fmtl.commands import publisher
from fmtl.commands.train import train, train_variants
from fmtl.errors import DataError, UsageError
from fmtl.model import predictor
from fmtl.settings.schema import TrainSettings
from fmtl.storage.records import SEAL, sealed
from fmtl.tracking import earlier, pyfunc, registry
from fmtl.tracking import store as stores

QUICK = {
    "batch_size": 128, "epochs": 1, "extra_plots": False, "gallery": False, "precision": "fp32", "channels_last": False,
}  # fmt: skip
STILL = {"freeze": True, "learning_rate": 1e-12, "label_smoothing": 0, "save_checkpoints": False}


def champion(record):
    """Let the alias of the shop point to a run's model."""
    version = registry.add_version(record, "shop", tags={}, description="")
    registry.move_alias("shop", "champion", version, why="a test")


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.fixture
def first(store, dataset):
    return train(TrainSettings(data=str(dataset.folder), backbone="test_efficientnet", weights="none", px=32, **QUICK))


@pytest.mark.parametrize("by", ["run", "alias", "folder"])
def test_a_training_that_moves_nothing_is_as_good_as_the_model_that_it_begins_with(first, dataset, caplog, by):
    caplog.set_level(logging.INFO, "fmtl")
    record = stores.get_run(first)
    address = {"run": first, "folder": str(pyfunc.model_folder(str(record.model_uri)))}.get(by)
    if by == "alias":
        champion(record)
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


def test_it_goes_on_as_it_began_without_asking_for_the_model_again(first, dataset, monkeypatch, tmp_path):
    """From a model that saw photos normalised in a way of its own."""
    model = shutil.copytree(pyfunc.model_folder(str(stores.get_run(first).model_uri)), tmp_path / "model")
    described = json.loads((model / "model.json").read_text())
    described["preprocess"]["mean"] = [0.1, 0.2, 0.3]
    described.pop(SEAL)
    (model / "model.json").write_text(json.dumps(sealed(described)))
    given = {"data": str(dataset.folder), "weights": str(model), "run_name": "next"} | QUICK | {"epochs": 2}
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(publisher, "_line", interrupted)
        train(TrainSettings(**given))
    shutil.rmtree(model)
    second = train(TrainSettings(resume="last"))
    third = train(TrainSettings(resume=second, extend_to=3))
    for run in (second, third):
        kept = yaml.safe_load((earlier.find_here(run).files / "config.yaml").read_text())
        assert kept["weights"] == str(model) and kept["backbone"] == "test_efficientnet"
        made = predictor.load(pyfunc.model_folder(str(stores.get_run(run).model_uri)))
        assert made.preprocess.mean == (0.1, 0.2, 0.3)


def test_the_command_that_began_it_goes_on_with_it(first, dataset, store):
    champion(stores.get_run(first))
    given = {"data": str(dataset.folder), "weights": "models:/shop@champion"} | QUICK
    second = train(TrainSettings(**given))
    assert train(TrainSettings(**given, resume=second)) == second
    with pytest.raises(UsageError, match="may be another model tomorrow; name an alias"):
        train(TrainSettings(**given | {"weights": "models:/shop/latest"}))


def test_a_model_of_another_size_is_refused_before_the_first_of_several_trainings(store, dataset):
    common = {"data": str(dataset.folder)} | QUICK
    first = train(TrainSettings(backbone="vit_tiny_patch16_224", weights="none", px=32, **common))
    with pytest.raises(DataError, match="trained on images of 32 px, does not fit the network .*pos_embed"):
        train_variants([TrainSettings(weights=first, px=px, **common) for px in (32, 64)])
    assert len(stores.search_runs("train")) == 1
