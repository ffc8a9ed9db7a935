"""One real train run on the sample, looked at from all sides; then the commands that read it."""

import base64
import io
import json
import logging
import os
import re
import shutil
import sqlite3
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import f1_score

import fmtl
from fmtl import metric_names
from fmtl.commands.compare import compare
from fmtl.commands.predict import predict
from fmtl.commands.register import register
from fmtl.commands.train import NOT_LOGGED, train
from fmtl.commands.upkeep.sync import sync
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.dataset.prepared import open_dataset
from fmtl.errors import DataError, UsageError
from fmtl.loading.augment import Augmentation
from fmtl.loading.batches import Batches
from fmtl.loading.sources import Photos
from fmtl.settings import schema
from fmtl.tracking.delivery import courier
from fmtl.training import checkpoints

SETTINGS = {
    "backbone": "resnet18", "weights": "none", "px": 32, "epochs": 2, "batch_size": 64, "gallery": False,
    "precision": "fp32", "channels_last": True,
}  # fmt: skip
PER_EPOCH = {"train/loss", "val/loss", "learning_rate/backbone", "learning_rate/heads", "images_per_second",
             "data_share", "epoch_seconds"}  # fmt: skip
SCORES = metric_names.SCORES


def settings(data, **changes):
    return schema.TrainSettings(data=str(data), **SETTINGS | changes)


@pytest.fixture(scope="module")
def world(tmp_path_factory, empty_store, dataset, catalogue_table):
    """A working directory with two finished train runs, tuned and baseline."""
    folder = tmp_path_factory.mktemp("world")
    before, env = os.getcwd(), os.environ.get("MLFLOW_TRACKING_URI")
    shutil.copy(empty_store, folder / "mlflow.db")
    os.chdir(folder)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    os.environ["MLFLOW_TRACKING_URI"] = uri
    mlflow.set_tracking_uri(uri)
    modes = {"tuned": {"gallery": True}, "baseline": {}}
    yield {mode: train(settings(dataset.folder, mode=mode, **more)) for mode, more in modes.items()}
    os.chdir(before)
    os.environ.pop("MLFLOW_TRACKING_URI") if env is None else os.environ.update(MLFLOW_TRACKING_URI=env)


@pytest.fixture
def run(world):
    return mlflow.get_run(world["tuned"])


def run_named(name):
    query = f"attributes.run_name = '{name}'"
    (found,) = mlflow.search_runs(search_all_experiments=True, output_format="list", filter_string=query)
    return found


def artifact(run, path):
    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path))


def test_the_run_is_tagged_and_its_settings_are_params(run, dataset):
    assert run.info.status == "FINISHED"
    assert run.data.tags["fmtl.kind"] == "train"
    assert run.data.tags["fmtl.outcome"] == "completed"
    assert run.data.tags["fmtl.data"] == dataset.digest
    assert "resnet18" in run.data.tags["mlflow.note.content"]
    expected = {"backbone": "resnet18", "mode": "tuned", "px": "32", "weight_decay": "0.0001", "optimizer": "adamw",
                "learning_rate": "0.003", "backbone_lr_scale": "0.1", "clip_norm": "1.0", "seed": "0"}  # fmt: skip
    assert {k: run.data.params[k] for k in expected} == expected
    assert set(run.data.params) >= set(schema.TrainSettings.model_fields) - set(NOT_LOGGED)


def test_metrics_have_a_point_per_epoch_and_the_best_once(run, dataset):
    client = mlflow.MlflowClient()
    names = PER_EPOCH | {f"val/{key}/{s}" for key in ("avg", *(t.slug for t in dataset.tasks)) for s in SCORES}
    for name in names:
        assert [m.step for m in client.get_metric_history(run.info.run_id, name)] == [1, 2], name
    metrics = run.data.metrics
    losses = [m.value for m in client.get_metric_history(run.info.run_id, "val/loss")]
    assert metrics["best/epoch"] == np.argmin(losses) + 1
    assert metrics["best/val/loss"] == min(losses)
    best_f1 = client.get_metric_history(run.info.run_id, "val/avg/f1")[int(metrics["best/epoch"]) - 1].value
    assert metrics["best/val/avg/f1"] == best_f1
    assert {f"test/avg/{s}" for s in SCORES} <= set(metrics)
    assert not [k for k in metrics if k.startswith("test/") and len(client.get_metric_history(run.info.run_id, k)) != 1]


