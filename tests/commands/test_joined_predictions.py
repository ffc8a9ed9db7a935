"""Predictions in parts are, joined, to the byte those of one machine."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fmtl.cli import main

BATCH = 4
FOLDER = ("--images", "photos")
TABLE = ("--table", "table.csv", "--images", "photos", "--keep-columns", "true")


@pytest.fixture
def photos(store):
    folder = store / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(30):
        Image.fromarray(rng.integers(0, 256, (40, 32, 3), dtype=np.uint8)).save(folder / f"p{number:02}.png")
    (folder / "p07.png").write_bytes(b"no photo")
    lines = [f'p{number:02}.png,"said ""{number}"", =1+1",{number}.50' for number in range(30)]
    (store / "table.csv").write_text("\n".join(["image,words,cost", *lines, "gone.png,x,1.0"]) + "\n")
    return folder


def predict(model, out, *more):
    return main(["predict", "--model", str(model), "--out", out, "--batch-size", str(BATCH), *more])


@pytest.mark.parametrize(
    ("suffix", "more"),
    [
        ("csv", ()),
        ("csv", ("--separator", ";", "--spreadsheet", "true", "--top-k", "2")),
        ("parquet", ()),
    ],
)
@pytest.mark.parametrize("named", [FOLDER, TABLE])
def test_parts_join_to_the_bytes_of_one_machine(model, photos, suffix, more, named):
    assert predict(model, f"whole.{suffix}", *named, *more) == 0
    files = [f"part{number}.{suffix}" for number in (3, 1, 2)]
    for file in files:
        assert predict(model, file, *named, *more, "--part", f"{file[4]}/3") == 0
    assert main(["join", "--parts", ",".join(files), "--out", f"joined.{suffix}"]) == 0
    assert Path(f"joined.{suffix}").read_bytes() == Path(f"whole.{suffix}").read_bytes()


def test_what_is_no_whole_is_named(model, photos, capfd):
    for number in (1, 2, 3):
        assert predict(model, f"part{number}.csv", "--images", "photos", "--part", f"{number}/3") == 0
    sizes = [len(pd.read_csv(f"part{number}.csv")) for number in (1, 2, 3)]
    assert sum(sizes) == 30 and all(sizes)
    assert main(["join", "--parts", "part1.csv,part3.csv", "--out", "joined.csv"]) == 3
    said = capfd.readouterr().err
    assert f"{sizes[1]} rows are missing" in said and "1/3, 3/3" in said
    shutil.copy("part2.csv", "again.csv")
    assert main(["join", "--parts", "part1.csv,part2.csv,again.csv,part3.csv", "--out", "joined.csv"]) == 3
    assert f"{sizes[1]} rows are there twice" in capfd.readouterr().err
    assert predict(model, "part2.csv", "--images", "photos", "--part", "2/3", "--top-k", "2") == 0
    assert main(["join", "--parts", "part1.csv,part2.csv,part3.csv", "--out", "joined.csv"]) == 2
    assert "of different models, photos or settings" in capfd.readouterr().err
    assert main(["join", "--parts", "table.csv", "--out", "joined.csv"]) == 3
    assert "no part of predictions" in capfd.readouterr().err
    assert not Path("joined.csv").exists()
