"""``export``: a file that was compared with its model on every test photo, or none."""

import json

import mlflow
import numpy as np
import pandas as pd
import pytest
from kit.exported import SMALL

from fmtl.cli import main
from fmtl.commands.delivering import fewer_bits
from fmtl.commands.delivering.comparing import SAME, STORED, WHOLE, Compared
from fmtl.commands.train import train
from fmtl.evaluation.parity import TIE, Parity
from fmtl.model import exported
from fmtl.settings.schema import TrainSettings
from fmtl.tasks import make_tasks


@pytest.fixture
def run_id(store, dataset):
    return train(TrainSettings(data=str(dataset.folder), **SMALL))


def test_a_registered_model_becomes_a_file_that_predicts_alike(store, dataset, run_id, capsys):
    assert main(["register", "--run", run_id, "--name", "shop"]) == 0
    assert main(["export", "--model", "models:/shop@champion"]) == 0
    assert "labels of" in capsys.readouterr().out
    report = json.loads((store / "shop.onnx.parity.json").read_text())
    num = len(dataset.rows("test"))
    assert [(c["compared"], c["images"]) for c in report["comparisons"]] == [(STORED, num), (SAME, num), (WHOLE, num)]
    for found in report["comparisons"][:2]:
        assert found["share_equal"] == 1 and found["largest_difference"] < 1e-4
    file = exported.load(store / "shop.onnx")
    assert report["sha256"] == file.sha256 and report["registered"] == "shop/1"
    assert (file.description.name, file.description.version, file.description.data) == ("shop", "1", dataset.digest)
    tags = mlflow.MlflowClient().get_model_version("shop", "1").tags
    assert tags["fmtl.export.onnx.sha256"] == file.sha256
    assert json.loads(tags["fmtl.export.onnx.parity"])[0]["share_equal"] == 1
    export = mlflow.get_run(tags["fmtl.export.onnx.run"])
    assert export.data.tags["fmtl.kind"] == "export" and export.data.metrics["export/largest_difference"] < 1e-4
    images = str(dataset.folder / dataset.manifest["source"]["images_path"])
    assert main(["predict", "--model", "shop.onnx", "--images", images, "--out", "file.csv"]) == 0
    assert main(["predict", "--model", run_id, "--images", images, "--out", "model.csv", "--device", "cpu"]) == 0
    ours, theirs = (pd.read_csv(store / name) for name in ("model.csv", "file.csv"))
    for column in ours:
        if column.endswith("confidence"):
            np.testing.assert_allclose(theirs[column], ours[column], atol=1e-5)
        else:
            assert theirs[column].equals(ours[column]), column


def test_names_and_formats(store, run_id, capsys):
    assert main(["export", "--model", run_id, "--format", "pt2"]) == 0
    assert (store / f"{run_id}.pt2").is_file()
    assert main(["export", "--model", run_id, "--out", "x.pt2"]) == 2
    assert main(["export", "--model", run_id, "--format", "pt2", "--quantize", "int8"]) == 2
    assert "format=onnx" in capsys.readouterr().err


def test_without_its_photos_nothing_is_exported(store, dataset, run_id, tmp_path, capsys):
    folder = mlflow.get_run(run_id).info.artifact_uri
    (checkpoint,) = (p for p in _files(folder) if p.name.endswith("_best.pt"))
    assert main(["export", "--model", str(checkpoint)]) == 3
    assert "--data DATASET" in capsys.readouterr().err
    assert main(["export", "--model", str(checkpoint), "--data", str(dataset.folder), "--out", "x.onnx"]) == 0
    assert (store / "x.onnx").is_file()


def _files(uri):
    from pathlib import Path
    from urllib.parse import unquote, urlparse

    return Path(unquote(urlparse(uri).path)).rglob("*")


@pytest.mark.slow
def test_eight_bits_say_what_they_cost(store, dataset, run_id, capsys):
    assert main(["export", "--model", run_id, "--quantize", "int8", "--out", "small.onnx"]) == 0
    costs = json.loads((store / "small.onnx.parity.json").read_text())["costs"]
    assert costs["layers_in_float32"] in fewer_bits.LEFT and costs["speed"] > 0
    assert set(costs["accuracy"]["float32"]) == set(costs["accuracy"]["int8"]) == {t.slug for t in dataset.tasks}
    file = exported.load(store / "small.onnx")
    rows = dataset.rows("test")
    targets = dataset.tasks.by_name(dataset.targets[rows])
    said = file.probs(dataset.pixels(rows))
    for task in dataset.tasks:
        known = targets[task.name] >= 0
        right = (said[task.name].argmax(1) == targets[task.name])[known].mean()
        assert costs["accuracy"]["int8"][task.slug] == pytest.approx(right)
    assert "accuracy" in capsys.readouterr().out


# -- what a comparison says -------------------------------------------------------------------------------------------

TASKS = make_tasks({"A": ["x", "y"], "B": ["p", "q"]}, sets={"B"})
LIMITS = {"B": np.array([0.5, 0.5], np.float32)}


def parity(ours, theirs, compared=STORED):
    found = Parity(compared)
    a, b = ({"A": np.array(o[0], np.float32), "B": np.array(o[1], np.float32)} for o in (ours, theirs))
    found.add(TASKS, [f"{n}.jpg" for n in range(len(a["A"]))], a, b, LIMITS)
    return found


def test_equal_answers_are_counted_and_the_largest_difference_kept():
    of_set = [[0.9, 0.1], [0.6, 0.4]]
    found = parity(([[0.9, 0.1], [0.2, 0.8]], of_set), ([[0.8, 0.2], [0.2, 0.8]], of_set))
    assert (found.images, found.labels, found.equal) == (2, 6, 6)
    assert found.largest == {"A": pytest.approx(0.1), "B": 0.0} and found.share_equal == 1


def test_ties_are_named_and_others_too():
    half = 0.5 + TIE / 4
    ours = ([[half, 1 - half], [0.6, 0.4]], [[0.9, half], [0.9, 0.7]])
    theirs = ([[1 - half, half], [0.4, 0.6]], [[0.9, 1 - half], [0.9, 0.3]])
    found = parity(ours, theirs)
    assert found.ties == [
        {"image": "0.jpg", "task": "A", "engine": "x", "file": "y"},
        {"image": "0.jpg", "task": "B", "engine": "q: yes", "file": "q: no"},
    ]
    assert found.others == [
        {"image": "1.jpg", "task": "A", "engine": "x", "file": "y"},
        {"image": "1.jpg", "task": "B", "engine": "q: yes", "file": "q: no"},
    ]


def test_what_differs_is_refused():
    same = ([[0.9, 0.1]], [[0.9, 0.1]])
    assert Compared([parity(same, same)], 0).why_not() is None
    near = ([[0.9 + 2e-4, 0.1 - 2e-4]], [[0.9, 0.1]])
    assert "1.0e-04" in Compared([parity(same, near)], 0).why_not()
    other = ([[0.1, 0.9]], [[0.9, 0.1]])
    assert "2 of 3 labels" in Compared([parity(same, other)], 0).why_not()
    # Where photos were decoded in another way, that is no fault of the file, and is said.
    elsewhere = Compared([parity(same, same), parity(same, other, WHOLE)], 0)
    assert elsewhere.why_not() is None and "33.3% of labels" in elsewhere.warning()
    assert "no test photo" in Compared([], 5).why_not()
    assert Compared([parity(same, same, WHOLE)], 5).why_not()
    none = ([[float("nan")] * 2], [[0.9, 0.1]])
    assert Compared([parity(same, none)], 0).why_not()