def test_every_artifact_of_the_contract_is_there(run, dataset):
    client = mlflow.MlflowClient()

    def tree(path=None):
        for item in client.list_artifacts(run.info.run_id, path):
            yield from tree(item.path) if item.is_dir else [item.path]

    slugs = [task.slug for task in dataset.tasks]
    want = {
        "config.yaml",
        "tasks.json",
        "plots/averages.png",
        "plots/loss.png",
        "predictions/test.parquet",
        "photos.parquet",
    }
    want |= {f"checkpoints/resnet18_tuned_{which}.pt" for which in ("best", "last")}
    curves = ("confusion", "roc", "precision_recall", "reliability")
    want |= {f"{kind}/{slug}.{suffix}" for kind in curves for slug in slugs for suffix in ("png", "json")}
    want |= {f"{kind}/{slug}.csv" for kind in ("per_class", "confusion") for slug in slugs}
    want |= {f"per_class/{slug}.png" for slug in slugs} | {"plots/history.csv"}
    want |= {f"plots/{name}.png" for name in ("task_losses", "task_f1", "learning_rates")}
    want |= {f"gallery/{name}" for name in ("gallery.html", "mistakes.csv", "suspects.csv")}
    found = set(tree())
    frames = {path for path in found if path.startswith("images/")}
    assert found - frames == want
    for slug in slugs:  # a frame and its small copy for each epoch
        assert len([path for path in frames if path.startswith(f"images/confusion~{slug}+step+")]) == 2 * 2


def test_the_numbers_in_the_artifacts_agree_with_each_other_and_with_scikit_learn(run, dataset):
    table = pd.read_parquet(artifact(run, "predictions/test.parquet"))
    rows = dataset.table.iloc[dataset.rows("test")]
    assert table["id"].tolist() == rows["id"].tolist()
    for task in dataset.tasks:
        known = table[f"{task.slug}/target"].notna()
        truth, preds = table[f"{task.slug}/target"][known], table[task.slug][known]
        assert run.data.metrics[f"test/{task.slug}/f1"] == pytest.approx(f1_score(truth, preds, average="macro"))
        probs = np.stack(table[f"{task.slug}/probs"])
        assert [task.classes[k] for k in probs.argmax(1)] == table[task.slug].tolist()
        np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
        confusion = json.loads(artifact(run, f"confusion/{task.slug}.json").read_text())
        assert confusion["classes"] == list(task.classes)
        assert np.sum(confusion["counts"]) == known.sum()
        assert np.trace(confusion["counts"]) == (truth == preds).sum()
        per_class = pd.read_csv(artifact(run, f"per_class/{task.slug}.csv"))
        assert list(per_class) == ["class", "support", "precision", "recall", "f1"]
        assert per_class["support"].tolist() == np.sum(confusion["counts"], axis=1).tolist()


def test_checkpoints_say_what_they_are(run):
    best, last = (checkpoints.load(artifact(run, f"checkpoints/resnet18_tuned_{w}.pt")) for w in ("best", "last"))
    assert best.epoch == run.data.metrics["best/epoch"]
    assert last.epoch == 2
    assert best.settings["backbone"] == "resnet18"
    assert last.training and not best.training
    assert best.metrics["val/avg/f1"] == run.data.metrics["best/val/avg/f1"]


