"""The whole pipeline on real photos. Needs FMTL_REAL_DATA."""

import mlflow
import numpy as np
import pandas as pd
import pytest

from fmtl.commands.compare import compare
from fmtl.commands.predict import predict
from fmtl.commands.prepare import build_dataset, prepare
from fmtl.commands.train import train
from fmtl.dataset.prepared import GROUP, REPORT
from fmtl.dataset.splits.stratified import split_groups
from fmtl.settings import schema
from fmtl.tasks import IGNORE_INDEX

pytestmark = pytest.mark.slow

BACKBONES = ("convnext_tiny", "resnet50", "vit_b_16", "efficientnet_b5")


def artifact_paths(run_id, path=None):
    for item in mlflow.MlflowClient().list_artifacts(run_id, path):
        yield from artifact_paths(run_id, item.path) if item.is_dir else [item.path]


def test_each_of_the_four_backbones_trains_and_logs_every_artifact(store, real_data):
    fashion = real_data / "fashion"
    sampled = pd.read_csv(fashion / "fashion.csv", dtype=str).sample(200, random_state=0)
    sampled.to_csv(store / "sampled.csv", index=False)
    dataset = prepare(schema.PrepareSettings(table="sampled.csv", images=str(fashion / "images"), px=96))
    slugs = [task.slug for task in dataset.tasks]
    for backbone in BACKBONES:
        run_id = train(schema.TrainSettings(backbone=backbone, weights="none", epochs=1, batch_size=16, px=96))
        want = {"config.yaml", "tasks.json", "predictions/test.parquet", "photos.parquet", "plots/history.csv"}
        want |= {f"plots/{name}.png" for name in ("averages", "loss", "task_losses", "task_f1", "learning_rates")}
        want |= {f"gallery/{name}" for name in ("gallery.html", "mistakes.csv", "suspects.csv")}
        want |= {f"checkpoints/{backbone}_tuned_{which}.pt" for which in ("best", "last")}
        kinds = ("confusion", "roc", "precision_recall", "reliability")
        want |= {f"{kind}/{slug}.{end}" for kind in kinds for slug in slugs for end in ("png", "json")}
        want |= {
            f"{kind}/{slug}.{end}"
            for kind, end in (("confusion", "csv"), ("per_class", "csv"), ("per_class", "png"))
            for slug in slugs
        }
        found = set(artifact_paths(run_id))
        frames = {path for path in found if path.startswith("images/")}  # named by MLflow
        assert found - frames == want
        assert {path.split("~")[1].split("+")[0] for path in frames} == set(slugs)
        metrics = mlflow.get_run(run_id).data.metrics
        assert 0 < metrics["test/avg/accuracy"] <= 1
    assert len(compare(schema.CompareSettings()).table) == 4


def test_the_small_network_learns_the_real_photos(store, real_data):
    """12 epochs of tf_efficientnet_lite0 at 128 px."""
    fashion = real_data / "fashion"
    dataset = prepare(schema.PrepareSettings(table=str(fashion / "fashion.csv")))
    assert len(dataset.rows("test")) >= 330
    run_id = train(schema.TrainSettings(backbone="tf_efficientnet_lite0", weights="bundled", px=128, epochs=12))
    metrics = mlflow.get_run(run_id).data.metrics
    assert metrics["test/avg/accuracy"] >= 0.85
    assert metrics["test/avg/f1"] >= 0.62
    table = predict(schema.PredictSettings(model=run_id, images=str(fashion / "images")))
    assert (table["status"] == "ok").all()
    stored = pd.read_parquet(path_of_test_predictions(run_id)).set_index("path")
    ours = table.set_index("image").loc[stored.index]
    for task in dataset.tasks:
        assert (ours[task.slug] == stored[task.slug]).all()
        np.testing.assert_allclose(ours[f"{task.slug}/confidence"], stored[f"{task.slug}/confidence"], atol=1e-5)


def path_of_test_predictions(run_id):
    return mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="predictions/test.parquet")


def test_a_catalogue_of_small_pictures_with_blanks_and_rare_classes(store, real_data):
    labels = ("gender", "masterCategory", "articleType", "baseColour", "usage")
    dataset = prepare(
        schema.PrepareSettings(
            table=str(real_data / "styles" / "styles.csv"), preset="kaggle-fashion", label_cols=labels, px=80
        )
    )
    raw = pd.read_csv(real_data / "styles" / "styles.csv", dtype=str, keep_default_na=False, on_bad_lines="skip")
    counts = dataset.manifest["counts"]
    assert counts["read"] == counts["kept"] + counts["rejected"] == len(raw)
    assert dataset.tasks.num_classes["articleType"] == 84
    assert (dataset.table["usage"] == IGNORE_INDEX).sum() == raw["usage"].isin(["", "NA"]).sum() > 0
    run_id = train(
        schema.TrainSettings(backbone="tf_efficientnet_lite0", weights="bundled", px=80, epochs=1, device="cpu")
    )
    metrics = mlflow.get_run(run_id).data.metrics
    assert {f"test/{name}/f1" for name in labels} <= set(metrics)


def test_real_twins_stay_together_and_splits_are_closer_to_the_whole_than_chance(tmp_path, real_data):
    """Over 20 seeds, for every task, in val and in test."""
    settings = schema.PrepareSettings(
        table=str(real_data / "fashion" / "fashion.csv"), out=str(tmp_path / "out"), px=32
    )
    dataset, _ = build_dataset(settings)
    counts = dataset.manifest["counts"]
    assert (counts["duplicate_groups"], counts["conflicting_groups"]) == (172, 4)
    assert dataset.table.groupby(GROUP)["split"].nunique().max() == 1
    page = (dataset.folder / REPORT).read_text()
    assert "The same photo, different labels" in page and "Identical photos" in page
    assert len(page) < 5e6

    targets, groups = dataset.targets, dataset.table[GROUP].to_numpy()
    ours, chance = [], []
    for seed in range(20):
        drawn = split_groups(targets, groups.tolist(), fractions=(0.7, 0.15, 0.15), seed=seed)
        of_group = np.random.default_rng(seed).choice(3, groups.max() + 1, p=(0.7, 0.15, 0.15))
        ours.append(distances(targets, drawn))
        chance.append(distances(targets, of_group[groups]))
    assert (np.mean(ours, axis=0) < np.mean(chance, axis=0)).all(), (np.mean(ours, axis=0), np.mean(chance, axis=0))
    print("distance from the whole's class shares, ours / random:", np.mean(ours, axis=0) / np.mean(chance, axis=0))


def distances(targets, assigned):
    """Sum of absolute differences of class shares to the whole's, per split (val, test) and task."""
    found = []
    for split in (1, 2):
        for column in targets.T:
            whole, part = column[column >= 0], column[(column >= 0) & (assigned == split)]
            size = targets.max() + 1
            shares = [np.bincount(values, minlength=size) / len(values) for values in (whole, part)]
            found.append(np.abs(shares[0] - shares[1]).sum())
    return found
