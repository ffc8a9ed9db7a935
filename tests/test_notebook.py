import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn
from torch.utils.data import DataLoader, Dataset

import fmtl
from fmtl import metric_names
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.errors import DataError, UsageError
from fmtl.settings import reading, schema
from fmtl.tasks import IGNORE_INDEX
from fmtl.tracking import registry
from fmtl.tracking import store as store_module
from fmtl.training import checkpoints

FAST = {"weights": "none", "precision": "fp32", "channels_last": True}
SCORES = set(metric_names.SCORES)


class Squares(Dataset):
    """What a notebook's author writes: colour and size of a square, sometimes unknown."""

    def __init__(self, num, seed):
        rng = np.random.default_rng(seed)
        self.colours, self.sizes = rng.integers(0, 3, num), rng.integers(0, 2, num)
        self.unknown = rng.random(num) < 0.2

    def __len__(self):
        return len(self.colours)

    def __getitem__(self, i):
        image, side = torch.zeros(3, 32, 32), 8 + 14 * int(self.sizes[i])
        image[self.colours[i], :side, :side] = 1.0
        size = IGNORE_INDEX if self.unknown[i] else int(self.sizes[i])
        return image - 0.5, {"colour": int(self.colours[i]), "size": size}


def loaders():
    made = [DataLoader(Squares(num, seed), batch_size=16, shuffle=seed == 0) for seed, num in enumerate((96, 40, 41))]
    return dict(zip(("train_loader", "val_loader", "test_loader"), made, strict=True))


def run(**more):
    given = {
        "model_name": "resnet18", "num_classes_dict": {"colour": 3, "size": 2}, **loaders(),
        "device": torch.device("cpu"), "label_cols": ["colour", "size"],
        "criterions": {"colour": nn.CrossEntropyLoss(), "size": nn.CrossEntropyLoss()}, "epochs": 2,
        "learning_rate": 0.01, **FAST,
    }  # fmt: skip
    return fmtl.train_and_evaluate_model(**given | more)


def test_loaders_written_by_hand_are_learnt_from_and_the_result_has_its_shape(store):
    result = run(epochs=8, learning_rate=0.003, save_checkpoints=True)
    assert set(result) == {"history", "best_epoch", "val", "test", "confusion", "checkpoints", "run_id"}
    assert [row["epoch"] for row in result["history"]] == list(range(1, 9))
    losses = [row["val/loss"] for row in result["history"]]
    assert result["best_epoch"] == np.argmin(losses) + 1
    for split in ("val", "test"):
        assert set(result[split]) == {"colour", "size", "avg"}
        assert all(set(scores) == SCORES for scores in result[split].values())
        assert result[split]["avg"]["f1"] == pytest.approx(
            np.mean([result[split][t]["f1"] for t in ("colour", "size")])
        )
    assert result["test"]["colour"]["accuracy"] > 0.8
    known = ~loaders()["test_loader"].dataset.unknown
    assert np.sum(result["confusion"]["colour"]) == 41 and np.sum(result["confusion"]["size"]) == known.sum()
    assert json.loads(json.dumps(result)) == result
    assert result["checkpoints"] == {w: f"checkpoints/resnet18_tuned_{w}.pt" for w in ("best", "last")}
    best = checkpoints.load(Path(result["checkpoints"]["best"]))
    assert best.epoch == result["best_epoch"] and best.metrics["val/loss"] == min(losses)


def test_the_run_is_in_mlflow_unranked_and_not_registrable(store):
    result = run(extra_plots=True, save_checkpoints=True)
    record = fmtl_store_record(result["run_id"])
    assert record.tags["fmtl.kind"] == "train" and record.tags["fmtl.outcome"] == "completed"
    assert record.metrics["test/avg/f1"] == pytest.approx(result["test"]["avg"]["f1"])
    assert record.param("backbone") == "resnet18" and record.param("px") == "32" and record.param("data") == ""
    assert registry.why_not_registrable(record) == "it logged no model"
    files = {i.path for i in mlflow.MlflowClient().list_artifacts(result["run_id"])}
    assert {"confusion", "roc", "plots", "predictions", "checkpoints", "per_class", "tasks.json", "images"} <= files
    table = pd.read_parquet(
        mlflow.artifacts.download_artifacts(run_id=result["run_id"], artifact_path="predictions/test.parquet")
    )
    known = table["size/target"].notna()
    assert f1_score(table["size/target"][known], table["size"][known], average="macro") == pytest.approx(
        result["test"]["size"]["f1"]
    )