def test_the_pyfunc_predicts_what_the_engine_did(run, dataset, catalogue_table):
    model = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    table = pd.read_parquet(artifact(run, "predictions/test.parquet")).head(32)
    paths = [catalogue_table.parent / "images" / p for p in table["path"]]
    as_path = model.predict(pd.DataFrame({"image": [str(p) for p in paths]}))
    as_text = model.predict(pd.DataFrame({"image": [base64.b64encode(p.read_bytes()).decode() for p in paths]}))
    as_bytes = model.predict(pd.DataFrame({"image_bytes": [p.read_bytes() for p in paths]}))
    for result in (as_path, as_text, as_bytes):
        assert result["status"].tolist() == ["ok"] * 32
        for task in dataset.tasks:
            assert result[task.slug].tolist() == table[task.slug].tolist()
            np.testing.assert_allclose(result[f"{task.slug}/confidence"], table[f"{task.slug}/confidence"], atol=1e-6)


def test_the_pyfunc_refuses_paths_when_serving_and_answers_every_row(run, catalogue_table, monkeypatch):
    model = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
    path = str(catalogue_table.parent / "images" / "g0001.jpg")
    rows = pd.DataFrame({"image": [path, "/etc/passwd", "bm8=", "!"]})
    assert model.predict(rows)["status"].tolist() == ["ok", "not_an_image", "not_an_image", "missing"]
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    assert (model.predict(rows)["status"] == "not_an_image").all()
    assert "kind/2" in model.predict(rows, params={"top_k": 2})


def test_small_images_and_blank_cells_are_answered_too(run):
    model = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model").unwrap_python_model()
    buffer = io.BytesIO()
    Image.new("RGB", (24, 24), "red").save(buffer, "PNG")
    small = base64.b64encode(buffer.getvalue()).decode()
    rows = pd.DataFrame({"image": [small, "A" * 400, None, "x\0y"]}, dtype=object)
    assert model.predict(None, rows)["status"].tolist() == ["ok", "not_an_image", "missing", "missing"]
    rows = pd.DataFrame({"image_bytes": [buffer.getvalue(), None]}, dtype=object)
    assert model.predict(None, rows)["status"].tolist() == ["ok", "missing"]


@pytest.mark.parametrize("mode", ["tuned", "baseline"])
def test_the_notebook_functions_give_the_same_numbers_on_the_same_batches(world, dataset, mode):
    theirs = mlflow.get_run(world[mode]).data.metrics
    image = dataset.manifest["image"]
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preprocess = Preprocess(dataset.px, image["fit"], image["background"], 32, mean, std)

    def batches(split):
        turned = Augmentation(crop_scale=1.0, rotation=10.0, colour_jitter=0.1, keep_hue=True, keep_colour=True)
        augmentation = turned if mode == "tuned" and split == "train" else None
        photos = Photos(dataset, preprocess=preprocess, augmentation=augmentation)
        return Batches(
            photos, dataset.targets, dataset.rows(split), tasks=dataset.tasks, batch_size=64, shuffle=split == "train"
        )

    result = fmtl.train_and_evaluate_model(
        "resnet18", dataset.tasks.num_classes, *map(batches, ("train", "val", "test")), "cpu", epochs=2, mode=mode,
        mlflow=False, weights="none", precision="fp32", channels_last=True,
    )  # fmt: skip
    assert result["best_epoch"] == theirs["best/epoch"]
    assert result["history"][result["best_epoch"] - 1]["val/loss"] == theirs["best/val/loss"]
    for task in dataset.tasks:
        for score in SCORES:
            assert result["test"][task.name][score] == theirs[f"test/{task.slug}/{score}"]


def test_the_note_says_how_good_what_is_wrong_and_how_to_go_on(run, dataset):
    note, metrics = run.data.tags["mlflow.note.content"], run.data.metrics
    assert len(note) < 5000
    assert f"**{metrics['test/avg/f1']:.3f}**" in note
    for task in dataset.tasks:
        assert f"| {task.name} | {task.num_classes} | {metrics[f'test/{task.slug}/accuracy']:.3f} |" in note
    assert "weakest attribute" in note and "labels are doubtful" in note
    last_is_best = metrics["best/epoch"] == 2
    assert ("more epochs may help" in note) == last_is_best
    (command,) = [line for line in note.splitlines() if line.startswith("Repeat it: ")]
    assert "--px 32" in command and "--gallery" not in command and "--resume" not in command
    assert f"fmtl register --run {run.info.run_id}" in note and f"fmtl predict --model {run.info.run_id}" in note


