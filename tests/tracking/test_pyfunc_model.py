"""What a logged model takes: images as people send them, and no file of a server."""

import base64
import io
import json
import pathlib

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import predictions_to_json
from PIL import Image

from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.model import backbones
from fmtl.tasks import make_tasks
from fmtl.tracking import pyfunc
from fmtl.tracking.pyfunc_model import MlserverTable, _for_spark


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    tasks = make_tasks({"Colour": ["red", "green", "blue"]})
    net = backbones.build("resnet18", tasks.num_classes, weights="none", px=32).eval()
    folder = tmp_path_factory.mktemp("model") / "model"
    preprocess = Preprocess(32, "pad", "#ffffff", 32, (0.5,) * 3, (0.5,) * 3)
    folder.mkdir()
    pyfunc.save_model(folder, net, backbone="resnet18", tasks=tasks, preprocess=preprocess)
    return mlflow.pyfunc.load_model(str(folder))


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photo") / "a.png"
    Image.fromarray(pixels).save(path)
    return path


def forms(photo):
    raw = photo.read_bytes()
    plain = base64.b64encode(raw).decode()
    return {
        "plain": plain,
        "data URI": f"data:image/png;base64,{plain}",
        "line breaks": base64.encodebytes(raw).decode(),
        "a last newline": plain + "\n",
        "for URLs": base64.urlsafe_b64encode(raw).decode(),
        "without padding": plain.rstrip("="),
    }


def test_base64_as_people_send_it_gives_the_answer_of_the_file(model, photo):
    expected = model.predict(pd.DataFrame({"image": [str(photo)]}))
    answers = model.predict(pd.DataFrame({"image": list(forms(photo).values())}))
    assert answers["status"].tolist() == ["ok"] * 6
    assert set(answers["Colour/confidence"].round(6)) == set(expected["Colour/confidence"].round(6))


def test_cells_of_any_kind_are_labelled_and_each_row_chooses_its_column(model, photo):
    raw = photo.read_bytes()
    rows = pd.DataFrame({"image": [pathlib.Path(photo), raw, None, str(photo)], "image_bytes": [None, None, raw, b"x"]})
    assert model.predict(rows)["status"].tolist() == ["ok"] * 4
    assert model.predict({"image": [str(photo)]})["status"].tolist() == ["ok"]
    blank = model.predict(pd.DataFrame({"image": [None, "", float("nan"), 7]}, dtype=object))
    assert blank["status"].tolist() == ["missing"] * 3 + ["not_an_image"]


def test_a_wrong_column_is_named(model, photo):
    with pytest.raises(MlflowException, match=r"needs a column 'image' \(base64, or a path\) or 'image_bytes'"):
        model.predict(pd.DataFrame({"img": [str(photo)]}))


@pytest.mark.parametrize("variable", [("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true"), ("FMTL_ALLOW_PATHS", "false")])
def test_where_paths_are_not_allowed_no_file_is_opened(model, photo, monkeypatch, variable):
    monkeypatch.setenv(*variable)
    answer = model.predict(pd.DataFrame({"image": [str(photo), "/etc/passwd", forms(photo)["plain"]]}))
    assert answer["status"].tolist() == ["not_an_image", "not_an_image", "ok"]


def test_a_server_answers_json_without_nan(model, photo, monkeypatch):
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    answer = model.predict(pd.DataFrame({"image": ["AAAA", forms(photo)["plain"]]}))
    written = io.StringIO()
    predictions_to_json(answer, written)
    rows = json.loads(written.getvalue(), parse_constant=pytest.fail)["predictions"]
    assert rows[0]["Colour"] is None and rows[0]["Colour/confidence"] is None
    assert rows[1]["Colour"] in ("red", "green", "blue")


def test_a_photo_without_labels_has_no_label_in_spark(model, photo):
    """As MLflow casts the text columns of what a spark_udf says."""
    said = model.predict(pd.DataFrame({"image": [str(photo), str(photo.parent / "nothing.png")]}))
    table = _for_spark(said, make_tasks({"Colour": ["red", "green", "blue"]}))
    assert table["Colour"].astype(np.str_).tolist() == [said["Colour"][0], ""]
    assert table["Colour/confidence"].isna().tolist() == [False, True]


def test_mlserver_sees_numbers_missing_and_no_labels():
    """Its codec asks ``isnull`` of a column and then numpy's ``isnan`` of each cell."""
    label = pd.Series(["red", None], dtype=object)
    table = MlserverTable({"label": label, "values": [["a"], None], "confidence": [0.5, float("nan")]})
    assert not table["label"].isnull().any() and not table["values"].isnull().any()
    assert table["label"].tolist() == ["red", None] and table["confidence"].isnull().tolist() == [False, True]
