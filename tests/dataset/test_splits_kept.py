"""What becomes of the splits when one setting changes and the dataset that was there has others."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fmtl.commands.prepare import build_dataset
from fmtl.dataset.prepared import GROUP
from fmtl.dataset.splits import SPLITS
from fmtl.dataset.splits.stratified import FREE, far_off, into_train, majority, only_outside_train
from fmtl.settings.schema import PrepareSettings
from fmtl.tasks import IGNORE_INDEX

PX = 32
CHANGES = {
    "groups": {"group_col": "ProductTitle"},
    "groups that are too large": {"group_col": "SubCategory"},
    "ids": {"id_col": "Image"},
    "near duplicates": {"group_near_duplicates": True},
    "labels": {"label_cols": ("Colour", "ProductType")},
    "rare classes": {"rare": "other"},
    "rare classes dropped": {"rare": "drop", "min_class_images": 8},
    "seed": {"seed": 5},
    "shares": {"val_fraction": 0.1, "test_fraction": 0.2},
}


def check(dataset, fractions, before: pd.DataFrame | None) -> str:
    """Shares, classes and the number of images that kept their split are as they are said to be. Returns the notes."""
    notes = "\n".join(dataset.manifest["notes"])
    table = dataset.table
    shares = np.array([(table["split"] == split).mean() for split in SPLITS])
    off = np.abs(shares - fractions).max() > 0.02
    assert off == bool(re.search(r"warning: .* instead of", notes)), (shares, notes)
    train = (table["split"] == "train").to_numpy()
    for t in range(len(dataset.tasks)):
        known = dataset.targets[:, t] != IGNORE_INDEX
        assert set(dataset.targets[known, t]) == set(dataset.targets[known & train, t])
    together = table.groupby(GROUP)["split"].nunique()
    assert (together == 1).all()
    told = re.search(r"(\d+) images keep the split|; (\d+) of \d+ images happen to keep", notes)
    if before is None:
        assert not told
    else:
        both = table.merge(before, on="path", suffixes=("", "_before"))
        assert told and int(told[1] or told[2]) == (both["split"] == both["split_before"]).sum()
    return notes


@pytest.fixture(scope="module")
def real(real_data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    settings = PrepareSettings(table=str(real_data / "fashion/fashion.csv"), out=str(folder / "first"), px=PX)
    check(build_dataset(settings)[0], (0.7, 0.15, 0.15), None)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_one_changed_setting_leaves_the_splits_of_real_photos_sound(real, real_data, name):
    out = real / "changed"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(real / "first", out)
    before = pd.read_parquet(out / "table.parquet")[["path", "split"]]
    change = CHANGES[name]
    settings = PrepareSettings(table=str(real_data / "fashion/fashion.csv"), out=str(out), px=PX, **change)
    drawn = "seed" in change or "val_fraction" in change
    fractions = (0.7, 0.1, 0.2) if "val_fraction" in change else (0.7, 0.15, 0.15)
    check(build_dataset(settings)[0], fractions, None if drawn else before)


@pytest.mark.slow
def test_another_table_over_the_same_photos_keeps_what_can_be_kept(real, real_data):
    out = real / "other"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(real / "first", out)
    before = pd.read_parquet(out / "table.parquet")[["path", "split"]]
    whole = pd.read_csv(real_data / "fashion/fashion.csv", dtype=str)
    whole.loc[whole["Colour"] == "Blue", "Colour"] = np.where(
        whole.index[whole["Colour"] == "Blue"] % 50, "Blue", "Sky"
    )
    table = real / "other.csv"
    whole.sample(frac=0.6, random_state=1).to_csv(table, index=False)
    images = str(real_data / "fashion/images")
    settings = PrepareSettings(table=str(table), images=images, out=str(out), px=PX)
    check(build_dataset(settings)[0], (0.7, 0.15, 0.15), before)


def shop(folder: Path, *, seed: int, label) -> Path:
    """Sixty photos of their own under the same names in every shop."""
    (folder / "images").mkdir(parents=True)
    rows = ["image,colour"]
    for i in range(60):
        pixels = np.random.default_rng([seed, i]).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        rows.append(f"{i}.png,{label(i)}")
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    return folder / "t.csv"


def test_another_catalogue_with_the_same_names_inherits_nothing(tmp_path):
    out = str(tmp_path / "out")
    first = shop(tmp_path / "a", seed=1, label=lambda i: "red" if i % 2 else "blue")
    build_dataset(PrepareSettings(table=str(first), out=out, px=16))
    other = shop(tmp_path / "b", seed=2, label=lambda i: "pink" if i % 2 else "grey")
    dataset, _ = build_dataset(PrepareSettings(table=str(other), out=out, px=16))
    alone, _ = build_dataset(PrepareSettings(table=str(other), out=str(tmp_path / "alone"), px=16))
    assert dataset.digest == alone.digest and "keep the split" not in "".join(dataset.manifest["notes"])


def test_a_class_that_corrected_labels_put_outside_train_is_moved_there(tmp_path):
    table = shop(tmp_path / "a", seed=1, label=lambda i: "red" if i % 2 else "blue")
    settings = PrepareSettings(table=str(table), out=str(tmp_path / "out"), px=16)
    first, _ = build_dataset(settings)
    moved = first.table[first.table["split"] == "test"]["path"].tolist()[:4]
    text = table.read_text()
    for path in moved:
        text = re.sub(rf"(?m)^{path},\w+$", f"{path},pink", text)
    table.write_text(text)
    dataset, _ = build_dataset(settings)
    pink = dataset.tasks[0].classes.index("pink")
    assert (dataset.table[dataset.table["colour"] == pink]["split"] == "train").any()
    both = dataset.table.merge(first.table, on="path")
    kept = int((both["split_x"] == both["split_y"]).sum())
    assert 55 <= kept < 60 and any(f"{kept} images keep the split" in note for note in dataset.manifest["notes"])


def test_a_group_goes_where_most_of_it_was():
    known = np.array([0, 2, 2, 1, FREE, FREE, 0, 1])
    groups = ["a", "a", "a", "b", "b", "c", "d", "d"]
    assert majority(known, groups, fractions=(0.7, 0.15, 0.15)).tolist() == [2, 2, 2, 1, 1, FREE, 0, 0]


def test_the_smallest_group_of_a_class_moves_to_train():
    targets = np.array([[0, 0], [0, 1], [1, 1], [1, 1], [1, 2]])
    moved, num = into_train(np.array([0, 0, 1, 1, 2]), targets, ["a", "b", "c", "c", "d"])
    assert moved.tolist() == [0, 0, 1, 1, 0] and num == 1
    assert not only_outside_train(moved, targets)


def test_shares_are_far_off_by_two_points_and_more_than_a_row():
    def counts(*sizes):
        return np.repeat(range(3), sizes)

    assert far_off(counts(700, 150, 150), (0.7, 0.15, 0.15)) == []
    assert far_off(counts(680, 170, 150), (0.7, 0.15, 0.15)) == []
    assert far_off(counts(679, 171, 150), (0.7, 0.15, 0.15)) == [0, 1]
    assert far_off(counts(8, 1, 1), (0.7, 0.15, 0.15)) == []