def fmtl_store_record(run_id):
    return store_module.get_run(run_id)


def test_without_mlflow_nothing_is_logged_or_written(store, tmp_path):
    before = {p.name for p in tmp_path.iterdir()}
    result = run(mlflow=False)
    assert result["run_id"] is None and result["checkpoints"] == {"best": None, "last": None}
    assert {p.name for p in tmp_path.iterdir()} == before
    assert mlflow.search_runs(search_all_experiments=True).empty


def test_described_loaders_give_a_model_that_can_be_registered(store):
    preprocess = Preprocess(32, "pad", "#ffffff", 32, (0.5,) * 3, (1.0,) * 3)
    labels = {"colour": ["red", "green", "blue"], "size": ["small", "large"]}
    result = run(classes=labels, preprocess=preprocess, data_id="squares-1")
    record = fmtl_store_record(result["run_id"])
    assert registry.why_not_registrable(record) is None and record.tags["fmtl.data"] == "squares-1"
    assert mlflow.pyfunc.load_model(record.model_uri)


def test_the_analysis_compares_every_backbone_in_both_modes(store):
    given = {"num_classes_dict": {"colour": 3, "size": 2}, **loaders(), "device": "cpu", "epochs": 1, **FAST}
    analysis = fmtl.run_complete_model_analysis(**given, backbones=["resnet18", "mobilenet_v3_small"], mlflow=False)
    pairs = {(b, m) for b in ("resnet18", "mobilenet_v3_small") for m in ("tuned", "baseline")}
    assert set(analysis["runs"]) == pairs
    table = analysis["table"]
    assert set(zip(table["model"], table["mode"], strict=True)) == pairs
    assert table["val/avg/f1"].is_monotonic_decreasing
    for row in table.to_dict("records"):
        assert row["test/avg/f1"] == analysis["runs"][row["model"], row["mode"]]["test"]["avg"]["f1"]


def test_a_diverging_run_has_a_row_and_does_not_stop_the_others(store):
    given = {"num_classes_dict": {"colour": 3, "size": 2}, **loaders(), "device": "cpu", "epochs": 1, **FAST}

    def explode(logits, targets):  # in every step of the first run
        is_first = torch.is_grad_enabled() and len(calls) < len(given["train_loader"])
        return logits.sum() * (float("nan") if is_first and not calls.append(1) else 0.0)

    calls = []
    analysis = fmtl.run_complete_model_analysis(
        **given, criterions={"colour": explode}, backbones=["resnet18"], mlflow=False
    )
    assert len(analysis["runs"]) == 1 and len(analysis["table"]) == 2
    assert "training loss" in analysis["table"]["status"].iloc[1]


def test_when_every_run_diverges_the_table_says_so(store):
    given = {"num_classes_dict": {"colour": 3, "size": 2}, **loaders(), "device": "cpu", "epochs": 1, **FAST}
    analysis = fmtl.run_complete_model_analysis(
        **given, criterions={"colour": lambda logits, targets: logits.sum() * np.nan}, backbones=["resnet18"],
        mlflow=False,
    )  # fmt: skip
    assert analysis["runs"] == {} and analysis["table"]["val/avg/f1"].isna().all()
    assert analysis["table"]["status"].str.contains("training loss is nan").tolist() == [True, True]


def test_what_one_backbone_lacks_does_not_cost_the_results_of_others_but_a_wrong_name_is_refused_first(store):
    given = {"num_classes_dict": {"colour": 3, "size": 2}, **loaders(), "device": "cpu", "epochs": 1, **FAST}
    given |= {"modes": ["tuned"], "mlflow": False}
    with pytest.raises(UsageError, match="resnet81"):
        fmtl.run_complete_model_analysis(
            **given, criterions={"colour": pytest.fail}, backbones=["resnet18", "resnet81"]
        )
    given["weights"] = "bundled"  # there are none of resnet18
    analysis = fmtl.run_complete_model_analysis(**given, backbones=["tf_efficientnet_lite0", "resnet18"])
    assert list(analysis["runs"]) == [("tf_efficientnet_lite0", "tuned")]
    assert analysis["table"]["status"].iloc[0] == "ok" and "bundled" in analysis["table"]["status"].iloc[1]


def test_patience_holds_for_the_epochs_after_the_frozen_ones(store):
    result = run(mlflow=False, epochs=8, patience=1, learning_rate=1e-9, freeze_epochs=1, criterions=None)
    assert len(result["history"]) < 8