def test_a_note_of_another_mode_repeats_it(world):
    note = mlflow.get_run(world["baseline"]).data.tags["mlflow.note.content"]
    assert "--mode baseline" in note and "--gallery false" in note


def test_compare_register_and_predict(world, run, catalogue_table, tmp_path, capsys):
    board = compare(schema.CompareSettings(out=str(tmp_path / "board"), register="fashion-attributes"))
    assert set(board.table["run_id"]) == set(world.values())
    written = pd.read_csv(tmp_path / "board" / "leaderboard.csv")
    assert {"rank", "run_id", "run_name", "backbone", "mode", "data", "test/avg/accuracy", "test/avg/f1",
            "test/avg/precision", "test/avg/recall", "best/val/avg/f1", "test/colour/f1"} <= set(written)  # fmt: skip
    ranked, others = written[written["rank"].notna()], written[written["rank"].isna()]
    assert ranked["best/val/avg/f1"].is_monotonic_decreasing
    assert others["run_name"].tolist() == ["most frequent class", "best look-up"]
    for name in ("leaderboard.md", "leaderboard.html"):
        assert "resnet18-tuned" in (tmp_path / "board" / name).read_text()
    best = written["run_id"][0]
    version = mlflow.MlflowClient().get_model_version_by_alias("fashion-attributes", "champion")
    assert version.tags["fmtl.run"] == best

    other = next(r for r in world.values() if r != best)
    register(schema.RegisterSettings(run=other))
    assert "it pointed to version 1 before" in capsys.readouterr().out
    register(schema.RegisterSettings(run=best))
    register(schema.RegisterSettings(run="best"))
    versions = mlflow.MlflowClient().search_model_versions("name = 'fashion-attributes'")
    assert len(versions) == 2  # registering a run again makes no new version

    out = tmp_path / "p.parquet"
    images = catalogue_table.parent / "images"
    table = predict(schema.PredictSettings(model="models:/fashion-attributes@champion", images=str(images),
                                           out=str(out), top_k=2))  # fmt: skip
    assert table["image"].tolist() == sorted(p.name for p in images.iterdir())
    assert dict(zip(table["image"], table["status"], strict=True))["g0040.jpg"] == "truncated"
    pd.testing.assert_frame_equal(pd.read_parquet(out).fillna(np.nan), table.fillna(np.nan), check_dtype=False)
    test = pd.read_parquet(artifact(mlflow.get_run(best), "predictions/test.parquet")).set_index("path")
    ours = table.set_index("image").loc[test.index]
    for slug in ("kind", "colour"):
        assert (ours[slug] == test[slug]).all()
        np.testing.assert_allclose(ours[f"{slug}/confidence"], test[f"{slug}/confidence"], atol=1e-5)
    by_run = predict(schema.PredictSettings(model=best, images=str(catalogue_table), out=str(tmp_path / "q.csv")))
    raw = pd.read_csv(catalogue_table, dtype=str)
    assert by_run["image"].tolist() == raw["image"].tolist()
    assert by_run["status"][30] == "missing"


def test_a_compare_run_holds_the_leaderboard(world, tmp_path):
    compare(schema.CompareSettings(out=str(tmp_path)))
    (newest,) = mlflow.search_runs(search_all_experiments=True, filter_string="tags.`fmtl.kind` = 'compare'",
                                   max_results=1, output_format="list")  # fmt: skip
    names = {item.path for item in mlflow.MlflowClient().list_artifacts(newest.info.run_id)}
    assert names == {"leaderboard.csv", "leaderboard.md", "leaderboard.html", "plots"}


