"""The whole pipeline on a table of one's own."""

import json
import os
import subprocess
import sys

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fmtl.commands.main import main
from fmtl.errors import Refused
from fmtl.settings.schema import MainSettings, PrepareSettings


def shop(folder):
    (folder / "shop" / "images").mkdir(parents=True)
    rows = ["image,Farbe,kind"]
    for i in range(60):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "shop" / "images" / f"{i}.png")
        rows.append(f"images/{i}.png,{('grün', 'weiß')[i % 2]},{('hat', 'bag', 'shoe')[i % 3]}")
    table = folder / "shop" / "products.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return table


@pytest.mark.slow
def test_main_takes_a_catalogue_from_its_table_to_labelled_test_photos(store):
    settings = MainSettings(
        table=str(shop(store)),
        images=str(store / "shop" / "images"),
        backbone="resnet18",
        weights="none",
        epochs=1,
        px=32,
    )
    main(settings)
    predictions = pd.read_csv(store / "predictions.csv")
    table = pd.read_parquet(store / "data" / "products" / "table.parquet")
    assert predictions["image"].tolist() == table[table["split"] == "test"]["path"].tolist()
    assert set(predictions["Farbe"]) <= {"grün", "weiß"} and (predictions["status"] == "ok").all()
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert sorted(run.data.tags["fmtl.kind"] for run in runs) == ["compare", "main", "prepare", "train", "train"]
    assert mlflow.MlflowClient().get_model_version_by_alias("fashion-attributes", "champion").version in (1, "1")


@pytest.mark.slow
def test_labels_stay_what_they_are_where_the_system_is_not_utf_8(tmp_path):
    (tmp_path / "loc").mkdir()
    made = subprocess.run(
        ["localedef", "-f", "ISO-8859-1", "-i", "de_DE", str(tmp_path / "loc" / "de_DE.ISO-8859-1")],
        capture_output=True,
    )
    if not (tmp_path / "loc" / "de_DE.ISO-8859-1").exists():
        pytest.skip(f"no such locale can be made here: {made.stderr.decode()}")
    chosen = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment = chosen | {
        "LOCPATH": str(tmp_path / "loc"), "LC_ALL": "de_DE.ISO-8859-1", "PYTHONUTF8": "0",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'm.db'}",
    }  # fmt: skip
    train = "--backbone resnet18 --weights none --px 32 --epochs 1 --gallery false --extra-plots false --precision fp32"
    for command in (
        f"prepare --table {shop(tmp_path)} --out out --px 32",
        f"train --data out {train} --channels-last false",
    ):
        argv = [sys.executable, "-m", "fmtl", *command.split()]
        done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode("latin-1")
    (written,) = tmp_path.glob("mlruns/*/*/artifacts/tasks.json")
    assert json.loads(written.read_text(encoding="utf-8"))[0]["classes"] == ["grün", "weiß"]


def test_places_begin_at_home_and_wildcards_mean_the_one_file_that_matches(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "export-2024.csv").write_text("image,colour\n")
    settings = PrepareSettings(table="~/export-*.csv", out="~/out", images="~/photos")
    assert (settings.out, settings.images) == (str(tmp_path / "out"), str(tmp_path / "photos"))
    assert settings.resolve().table == str(tmp_path / "export-2024.csv")
    (tmp_path / "export-2025.csv").write_text("image,colour\n")
    with pytest.raises(Exception, match="2 files match"):
        settings.resolve()


@pytest.mark.slow
def test_main_registers_nothing_below_a_floor_and_has_its_leaderboard(store):
    how = {"backbone": "test_efficientnet", "weights": "none", "epochs": 1, "px": 32, "floor": {"avg": 0.99}}
    with pytest.raises(Refused, match="below the floor 0.99"):
        main(MainSettings(table=str(shop(store)), **how))
    assert (store / "leaderboard" / "leaderboard.html").is_file()
    assert not mlflow.MlflowClient().search_registered_models()
    (compared,) = mlflow.search_runs(
        search_all_experiments=True, filter_string="tags.`fmtl.kind` = 'compare'", output_format="list"
    )
    assert compared.info.status == "FINISHED"
