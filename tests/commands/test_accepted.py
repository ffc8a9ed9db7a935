"""A model that says of which labels it is sure enough: from the training to every kind of predictions."""

import json
import math

import mlflow
import numpy as np
import pandas as pd
import pytest

from fmtl.commands.predict import predict
from fmtl.commands.train import train
from fmtl.model import predictor
from fmtl.settings.schema import PredictSettings
from fmtl.settings.train import TrainSettings
from fmtl.tracking import pyfunc
from fmtl.tracking import store as tracking_store

pytestmark = pytest.mark.slow

HOW = {"backbone": "test_efficientnet", "weights": "none", "px": 32, "batch_size": 16, "epochs": 3, "device": "cpu",
       "precision": "fp32", "extra_plots": False, "gallery": False, "channels_last": False,
       "learning_rate": 0.01}  # fmt: skip


def test_accepted_labels_are_those_of_at_least_the_chosen_confidence(dataset, store, catalogue_table, tmp_path):
    run_id = train(TrainSettings(data=str(dataset.folder), precision_at=0.6, **HOW))
    model = predictor.load(pyfunc.model_folder(tracking_store.get_run(run_id).model_uri))
    accepted_from = model.confidence.accepted_from
    assert {*accepted_from} == {*dataset.tasks.attributes} and model.confidence.precision_at == 0.6
    images = str(catalogue_table.parent / "images")
    for name in ("p.csv", "p.parquet", "p.xlsx"):
        table = predict(PredictSettings(model=run_id, images=images, out=str(tmp_path / name), device="cpu"))
        for task in dataset.tasks:
            sure = table[f"{task.slug}/confidence"].tolist()
            want = [None if math.isnan(value) else value >= accepted_from[task.name] for value in sure]
            assert table[f"{task.slug}/accepted"].tolist() == want and None in want  # one photo is truncated
    assert pd.read_parquet(tmp_path / "p.parquet")["colour/accepted"].dropna().map(type).eq(bool).all()
    written, kept = pd.read_csv(tmp_path / "p.csv"), pd.read_parquet(tmp_path / "p.parquet")
    assert written["colour/accepted"].dropna().tolist() == kept["colour/accepted"].dropna().tolist()
    served = mlflow.pyfunc.load_model(tracking_store.get_run(run_id).model_uri)
    photo = sorted((catalogue_table.parent / "images").iterdir())[0]
    assert served.predict(pd.DataFrame({"image": [str(photo)]}))["colour/accepted"][0] in (True, False)


def test_temperatures_change_confidences_and_no_label(dataset, store):
    run_id = train(TrainSettings(data=str(dataset.folder), **HOW))
    folder = pyfunc.model_folder(tracking_store.get_run(run_id).model_uri)
    with_them, without = predictor.load(folder), predictor.load(folder)
    assert with_them.confidence.precision_at is None and not with_them.confidence.accepted_from
    without.net.temperatures = {}
    pixels = dataset.pixels(dataset.rows("test"))
    said = [model.probs(pixels) for model in (with_them, without)]
    for task in dataset.tasks:
        one, other = (probs[task.name] for probs in said)
        np.testing.assert_array_equal(one.argmax(axis=1), other.argmax(axis=1))
        assert np.array_equal(one, other) == (task.name not in with_them.confidence.temperatures)
    logged = pd.read_parquet(tracking_store.artifact(tracking_store.get_run(run_id), "predictions/test.parquet"))
    np.testing.assert_allclose(np.stack(logged["colour/probs"]), said[0]["colour"], atol=1e-5)
    metrics = mlflow.get_run(run_id).data.metrics
    assert 0 <= metrics["test/colour/ece"] <= 1
    note = mlflow.get_run(run_id).data.tags["mlflow.note.content"]
    assert "at confidence >= 0.8" in note and "% of the photos" in note


def test_a_model_of_before_is_read_as_one_without_temperatures(dataset, store):
    run_id = train(TrainSettings(data=str(dataset.folder), **HOW))
    folder = pyfunc.model_folder(tracking_store.get_run(run_id).model_uri)
    path = folder / predictor.DESCRIPTION
    content = json.loads(path.read_text())
    assert "confidence" in content
    del content["confidence"], content["sha256"]
    path.write_text(json.dumps(content))
    assert predictor.load(folder).net.temperatures == {}
