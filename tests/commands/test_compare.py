"""Eight runs on real photos and one labeller that is none: the leaderboard again, from what was logged."""

import math
import os
import re
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from fmtl.commands.compare import compare
from fmtl.commands.evaluate import evaluate
from fmtl.commands.prepare import build_dataset
from fmtl.commands.train import train
from fmtl.dataset.prepared import open_dataset
from fmtl.errors import DataError
from fmtl.settings.schema import CompareSettings, EvaluateSettings, PrepareSettings
from fmtl.settings.train import TrainSettings
from fmtl.tracking import store

pytestmark = pytest.mark.slow

HOW = {"weights": "none", "px": 48, "batch_size": 32, "device": "cpu", "precision": "fp32", "channels_last": False,
       "epochs": 2, "extra_plots": False, "gallery": False, "learning_rate": 0.01}  # fmt: skip
TASKS = ("Gender", "Category", "SubCategory", "ProductType", "Colour", "Usage")


@pytest.fixture(scope="module")
def world(tmp_path_factory, empty_store, real_data):
    """Ids of runs by backbone, mode and seed; in a folder with the dataset and a file of answers."""
    folder = tmp_path_factory.mktemp("compare")
    before = Path.cwd(), os.environ.get("MLFLOW_TRACKING_URI")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = uri = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    source = {"table": str(real_data / "fashion/fashion.csv"), "images": str(real_data / "fashion/images")}
    build_dataset(PrepareSettings(**source, out="data", px=48, limit=900, test_fraction=0.3, workers=2))
    runs = {
        (backbone, mode, seed): train(TrainSettings(data="data", backbone=backbone, mode=mode, seed=seed, **HOW))
        for backbone in ("test_efficientnet", "test_resnet")
        for mode in ("tuned", "baseline")
        for seed in (0, 1)
    }
    answers = said(next(iter(runs.values())))
    table = answers[["id"]].assign(**{name: answers[f"{name}/target"].str.lower() for name in TASKS})
    table.loc[::4, list(TASKS)] = None  # a quarter was not answered
    table.assign(seconds=500).to_csv("answers.csv", index=False)
    yield runs
    os.chdir(before[0])
    if before[1] is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before[1]
        mlflow.set_tracking_uri(before[1])


def said(run_id):
    return pd.read_parquet(store.artifact(store.get_run(run_id), "predictions/test.parquet"))


def scores(table, rows=slice(None), answers=None):
    """Mean accuracy and macro-F1 over the attributes, and the share of photos with all of them right."""
    accuracy, f1, right = [], [], np.ones(len(table[rows]) if isinstance(rows, slice) else len(rows), bool)
    for name in TASKS:
        want = table[f"{name}/target"].to_numpy()[rows]
        told = (answers[name] if answers is not None else table[name]).fillna("?").to_numpy()[rows]
        known = np.array([isinstance(label, str) for label in want])
        labels = sorted({*want[known], *told[known]} - {"?"})
        accuracy.append(accuracy_score(want[known], told[known]))
        f1.append(f1_score(want[known], told[known], labels=labels, average="macro", zero_division=0))
        right &= ~known | (want == told)
    return np.mean(accuracy), np.mean(f1), right.mean()


def test_ranks_means_deviations_exact_matches_intervals_and_holm_are_those_of_the_logged_predictions(world, tmp_path):
    compare(CompareSettings(out=str(tmp_path), external={"agency": "answers.csv"}))
    board = pd.read_csv(tmp_path / "leaderboard.csv", dtype={"run_ids": str})
    ranked = board[board["rank"].notna()]
    chosen = {key: mlflow.get_run(run_id).data.metrics["best/val/avg/f1"] for key, run_id in world.items()}
    means = {}
    for (backbone, mode, _), value in chosen.items():
        means.setdefault((backbone, mode), []).append(value)
    order = sorted(means, key=lambda key: -np.mean(means[key]))
    assert list(zip(ranked["backbone"], ranked["mode"], strict=True)) == order
    assert ranked["rank"].tolist() == [1, 2, 3, 4] and ranked["seeds"].tolist() == [2] * 4
    tables = {run_id: said(run_id) for run_id in world.values()}
    for row in ranked.to_dict("records"):
        of_runs = np.array([scores(tables[run_id]) for run_id in row["run_ids"].split(",")])
        for column, values in zip(("accuracy", "f1", "exact"), of_runs.T, strict=True):
            assert row[f"test/avg/{column}"] == pytest.approx(values.mean())
            assert row[f"test/avg/{column}/sd"] == pytest.approx(values.std(ddof=1), abs=1e-9)
    check_leads(board, tables)