def test_a_model_that_is_not_ours_is_refused(world, tmp_path):
    class Stranger(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input: list[str], params=None) -> list[str]:
            raise AssertionError("a stranger's code ran")

    mlflow.set_experiment("other")
    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(name="m", python_model=Stranger(), pip_requirements=[])
    with pytest.raises(DataError, match="not a model of fmtl"):
        predict(schema.PredictSettings(model=info.model_uri, images=str(tmp_path), out="x.csv"))


def test_a_resumed_run_ends_as_the_unbroken_one(world, dataset, interrupted_after):
    """Stopped after its first epoch, then resumed: same weights, same metrics, no point twice."""
    with interrupted_after(1):
        train(settings(dataset.folder, run_name="broken"))
    broken = run_named("broken")
    assert broken.data.tags["fmtl.outcome"] == "interrupted"
    assert broken.info.status == "KILLED"
    with pytest.raises(UsageError, match="epochs: the run has 2, got 9"):
        train(schema.TrainSettings(resume=broken.info.run_id, epochs=9))
    assert train(schema.TrainSettings(resume=broken.info.run_id)) == broken.info.run_id
    resumed, whole = mlflow.get_run(broken.info.run_id), mlflow.get_run(world["tuned"])
    assert resumed.data.tags["fmtl.outcome"] == "completed"
    timing = metric_names.PACE
    assert {k: v for k, v in resumed.data.metrics.items() if k not in timing and not k.startswith("system/")} == {
        k: v for k, v in whole.data.metrics.items() if k not in timing and not k.startswith("system/")
    }
    client = mlflow.MlflowClient()
    assert [m.step for m in client.get_metric_history(broken.info.run_id, "val/loss")] == [1, 2]
    a, b = (checkpoints.load(artifact(r, "checkpoints/resnet18_tuned_last.pt")) for r in (resumed, whole))
    assert all(torch.equal(a.model[k], b.model[k]) for k in b.model)


def test_what_a_store_did_not_take_is_delivered_later_each_once(world, dataset, monkeypatch, caplog):
    monkeypatch.setattr(courier, "PATIENCE_SECONDS", 1)
    with sqlite3.connect("mlflow.db") as database:  # a store that takes everything but metrics
        database.execute(
            "CREATE TRIGGER lost BEFORE INSERT ON metrics BEGIN SELECT RAISE(FAIL, 'the store is gone'); END"
        )
    with caplog.at_level(logging.WARNING):
        train(settings(dataset.folder, run_name="lost"))
    assert "not everything was delivered" in caplog.text and "fmtl sync --run" in caplog.text
    with sqlite3.connect("mlflow.db") as database:
        database.execute("DROP TRIGGER lost")
    run = run_named("lost")
    assert (run.info.status, run.data.metrics) == ("RUNNING", {})
    for _ in range(2):  # the second time there is nothing to do
        sync(schema.SyncSettings(run=run.info.run_id))
    steps = [m.step for m in mlflow.MlflowClient().get_metric_history(run.info.run_id, "val/loss")]
    assert steps == [1, 2]
    run = mlflow.get_run(run.info.run_id)
    assert (run.info.status, run.data.tags["fmtl.outcome"]) == ("FINISHED", "completed")
    assert run.data.metrics.keys() >= {"test/avg/f1", "best/val/avg/f1"}
    assert mlflow.MlflowClient().get_logged_model(run.data.tags["fmtl.model_id"]).status == "READY"


def test_resuming_a_finished_run_does_nothing(world, capsys):
    assert train(schema.TrainSettings(resume=world["tuned"])) == world["tuned"]
    assert "nothing to do" in capsys.readouterr().out


