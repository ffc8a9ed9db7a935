"""A model of a set beside a single label goes the whole way."""

import json
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader

from fmtl import notebook
from fmtl.commands.compare import compare
from fmtl.commands.predict import predict
from fmtl.commands.prepare import build_dataset
from fmtl.commands.register import register
from fmtl.commands.train import train
from fmtl.dataset.prepared import open_dataset
from fmtl.errors import DataError
from fmtl.model import backbones, heads
from fmtl.settings.schema import CompareSettings, PredictSettings, PrepareSettings, RegisterSettings
from fmtl.settings.train import TrainSettings
from fmtl.tasks import Tasks
from fmtl.training import checkpoints

COLOURS = {"blue": (40, 70, 220), "green": (40, 170, 60), "red": (220, 40, 40)}
SHAPES = ("bar", "circle", "square")
HOW = {
    "backbone": "test_efficientnet",
    "weights": "none",
    "px": 32,
    "batch_size": 16,
    "device": "cpu",
    "precision": "fp32",
}


def draw(folder, num, seed=0):
    """Photos of up to three colours in one shape, and their table."""
    (folder / "images").mkdir(parents=True)
    rng, rows = np.random.default_rng(seed), []
    for i in range(num):
        image = Image.new("RGB", (48, 48), "white")
        pen, shape = ImageDraw.Draw(image), SHAPES[i % 3]
        has = [name for name in COLOURS if rng.random() < 0.5]
        for name, place in zip(has, rng.permutation(4), strict=False):
            x, y = 3 + 23 * (place % 2), 3 + 23 * (place // 2)
            box = (x, y + 6, x + 19, y + 13) if shape == "bar" else (x, y, x + 19, y + 19)
            (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=COLOURS[name])
        image.save(folder / "images" / f"{i}.png")
        rows.append({"image": f"{i}.png", "shape": shape if has else "", "colours": "|".join(has) or "[]"})
    pd.DataFrame(rows).to_csv(folder / "t.csv", index=False)
    return folder / "t.csv"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("shop")
    table = draw(root, 240)
    options = {"set_cols": ("colours",), "px": 32, "workers": 1, "group_near_duplicates": False}
    build_dataset(PrepareSettings(table=str(table), out=str(root / "data"), **options))
    return root / "data"


def files_of(run_id):
    return next(Path.cwd().glob(f"**/{run_id}/artifacts"))


def test_one_mixed_model_goes_the_whole_way(store, data):
    run_id = train(TrainSettings(data=str(data), epochs=6, learning_rate=0.01, **HOW))
    metrics = mlflow.get_run(run_id).data.metrics
    scores = ("accuracy", "f1", "precision", "recall", "micro_f1", "jaccard")
    assert all(0 <= metrics[f"test/colours/{name}"] <= 1 for name in scores)
    assert metrics["test/avg/f1"] == pytest.approx((metrics["test/colours/f1"] + metrics["test/shape/f1"]) / 2)
    files = files_of(run_id)
    assert json.loads((files / "tasks.json").read_text())[1]["kind"] == "set"
    together = json.loads((files / "confusion" / "colours.json").read_text())
    test = open_dataset(data)
    targets = test.targets[test.rows("test")][:, 1:]
    assert together["labels"] == (targets.T @ targets).tolist()
    per_class = pd.read_csv(files / "per_class" / "colours.csv")
    assert per_class["support"].tolist() == targets.sum(axis=0).tolist() and per_class["threshold"].between(0, 1).all()
    assert {"mistakes.csv", "suspects.csv", "gallery.html"} <= {p.name for p in (files / "gallery").iterdir()}
    assert compare(CompareSettings(out=str(store / "board"))).table["run_id"].tolist() == [run_id]
    register(RegisterSettings(run="best", name="m"))

    said = predict(PredictSettings(model="models:/m@champion", images=str(data.parent / "t.csv"), out="p.csv"))
    kept = pd.read_parquet(files / "predictions" / "test.parquet").set_index("path")
    said = said.set_index("image").loc[kept.index]
    assert ["|".join(values) or "[]" for values in kept["colours"]] == said["colours"].tolist()
    np.testing.assert_allclose(kept["colours/confidence"], said["colours/confidence"], atol=1e-5)

    predict(PredictSettings(model="models:/m@champion", images=str(data.parent / "images"), out="p.parquet", top_k=2))
    lists = pd.read_parquet("p.parquet").set_index("image").loc[kept.index]
    assert [list(values) for values in lists["colours"]] == [list(values) for values in kept["colours"]]
    best = np.stack(kept["colours/probs"]).max(axis=1)
    np.testing.assert_allclose(lists["colours/value/1/confidence"], best, atol=1e-5)
    served = mlflow.pyfunc.load_model("models:/m@champion").predict(
        pd.DataFrame({"image": [str(data.parent / "images" / name) for name in kept.index[:3]]})
    )
    assert served["colours"].tolist() == [list(values) for values in kept["colours"][:3]]
    assert json.loads(served.to_json(orient="records"))[0]["colours"] == list(kept["colours"].iloc[0])


def test_confidence_is_that_of_the_least_certain_value_and_thresholds_are_the_best_epochs(store, data):
    run_id = train(TrainSettings(data=str(data), epochs=2, extra_plots=False, gallery=False, **HOW))
    files = files_of(run_id)
    state = checkpoints.load(next(files.glob("checkpoints/*_best.pt"))).model
    table = pd.read_parquet(files / "predictions" / "test.parquet")
    probs = np.stack(table["colours/probs"])
    has = probs >= state["thresholds"].numpy()
    assert [tuple(values) for values in table["colours"]] == [
        tuple(name for name, hit in zip(COLOURS, row, strict=True) if hit) for row in has
    ]
    np.testing.assert_allclose(table["colours/confidence"], np.where(has, probs, 1 - probs).min(axis=1), rtol=1e-5)


def test_a_resumed_training_of_sets_has_the_same_bits(store, data, signalled_after):
    settings = TrainSettings(data=str(data), epochs=3, extra_plots=False, gallery=False, **HOW)
    signalled_after(2, settings)
    run_id = train(TrainSettings(resume="last"))
    resumed, whole = (
        {which: checkpoints.load(next(files_of(one).glob(f"checkpoints/*_{which}.pt"))) for which in ("best", "last")}
        for one in (run_id, train(settings))
    )
    for which, checkpoint in whole.items():
        assert checkpoint.epoch == resumed[which].epoch
        assert checkpoint.model.keys() == resumed[which].model.keys() >= {"thresholds"}
        assert all(torch.equal(value, resumed[which].model[name]) for name, value in checkpoint.model.items())


def test_predictions_of_known_labels_are_the_table_again(store, data):
    """The round trip: what a perfect model says of a table is the table."""
    run_id = train(TrainSettings(data=str(data), epochs=1, extra_plots=False, gallery=False, **HOW))
    predict(
        PredictSettings(model=run_id, images=str(data.parent / "t.csv"), out="p.csv", fill="filled.csv", threshold=0)
    )
    before, after = (pd.read_csv(p, keep_default_na=False, dtype=str) for p in (data.parent / "t.csv", "filled.csv"))
    assert after["colours"].tolist() == before["colours"].tolist()
    said = pd.read_csv("p.csv", keep_default_na=False, dtype=str)
    wrong = pd.read_csv("disagreements.csv", keep_default_na=False, dtype=str)
    wrong = wrong[wrong["attribute"] == "colours"]
    differ = said["colours"].to_numpy() != before["colours"].to_numpy()
    assert sorted(wrong["image"]) == sorted(said["image"][differ])
    again = build_dataset(
        PrepareSettings(
            table="filled.csv", images=str(data.parent / "images"), out="again", set_cols=("colours",), px=32
        )
    )[0]
    assert again.tasks[1].classes == open_dataset(data).tasks[1].classes


def batches(num=48, seed=0):
    g = torch.Generator().manual_seed(seed)
    images = torch.randn(num, 3, 32, 32, generator=g)
    targets = (torch.rand(num, 4, generator=g) < 0.4).float()
    images[:, 0] += 3 * targets[:, :1, None]
    colour = torch.randint(0, 3, (num,), generator=g)
    return DataLoader([(images[i], {"s": targets[i], "c": colour[i]}) for i in range(num)], batch_size=16)


def test_a_notebook_brings_sets_as_zeros_and_ones(store):
    loaders = batches(), batches(seed=1), batches(seed=2)
    how = {"weights": "none", "epochs": 2, "set_cols": ["s"], "classes": {"s": list("wxyz")}}
    seen = []

    def criterion(logits, targets):
        seen.append((logits.shape[1], targets.dtype))
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)

    sizes = {"s": 4, "c": 3}
    result = notebook.train_and_evaluate_model("test_efficientnet", sizes, *loaders, **how)
    assert set(result["test"]["s"]) >= {"accuracy", "f1", "jaccard"}
    table = result["predict"](torch.randn(5, 3, 32, 32))
    assert all(set(values) <= set("wxyz") for values in table["s"]) and len(table) == 5
    notebook.train_and_evaluate_model("test_efficientnet", sizes, *loaders, criterions={"s": criterion}, **how)
    assert set(seen) == {(4, torch.float32)}
    with pytest.raises(DataError, match=r"set_cols=\['s'\] takes it for a set"):
        notebook.train_and_evaluate_model("test_efficientnet", sizes, *loaders, weights="none", mlflow=False)