def test_without_any_validation_label_no_epoch_is_chosen(store):
    unknown = broken(lambda x, t: (x, {"colour": IGNORE_INDEX, "size": IGNORE_INDEX}))
    with pytest.raises(DataError, match="validation: no image has a label"):
        run(mlflow=False, val_loader=unknown)


def test_labels_may_be_numbers_and_the_run_says_what_it_is(store):
    labels = {"colour": np.arange(3), "size": np.unique(["small", "large"])}
    result = run(classes=labels, save_checkpoints=True, epochs=1)
    assert checkpoints.load(Path(result["checkpoints"]["best"])).epoch == 1
    settings = reading.build_from_file(
        schema.TrainSettings,
        {},
        Path(mlflow.artifacts.download_artifacts(run_id=result["run_id"], artifact_path="config.yaml")),
    )
    assert (settings[0].backbone, settings[0].px, settings[0].batch_size) == ("resnet18", 32, 16)
    note = fmtl_store_record(result["run_id"]).tags["mlflow.note.content"]
    assert f"**{result['test']['avg']['f1']:.3f}**" in note and "weakest attribute" in note


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"label_cols": ["colour", "sise"]}, "label_cols: 'sise' is not in num_classes_dict; did you mean 'size'"),
        ({"criterions": {"color": nn.CrossEntropyLoss()}}, "criterions: 'color'.*did you mean 'colour'"),
        ({"batch_size": 3}, "batch_size: the loaders decide"),
        ({"lerning_rate": 3}, "learning_rate"),
        ({"mixup": 0.2}, "criterions: they take one target"),
        ({"classes": {"size": ["a", "b", "c"]}}, "size has 3 labels, expected 2"),
        ({"model_name": "resnet81"}, "resnet18"),
        ({"device": "tpu"}, "device"),
        ({"classes": {"size": ["a", "a"]}}, "classes: size: expected different labels, none blank, got 'a'"),
        ({"preprocess": Preprocess(64, "pad", "#ffffff", 64, (0.5,) * 3, (1.0,) * 3)}, "of 64 px, the loaders give 32"),
        (
            {"criterions": {"size": nn.CrossEntropyLoss(reduction="none")}},
            "criterions: size: expected a tensor of one number",
        ),
    ],
)
def test_wrong_usage_is_named(store, more, message):
    with pytest.raises(UsageError, match=message):
        run(mlflow=False, **more)


def broken(change):
    class Broken(Squares):
        def __getitem__(self, i):
            return change(*super().__getitem__(i))

    return DataLoader(Broken(40, 1), batch_size=16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x, t: (x, t["colour"]),
            "val_loader, batch 1: its second part must be a dict of.*type Tensor",
        ),
        (lambda x, t: (x[:2], t), "expected images"),
        (lambda x, t: (x[:, :20], t), "of one size, got train 32 x 32, val 20 x 32"),
        (lambda x, t: (x + torch.nan, t), "val_loader, batch 1, image 1: a pixel is not a finite number"),
        (lambda x, t: ((x * 255).byte(), t), "of floats"),
        (lambda x, t: (x, {"colour": t["colour"]}), "no targets of 'size'"),
        (lambda x, t: (x, {**t, "size": t["size"] + 7}), "expected 0 to 1"),
        (lambda x, t: (x, {**t, "colour": -1}), "expected 0 to 2, or -100 where unknown"),
        (lambda x, t: (x, {**t, "colour": float(t["colour"])}), "class indices"),
    ],
)
def test_loaders_that_can_t_be_trained_on_are_named(store, change, message):
    with pytest.raises(DataError, match=message):
        run(mlflow=False, val_loader=broken(change))


def test_a_loader_without_a_length_is_named(store):
    with pytest.raises(DataError, match="train_loader: it has no length"):
        run(mlflow=False, train_loader=(batch for batch in loaders()["train_loader"]))


def test_a_rest_that_batch_norm_can_t_take_is_named(store):
    rest = DataLoader(Squares(33, 0), batch_size=16)  # at 32 px resnet18 ends in one place per channel
    with pytest.raises(DataError, match="train_loader: a batch has 1 image.*drop_last=True"):
        run(mlflow=False, train_loader=rest)


def test_an_empty_loader_is_named(store):
    with pytest.raises(DataError, match="test_loader: it gives no batch"):
        run(mlflow=False, test_loader=[])