def test_no_plots_and_no_checkpoints_still_leave_every_number_and_the_model(world, dataset):
    plain = {"extra_plots": False, "save_checkpoints": False, "gallery": True}
    run_id = train(settings(dataset.folder, epochs=1, freeze=True, **plain))
    client = mlflow.MlflowClient()
    assert {i.path for i in client.list_artifacts(run_id)} == {
        "config.yaml", "tasks.json", "confusion", "roc", "per_class", "predictions", "precision_recall", "reliability",
        "plots", "gallery", "photos.parquet",
    }  # fmt: skip
    for folder in ("confusion", "roc", "plots", "per_class"):
        assert all(i.path.endswith((".json", ".csv")) for i in client.list_artifacts(run_id, folder))
    assert mlflow.pyfunc.load_model(f"runs:/{run_id}/model")


def test_a_failed_run_says_why_and_is_not_ranked(world, dataset, tmp_path):
    with pytest.raises(UsageError, match="px: 128 is larger than the stored side 64"):
        train(settings(dataset.folder, px=128, run_name="too-large"))
    failed = run_named("too-large")
    assert failed.info.status == "FAILED"
    assert failed.data.tags["fmtl.outcome"] == "failed"
    assert "larger than the stored side" in failed.data.tags["fmtl.error"]
    board = compare(schema.CompareSettings(out=str(tmp_path)))
    reasons = dict(zip(board.unranked["run_id"], board.unranked["reason"], strict=True))
    assert reasons[failed.info.run_id] == "it did not complete (failed)"
    with pytest.raises(DataError, match="can't be registered: it did not complete"):
        register(schema.RegisterSettings(run=failed.info.run_id))