@pytest.mark.parametrize(("separator", "cell"), [(", ", "blue, red"), (";", "blue;red"), ("/", "blue/red")])
def test_blank_cells_are_filled_as_the_column_spells_its_sets(store, data, separator, cell):
    run_id = train(TrainSettings(data=str(data), epochs=1, extra_plots=False, gallery=False, **HOW))
    images = data.parent / "images"
    cells = [cell, "red", "blue", "", separator.join(["green", "red"]), ""] * 4
    table = pd.DataFrame({"image": [str(images / f"{i}.png") for i in range(24)], "colours": cells})
    table.to_csv("own.csv", index=False)
    how = {"images": str(images), "table": "own.csv", "out": "p.csv", "fill": "filled.csv", "threshold": 0}
    predict(PredictSettings(model=run_id, **how))
    filled = pd.read_csv("filled.csv", keep_default_na=False, dtype=str)["colours"]
    said = pd.read_csv("p.csv", keep_default_na=False, dtype=str)["colours"]
    plain = [a if a == "[]" else separator.strip().join(a.split("|")) for a in said]
    assert filled.tolist() == [old or new for old, new in zip(cells, plain, strict=True)]
    wrong = pd.read_csv("disagreements.csv", keep_default_na=False, dtype=str)
    known = [{*a.replace(" ", "").split(separator.strip())} for a in cells]
    differ = [bool(a) and want != {*b.split("|")} for a, want, b in zip(cells, known, said, strict=True)]
    assert len(wrong) == sum(differ)


def test_weights_of_a_model_of_single_labels_are_no_weights_of_a_set(store, data):
    tasks = open_dataset(data).tasks
    alone = Tasks([replace(tasks[1], kind="single")])
    old = backbones.build("test_efficientnet", alone.num_classes, weights="none", px=32)
    net = backbones.build("test_efficientnet", tasks.num_classes, tasks.sets, weights="none", px=32)
    before = net.heads.weight.clone()
    assert heads.take_over(net, tasks, old, alone) == ["shape: new", "colours: new as a set of values"]
    assert torch.equal(net.heads.weight, before)
    told = heads.take_over(old, alone, net, tasks)
    assert told == ["colours: new", "shape: not learnt any more"]
