import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from fmtl.catalogue.photos.folder import ImageError, PhotoFile
from fmtl.catalogue.reasons import Reason
from fmtl.dataset.pixels import images
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.errors import DataError
from fmtl.loading.batches import Batches
from fmtl.loading.sources import Photos
from fmtl.model import backbones, decisions, predictor
from fmtl.model.execution import Execution
from fmtl.tasks import make_tasks
from fmtl.training import evaluating
from fmtl.training.criterion import MultiTaskLoss

CPU = torch.device("cpu")


def files(paths):
    return [PhotoFile.named(path) for path in paths]


@pytest.fixture
def model(tmp_path, dataset):
    torch.manual_seed(0)
    num_classes = dataset.tasks.num_classes
    net = backbones.build("resnet18", num_classes, weights="none", px=32).eval()
    net.run_on(CPU, Execution(precision="bf16"))  # as training has it
    preprocess = Preprocess(64, "pad", "#ffffff", 32, (0.5,) * 3, (0.5,) * 3)
    predictor.save(tmp_path / "m", net, backbone="resnet18", tasks=dataset.tasks, preprocess=preprocess)
    return net, preprocess, tmp_path / "m"


def test_predictions_equal_the_engines_on_the_same_images(model, dataset, catalogue_table):
    net, preprocess, folder = model
    rows = dataset.rows("test")
    photos = Photos(dataset, preprocess=preprocess)
    loader = Batches(photos, dataset.targets, rows, tasks=dataset.tasks, batch_size=32)
    evaluation = evaluating.evaluate(net, loader, loss=MultiTaskLoss(net.num_classes), device=CPU)
    paths = [catalogue_table.parent / "images" / p for p in dataset.table["path"].iloc[rows]]
    table = predictor.load(folder).predict(files(paths), batch_size=32)
    for task in dataset.tasks:
        probs = evaluation.probs[task.name]
        assert table[task.slug].tolist() == [task.classes[k] for k in probs.argmax(1)]
        np.testing.assert_array_equal(table[f"{task.slug}/confidence"].astype(np.float32), probs.max(1))


def test_batch_size_changes_confidences_by_rounding_only(model, catalogue_table):
    _, _, folder = model
    paths = files(sorted((catalogue_table.parent / "images").iterdir())[:12])
    loaded = predictor.load(folder)
    one, many = loaded.predict(paths, batch_size=1), loaded.predict(paths, batch_size=12)
    for column in one:
        if column.endswith("confidence"):
            np.testing.assert_allclose(one[column], many[column], atol=1e-5)
        else:
            assert one[column].tolist() == many[column].tolist()


def test_rows_keep_their_order_and_a_bad_image_says_why(model):
    _, _, folder = model
    buffer = io.BytesIO()
    Image.new("RGB", (20, 30), "red").save(buffer, "PNG")
    good = buffer.getvalue()
    table = predictor.load(folder).predict(
        [b"", good, ImageError(Reason.OUTSIDE_ROOT, "x"), good, b"nope"], batch_size=2
    )
    assert table["status"].tolist() == ["empty", "ok", "outside_root", "ok", "not_an_image"]
    assert table["kind"].isna().tolist() == [True, False, True, False, True]
    assert table["kind/confidence"].isna().tolist() == [True, False, True, False, True]


def test_the_model_carries_precision_and_layout_and_the_caller_may_choose_another(model, catalogue_table):
    net, _, folder = model
    assert predictor.load(folder).net.execution == net.execution
    exact = predictor.load(folder, precision="fp32")
    assert exact.net.execution == Execution("fp32")
    paths = files(sorted((catalogue_table.parent / "images").iterdir())[:12])
    coarse, fine = predictor.load(folder).predict(paths), exact.predict(paths)
    column = "kind/confidence"
    assert not (coarse[column] == fine[column]).all()
    np.testing.assert_allclose(coarse[column], fine[column], atol=0.02)


def test_top_labels_are_in_order_of_probability():
    tasks = make_tasks({"c": ["x", "y", "z"]})
    probs = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
    columns = decisions.labels_of(tasks, {"c": probs}, {}, top_k=9)
    assert columns == {
        "c": ["y", "x"],
        "c/confidence": [0.5, 0.6],
        "c/2": ["z", "z"],
        "c/2/confidence": [0.3, 0.3],
        "c/3": ["x", "y"],
        "c/3/confidence": [0.2, 0.1],
    }


def test_a_models_parts_must_belong_together(model):
    _, _, folder = model
    weights = folder / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DataError, match="not the one that model.json names"):
        predictor.load(folder)
    description = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(description | {"backbone": "resnet34"}))
    with pytest.raises(DataError, match="its checksum differs"):
        predictor.load(folder)
    del description["sha256"]
    (folder / "model.json").write_text(json.dumps(description | {"version": 9}))
    with pytest.raises(DataError, match="version 2"):
        predictor.load(folder)
    with pytest.raises(DataError, match="not a model of fmtl"):
        predictor.load(folder.parent)


def test_prediction_decodes_as_prepare_did(model, dataset, catalogue_table):
    path = catalogue_table.parent / "images" / dataset.table["path"].iloc[0]
    assert (predictor.load(model[2]).decode(PhotoFile.named(path)) == dataset.pixels(np.array([0]))[0]).all()
    assert (images.decode(path.read_bytes(), px=64) == dataset.pixels(np.array([0]))[0]).all()