def check_leads(board, tables):
    """Intervals by other draws of the same groups, Holm's correction by hand, and the labeller that is no run."""
    first = board.iloc[0]
    table = tables[first["run_id"]]
    groups = np.unique(table["duplicate group"], return_inverse=True)[1]
    external = pd.read_csv("answers.csv", dtype=str)
    spelt = {name: {label.lower(): label for label in table[f"{name}/target"].dropna()} for name in TASKS}
    told = {name: external[name].map(spelt[name].get) for name in TASKS}
    agency = board[board["run_name"] == "agency"].iloc[0]
    accuracy, f1, exact = scores(table, answers=pd.DataFrame(told))
    assert (agency["test/avg/accuracy"], agency["test/avg/f1"]) == pytest.approx((accuracy, f1))
    assert agency["test/avg/exact"] == pytest.approx(exact)
    assert agency["coverage"] == pytest.approx(0.75, abs=0.01) and agency["cost/seconds"] == 500
    others = {row["run_name"] + row["run_ids"]: row for row in board[board["rank"].notna()].iloc[1:].to_dict("records")}
    rng, drawn = np.random.default_rng(9), {name: [] for name in others}
    for _ in range(150):
        times = np.bincount(rng.integers(0, groups.max() + 1, groups.max() + 1), minlength=groups.max() + 1)
        rows = np.repeat(np.arange(len(table)), times[groups])
        of_first = np.mean([scores(tables[run_id], rows)[1] for run_id in first["run_ids"].split(",")])
        for name, row in others.items():
            mine = np.mean([scores(tables[run_id], rows)[1] for run_id in row["run_ids"].split(",")])
            drawn[name].append(mine - of_first)
    for name, row in others.items():
        want = row["test/avg/f1"] - first["test/avg/f1"]
        assert row["lead"] == pytest.approx(want)
        assert (row["lead/low"], row["lead/high"]) == pytest.approx(np.percentile(drawn[name], [2.5, 97.5]), abs=0.02)
    compared = board[board["lead"].notna()]
    assert len(compared) == len(board) - 1
    assert compared["lead/p"].between(0, 1).all()
    assert (compared["tied"].astype(str) == "True").tolist() == (compared["lead/p"] >= 0.05).tolist()


def test_the_page_needs_no_script_for_what_it_shows_and_loads_nothing(world, tmp_path):
    compare(CompareSettings(out=str(tmp_path), external={"agency": "answers.csv"}))
    page = (tmp_path / "leaderboard.html").read_text()
    assert "default-src 'none'" in page and not re.search(r"(src|href)=\"(?!data:|#)", page)
    static = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    for shown in (
        "test_resnet-tuned",
        "agency",
        "best look-up",
        "Two beside each other",
        "Photos on which they differ",
    ):
        assert shown in static
    assert static.count("<svg") > 8 and static.count("data:image/jpeg") > 3
    assert len(page) < 3_000_000
    markdown = (tmp_path / "leaderboard.md").read_text()
    assert "agency" in markdown and "Holm" in markdown


def test_answers_are_for_one_dataset(world, tmp_path):
    with pytest.raises(DataError, match="wrong.csv"):
        Path("wrong.csv").write_text("id,Colour\nnobody,Red\n")
        compare(CompareSettings(out=str(tmp_path), external={"x": "wrong.csv"}))


def test_evaluating_a_model_on_its_own_dataset_gives_its_own_test(world):
    run_id = world["test_resnet", "tuned", 0]
    result = evaluate(EvaluateSettings(model=run_id, data="data", extra_plots=False))
    (found,) = store.search_runs("evaluate", most=1)
    logged = mlflow.get_run(run_id).data.metrics
    for name, value in logged.items():
        if name.startswith("test/") and not name.endswith("loss"):
            assert found.metrics[name] == pytest.approx(value, abs=1e-6), name
    assert len(next(iter(result.test.probs.values()))) == len(open_dataset("data").rows("test"))
    model_id = store.get_run(run_id).model_uri.removeprefix("models:/")
    model = mlflow.get_logged_model(model_id)
    digest = open_dataset("data").digest
    of_dataset = [m for m in model.metrics if m.dataset_digest == digest and m.key == "test/avg/f1"]
    assert of_dataset and of_dataset[0].run_id == found.run_id
    assert found.tags["fmtl.model"] == f"models:/{model_id}" and "Left out" in found.tags["mlflow.note.content"]


def test_photos_that_the_model_learnt_from_are_left_out_of_another_dataset(world, real_data, capsys):
    source = {"table": str(real_data / "fashion/fashion.csv"), "images": str(real_data / "fashion/images")}
    build_dataset(PrepareSettings(**source, out="later", px=64, fit="stretch", limit=1200, seed=3, workers=2))
    run_id = world["test_efficientnet", "tuned", 0]
    evaluate(EvaluateSettings(model=run_id, data="later", extra_plots=False))
    mine, later = open_dataset("data"), open_dataset("later")
    learnt = set(mine.photo_hashes[np.concatenate([mine.rows("train"), mine.rows("val")])])
    unseen = [sha256 not in learnt for sha256 in later.photo_hashes]
    told = capsys.readouterr().out
    assert f"{sum(unseen)} images" in told and f"left out: {len(unseen) - sum(unseen)} photos" in told
    (found,) = store.search_runs("evaluate", most=1)
    table = said(found.run_id)
    assert table["path"].tolist() == later.table["path"][unseen].tolist()
    accuracy, f1, _ = scores(table)
    assert found.metrics["test/avg/accuracy"] == pytest.approx(accuracy)
    assert found.metrics["test/avg/f1"] == pytest.approx(f1)
    assert not math.isnan(found.metrics["test/Colour/ece"])


def test_of_a_model_that_began_with_another_the_others_photos_are_left_out_too(world, real_data):
    source = {"table": str(real_data / "styles/styles.csv"), "images": str(real_data / "styles/images")}
    build_dataset(PrepareSettings(**source, preset="kaggle-fashion", out="styles", px=48, limit=300, workers=2))
    first = world["test_efficientnet", "tuned", 0]
    how = {name: value for name, value in HOW.items() if name != "weights"}
    second = train(TrainSettings(data="styles", weights=first, **how))
    result = evaluate(EvaluateSettings(model=second, data="data", extra_plots=False))
    assert len(next(iter(result.test.probs.values()))) == len(open_dataset("data").rows("test"))
