"""A model that is registered exists: twelve ways to be half-written or altered, none of which gets a version."""

import json
import os
import shutil
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow.entities import LoggedModelStatus

from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.errors import DataError
from fmtl.model import backbones
from fmtl.tasks import make_tasks
from fmtl.tracking import pyfunc, registry, store
from fmtl.tracking.run import open_run


@pytest.fixture(scope="module")
def logged(tmp_path_factory, empty_store):
    """Id of a run whose model is whole, in a store of its own; and the model's folder."""
    place, before = tmp_path_factory.mktemp("registry"), (Path.cwd(), mlflow.get_tracking_uri())
    shutil.copy(empty_store, place / "mlflow.db")
    os.chdir(place)
    mlflow.set_tracking_uri(f"sqlite:///{place / 'mlflow.db'}")
    torch.manual_seed(0)
    tasks = make_tasks({"Größe": ["klein", "groß"], "Colour": ["red", "green", "blue"]})
    net = backbones.build("resnet18", tasks.num_classes, weights="none", px=32).eval()
    preprocess = Preprocess(32, "pad", "#ffffff", 32, (0.5,) * 3, (0.5,) * 3)

    def save(folder):
        pyfunc.save_model(folder, net, backbone="resnet18", tasks=tasks, preprocess=preprocess)

    with open_run("train", name="whole") as run:
        run.log_model(save, epoch=1, metrics={"test/avg/f1": 0.5})
    record = store.get_run(run.run_id)
    model = mlflow.MlflowClient().get_logged_model(record.model_uri.removeprefix("models:/"))
    yield run.run_id, Path(model.artifact_location)
    os.chdir(before[0])
    mlflow.set_tracking_uri(before[1])


def weights(folder):
    return folder / "artifacts" / "fmtl_model" / "weights.safetensors"


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap_classes(folder):
    path = folder / "artifacts" / "fmtl_model" / "model.json"
    described = json.loads(path.read_text())
    described["tasks"][0]["classes"].reverse()
    path.write_text(json.dumps(described))


def tear(path):
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path):
    path.write_bytes(b"")


FILES = {
    "weights torn": (lambda f: tear(weights(f)), "weights.safetensors was altered"),
    "weights with one bit flipped": (lambda f: flip_bit(weights(f)), "weights.safetensors was altered"),
    "weights missing": (lambda f: weights(f).unlink(), "weights.safetensors is missing"),
    "classes in another order": (swap_classes, "model.json was altered"),
    "description missing": (lambda f: weights(f).with_name("model.json").unlink(), "model.json is missing"),
    "MLmodel emptied": (lambda f: empty(f / "MLmodel"), "MLmodel was altered"),
    "code missing": (lambda f: shutil.rmtree(f / "code"), "code/fmtl/__init__.py is missing"),
    "code added": (lambda f: (f / "code" / "sitecustomize.py").write_text("print(1)"), "sitecustomize.py was added"),
    "list of files missing": (lambda f: (f / "manifest.json").unlink(), "not written to its end"),
    "list of files altered": (lambda f: (f / "manifest.json").write_text("{}"), "manifest.json was altered"),
}  # fmt: skip


def register(record, *, name, alias):
    registry.check(record)
    version = registry.add_version(record, name, tags={}, description="")
    return version, registry.move_alias(name, alias, version, why="a test")


def versions():
    return [version for model in mlflow.MlflowClient().search_registered_models() for version in model.latest_versions]


@pytest.mark.parametrize("way", FILES)
def test_altered_or_half_written_files_are_not_registered(logged, tmp_path, way):
    run_id, folder = logged
    alter, says = FILES[way]
    shutil.copytree(folder, tmp_path / "kept")
    try:
        alter(folder)
        with pytest.raises(DataError, match=f"can't be registered: its model m-.*{says}"):
            register(store.get_run(run_id), name="m", alias="champion")
    finally:
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "kept", folder)
    assert versions() == []


def test_a_pending_model_and_a_deleted_run_are_not_registered(logged):
    run_id, _ = logged
    client = mlflow.MlflowClient()
    model_id = store.get_run(run_id).model_uri.removeprefix("models:/")
    client.finalize_logged_model(model_id, LoggedModelStatus.FAILED)
    with pytest.raises(DataError, match="was not written to its end"):
        register(store.get_run(run_id), name="m", alias="champion")
    client.finalize_logged_model(model_id, LoggedModelStatus.READY)
    client.delete_run(run_id)
    with pytest.raises(DataError, match="was deleted; 'mlflow runs restore"):
        register(store.get_run(run_id), name="m", alias="champion")
    client.restore_run(run_id)
    assert versions() == []


def test_a_model_that_says_something_else_is_not_registered(logged, tmp_path):
    """Its files and their list agree, as another program might have written them."""
    run_id, folder = logged
    check = folder / "check.json"
    kept = check.read_text()
    said = json.loads(kept)
    said["predictions"]["Colour"] = {
        n: "blue" if label != "blue" else "red" for n, label in said["predictions"]["Colour"].items()
    }
    check.write_text(json.dumps(said))
    record = store.get_run(run_id)
    record.tags.pop(store.MANIFEST_TAG)
    with pytest.raises(DataError, match="Colour: it says .* where it said .* when it was logged"):
        register(record, name="m", alias="champion")
    check.write_text(kept)
    assert versions() == []


@pytest.mark.parametrize("name", ["main.shop.fashion_attributes", "Fashion attributes v2"])
def test_a_whole_model_is_registered_once_under_any_name_that_mlflow_takes(logged, name):
    run_id, _ = logged
    assert register(store.get_run(run_id), name=name, alias="2026-11") == (1, None)
    assert register(store.get_run(run_id), name=name, alias="champion") == (1, None)
    assert pyfunc.model_folder(f"models:/{name}@2026-11").is_dir()


def test_requirements_have_versions_that_package_indexes_know(logged):
    _, folder = logged
    assert "+" not in (folder / "requirements.txt").read_text()