def test_an_empty_split_is_an_error(world, dataset, tmp_path):
    copy = shutil.copytree(dataset.folder, tmp_path / "copy")
    table = pd.read_parquet(copy / "table.parquet")
    table.assign(split="train").to_parquet(copy / "table.parquet")
    manifest = json.loads((copy / "manifest.json").read_text())
    from fmtl.storage import durable

    manifest["files"]["table.parquet"] = {
        "bytes": (copy / "table.parquet").stat().st_size, "sha256": durable.sha256(copy / "table.parquet"),
    }  # fmt: skip
    del manifest["sha256"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert len(open_dataset(copy).rows("val")) == 0
    with pytest.raises(DataError, match="the val split is empty"):
        train(settings(copy))


def logits_of(run_id):
    table = pd.read_parquet(artifact(mlflow.get_run(run_id), "predictions/test.parquet"))
    return {name: np.stack(table[name]) for name in table if name.endswith("/probs")}


def test_features_computed_once_give_the_predictions_of_features_computed_each_epoch(world, dataset, caplog):
    caplog.set_level("INFO", "fmtl")
    common = {"freeze": True, "augment": False, "epochs": 3, "precision": "fp32", "seed": 4}  # features of its own
    common |= {"extra_plots": False}
    cached, again, without = (
        train(settings(dataset.folder, **common, **extra)) for extra in ({}, {}, {"cache_features": False})
    )
    assert caplog.text.count("features: ") == 1  # the second run read what the first one kept
    for name, probs in logits_of(cached).items():
        np.testing.assert_array_equal(probs, logits_of(again)[name])
        np.testing.assert_allclose(probs, logits_of(without)[name], atol=1e-5)
        assert (probs.argmax(1) == logits_of(without)[name].argmax(1)).all()


@pytest.mark.slow
def test_cached_features_of_other_weights_or_sizes_are_not_taken(world, dataset, caplog):
    caplog.set_level("INFO", "fmtl")
    for extra in ({"seed": 5}, {"seed": 5, "px": 64}, {"seed": 6}, {"seed": 5}):
        train(settings(dataset.folder, freeze=True, epochs=1, extra_plots=False, **extra))
    assert caplog.text.count("features: ") == 1  # the last one alone asked for what the first had kept


@pytest.mark.slow
def test_frozen_epochs_first_then_all_weights_and_resuming_in_either_is_as_unbroken(world, dataset, interrupted_after):
    common = {"epochs": 4, "freeze_epochs": 2, "ema_decay": 0.9, "accumulate": 2, "extra_plots": False}
    common |= {"task_weights": "uncertainty"}
    whole = mlflow.get_run(train(settings(dataset.folder, **common)))
    history = mlflow.MlflowClient().get_metric_history(whole.info.run_id, "learning_rate/backbone")
    assert [m.step for m in history] == [3, 4]
    for broken_after in (1, 2, 3):
        with interrupted_after(broken_after):
            train(settings(dataset.folder, run_name=f"broken {broken_after}", **common))
        resumed = mlflow.get_run(train(schema.TrainSettings(resume=run_named(f"broken {broken_after}").info.run_id)))
        for name, value in whole.data.metrics.items():
            if name not in metric_names.PACE and not name.startswith("system/"):
                assert resumed.data.metrics[name] == value, (broken_after, name)


def test_patience_ends_a_run_that_does_not_get_better(world, dataset, caplog):
    caplog.set_level("INFO", "fmtl")
    still = {"learning_rate": 1e-12, "freeze": True, "augment": False}  # steps too small for a float32
    plain = {"extra_plots": False, "save_checkpoints": False}
    run_id = train(settings(dataset.folder, epochs=12, patience=2, **still, **plain))
    assert "stopped: no lower refined validation loss in 2 epochs" in caplog.text
    losses = [m.value for m in mlflow.MlflowClient().get_metric_history(run_id, "val/loss")]
    assert len(losses) == 3 and len(set(losses)) == 1
    assert mlflow.get_run(run_id).data.metrics["best/epoch"] == 1


def test_every_part_of_a_recipe_can_be_switched_on_together(world, dataset):
    run_id = train(
        settings(
            dataset.folder, epochs=1, schedule="cosine", warmup=0.1, layer_decay=0.8, decay_norms=False,
            ema_decay=0.9, label_smoothing=0.1, class_weights=0.5, task_weights="uncertainty", colour_jitter=0.2,
            policy="trivial", mixup=0.2, cutmix=1.0, accumulate=2, grad_checkpointing=True, px="auto",
            batch_size="auto", extra_plots=False, precision="auto", channels_last=None,
        )
    )  # fmt: skip
    run = mlflow.get_run(run_id)
    assert run.data.params["px"] == "64"  # the photos have 192, the dataset 64
    assert int(run.data.params["batch_size"]) >= 8
    assert run.data.params["precision"] in ("fp32", "bf16") and run.data.params["channels_last"] in ("True", "False")
    assert run.data.tags["fmtl.outcome"] == "completed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_weights": "colr=2"}, "task_weights: there is no task 'colr'; did you mean 'colour'?"),
        ({"task_weights": "colour=x"}, "task_weights: colour: expected a number from 0 on, got 'x'"),
        ({"task_weights": "colour=-1"}, "got '-1'"),
        (
            {"mode": "baseline", "colour_jitter": 0.1},
            "colour_jitter: augment is false, as mode=baseline has it by default; give augment=true",
        ),
        ({"colour_tasks": ("shade",)}, "colour_tasks: there is no task 'shade'; the tasks are"),
    ],
)
def test_settings_that_do_not_fit_together_or_the_tasks_are_refused(world, dataset, change, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        train(settings(dataset.folder, **change))


def test_a_batch_of_gradients_that_is_checkpointed_is_the_same(dataset):
    from fmtl.model import backbones

    for backbone in ("resnet18", "tf_efficientnet_lite0"):
        gradients, statistics = [], []
        for checkpointed in (False, True):
            torch.manual_seed(0)
            net = backbones.build(backbone, {"a": 3}, weights="none", px=32)
            if checkpointed:
                net.checkpoint_gradients()
            torch.manual_seed(1)
            net.train()
            for _ in range(2):
                net.logits(torch.randn(4, 3, 32, 32)).square().sum().backward()
            gradients.append([p.grad for p in net.parameters()])
            statistics.append(dict(net.named_buffers()))
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)
        torch.testing.assert_close(*statistics)  # of BatchNorm: a block is computed twice, and counts once
