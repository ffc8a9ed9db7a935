"""A model of attributes that some products do not have goes the whole way."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from fmtl.commands.predict import predict
from fmtl.commands.prepare import build_dataset
from fmtl.commands.register import register
from fmtl.commands.train import train
from fmtl.dataset.prepared import open_dataset
from fmtl.settings.schema import PredictSettings, PrepareSettings, RegisterSettings
from fmtl.settings.train import TrainSettings
from fmtl.tasks import make_tasks
from fmtl.training import metrics

COLOURS = {"blue": (40, 70, 220), "red": (220, 40, 40)}
SHAPES = ("circle", "square")
NOWHERE = "n/a"
HOW = {"backbone": "test_efficientnet", "weights": "none", "px": 32, "batch_size": 16, "device": "cpu",
       "precision": "fp32", "extra_plots": False}  # fmt: skip


def draw(folder, num, seed=0):
    """Photos of a shape in one or two colours, or of stripes, which have no shape; and their table."""
    (folder / "images").mkdir(parents=True)
    rng, rows = np.random.default_rng(seed), []
    for i in range(num):
        image = Image.new("RGB", (48, 48), "white")
        pen, kind, shape = ImageDraw.Draw(image), ("figure", "stripes")[i % 4 == 3], SHAPES[i % 2]
        has = [name for name in COLOURS if rng.random() < 0.5] or [str(rng.choice(list(COLOURS)))]
        for n, name in enumerate(has):
            x, y = (3, 26)[n] + int(rng.integers(0, 3)), int(rng.integers(3, 26))
            if kind == "stripes":
                for at in range(n, 6, 2):
                    pen.rectangle((x - 3, 8 * at, 48, 8 * at + y // 8), fill=COLOURS[name])
            else:
                (pen.ellipse if shape == "circle" else pen.rectangle)((x, y, x + 18, y + 18), fill=COLOURS[name])
        image = Image.fromarray((np.array(image) - rng.integers(0, 20, (48, 48, 3))).clip(0, 255).astype(np.uint8))
        image.save(folder / "images" / f"{i}.png")
        shape = shape if kind == "figure" else NOWHERE
        rows.append({"image": f"{i}.png", "kind": kind, "shape": shape, "colours": "|".join(has)})
    pd.DataFrame(rows).to_csv(folder / "t.csv", index=False)
    return folder / "t.csv"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("shop")
    options = {"set_cols": ("colours",), "not_applicable": (NOWHERE,), "px": 32, "workers": 1}
    build_dataset(PrepareSettings(table=str(draw(root, 240)), out=str(root / "data"), **options))
    return root / "data"


def read(file):
    return pd.read_csv(file, keep_default_na=False, dtype=str)


def test_it_is_learnt_scored_and_told_apart_from_labels(store, data):
    run_id = train(TrainSettings(data=str(data), epochs=8, learning_rate=0.01, **HOW))
    found = mlflow.get_run(run_id).data.metrics
    tasks, test = open_dataset(data).tasks, open_dataset(data)
    assert tasks.names == ["kind", "shape", "shape applies", "colours"]
    for name in ("accuracy", "f1", "precision", "recall"):
        parts = [found[f"test/{slug}/{name}"] for slug in ("kind", "shape", "colours")]
        assert found[f"test/avg/{name}"] == pytest.approx(np.mean(parts))
    assert found["test/shape_applies/f1"] > 0.9

    files = next(Path.cwd().glob(f"**/{run_id}/artifacts"))
    kept = pd.read_parquet(files / "predictions" / "test.parquet")
    known = kept["shape/target"].notna()
    assert known.sum() == (test.targets[test.rows("test"), 1] >= 0).sum() < len(kept)
    # The attribute is scored where it applies and is known, whatever is said of its limits.
    likeliest = [SHAPES[k] for k in np.stack(kept["shape/probs"]).argmax(axis=1)]
    assert found["test/shape/accuracy"] == pytest.approx((likeliest == kept["shape/target"])[known].mean())
    note = mlflow.get_run(run_id).data.tags["mlflow.note.content"]
    assert "mean over 3 tasks" in note and "shape applies" in note

    register(RegisterSettings(run=run_id, name="m"))
    photos = str(data.parent / "images")
    said = predict(PredictSettings(model="models:/m@champion", images=photos, out="p.parquet", top_k=2))
    said = pd.read_parquet("p.parquet").set_index("image").loc[kept["path"]]
    limits, of_shape = np.stack(kept["shape_applies/probs"]), np.stack(kept["shape/probs"])
    applies = limits[:, 1] > limits[:, 0]
    assert said["shape_applies"].tolist() == np.where(applies, "yes", "no").tolist()
    assert said["shape"].notna().tolist() == applies.tolist() == said["shape/2"].notna().tolist()
    want = np.where(applies, limits[:, 1] * of_shape.max(axis=1), limits[:, 0])
    np.testing.assert_allclose(said["shape/confidence"], want, atol=1e-5)
    want = np.where(applies, limits[:, 1] * of_shape.min(axis=1), np.nan)
    np.testing.assert_allclose(said["shape/2/confidence"], want, atol=1e-5)

    model = mlflow.pyfunc.load_model("models:/m@champion")
    served = model.predict(pd.DataFrame({"image": [f"{photos}/{name}" for name in kept["path"]]}))
    assert [cell is None for cell in served["shape"]] == (~applies).tolist()
    assert {"shape_applies", "shape"} <= {column.name for column in model.metadata.signature.outputs}
    row = json.loads(served.to_json(orient="records"))[int((~applies).argmax())]
    assert (row["shape"], row["shape_applies"]) == (None, "no")


def test_blank_cells_are_filled_and_known_ones_stay(store, data):
    run_id = train(TrainSettings(data=str(data), epochs=8, learning_rate=0.01, gallery=False, **HOW))
    table = read(data.parent / "t.csv")
    table.loc[:47, "shape"] = ""
    table.loc[100, "shape"], table.loc[103, "shape"] = NOWHERE, "square"  # the wrong way round
    table.to_csv("own.csv", index=False)
    how = {"model": run_id, "table": "own.csv", "images": str(data.parent / "images"), "threshold": 0}
    predict(PredictSettings(**how, out="p.csv", fill="filled.csv", not_applicable=(NOWHERE,)))
    said, filled = read("p.csv"), read("filled.csv")
    assert filled["shape"][48:].tolist() == table["shape"][48:].tolist()
    assert filled["shape"][:48].tolist() == [cell or NOWHERE for cell in said["shape"][:48]]
    wrong = read("disagreements.csv").set_index(["attribute", "image"])
    assert wrong.loc[("shape", "103.png"), "predicted"] == "(does not apply)"
    assert wrong.loc[("shape", "100.png"), "label"] == NOWHERE
    # In a file of another kind, and beside the predictions, the words of the table stay, too.
    table["shape"] = table["shape"].replace(NOWHERE, NOWHERE.upper())
    table.to_csv("own.csv", index=False)
    whole = predict(
        PredictSettings(**how, out="p.csv", fill="f.parquet", keep_columns=True, not_applicable=("?", NOWHERE))
    )
    assert pd.read_parquet("f.parquet")["shape"][48:].tolist() == table["shape"][48:].tolist()
    assert whole["table/shape"][48:].tolist() == table["shape"][48:].tolist()
    # Without a spelling for it a cell stays blank; and a cell of that spelling is a class that the model lacks.
    predict(PredictSettings(**how, out="q.csv", fill="other.csv"))
    assert read("other.csv")["shape"][:48].tolist() == said["shape"][:48].tolist()
    assert read("other.csv")["shape"][48:].tolist() == table["shape"][48:].tolist()


def test_a_set_that_does_not_apply_is_told_from_an_empty_one(store, data):
    """Of photos of stripes the table says nothing, none, that it does not apply, or a colour."""
    options = {"set_cols": ("colours",), "applies": {"colours": {"kind": ("figure",)}}, "px": 32, "workers": 1}
    images = str(data.parent / "images")
    table = read(data.parent / "t.csv")
    stripes = table["kind"] == "stripes"
    table.loc[stripes, "colours"] = ["", "[]", '["N/A"]', "blue"] * (stripes.sum() // 4)
    table.to_csv("own.csv", index=False)
    again = PrepareSettings(table="own.csv", images=images, out="d", not_applicable=("N/A",), **options)
    build_dataset(again)
    run_id = train(TrainSettings(data="d", epochs=8, learning_rate=0.01, gallery=False, **HOW))
    predict(PredictSettings(model=run_id, table="own.csv", images=images, out="p.csv", fill="f.csv", threshold=0,
                            not_applicable=("N/A",)))  # fmt: skip
    said, filled = read("p.csv"), read("f.csv")
    known = stripes & (said["colours_applies"] == "no")
    assert known.sum() > 0.8 * stripes.sum()
    assert filled["colours"][known].tolist() == [cell or "N/A" for cell in table["colours"][known]]
    wrong = read("disagreements.csv").query("attribute == 'colours'").set_index("image")
    assert set(wrong[wrong["predicted"] == "(does not apply)"]["label"]) <= {"blue", *table["colours"][~stripes]}
    assert set(table["image"][known & (table["colours"] == "blue")]) <= set(wrong.index)


def test_what_a_perfect_model_says_of_a_table_is_the_table(store, data, capsys):
    run_id = train(TrainSettings(data=str(data), epochs=8, learning_rate=0.01, gallery=False, **HOW))
    how = {"not_applicable": (NOWHERE,), "images": str(data.parent / "images")}
    predict(
        PredictSettings(model=run_id, table=str(data.parent / "t.csv"), out="p.csv", fill="f.csv", threshold=0, **how)
    )
    pd.testing.assert_frame_equal(read("f.csv"), read(data.parent / "t.csv"))
    assert "shape: 0 blank cells" in capsys.readouterr().out
    again = build_dataset(PrepareSettings(table="f.csv", out="again", set_cols=("colours",), px=32, **how))[0]
    assert again.digest == open_dataset(data).digest


def test_averages_leave_out_what_says_whether_an_attribute_applies():
    tasks = make_tasks({"a": ["x", "y"], "a applies": ["no", "yes"]}, applies_to={"a applies": "a"})
    scores = {name: dict.fromkeys(metrics.SCORES, score) for name, score in zip(tasks.names, (0.25, 1.0), strict=True)}
    apart = set(tasks.names) - set(tasks.attributes)
    assert metrics.with_average(scores, apart)["avg"]["f1"] == 0.25
