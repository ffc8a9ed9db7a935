"""Columns of several values: how they are spelled, recognised, kept and split."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fmtl.commands.prepare import build_dataset
from fmtl.dataset.prepared import class_counts, open_dataset
from fmtl.dataset.splits.stratified import split_groups
from fmtl.errors import DataError
from fmtl.evaluation import label_issues
from fmtl.settings.schema import PrepareSettings
from fmtl.tasks import IGNORE_INDEX, Tasks, as_text, make_tasks

NUM = 24
RED, BLUE, BOTH = ("red",), ("blue",), ("blue", "red")
WANTED = [RED, BLUE, BOTH, BLUE]  # of every four rows


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(NUM):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def prepared(shop, columns, **options):
    """A dataset of a table with these columns, each a list of cells."""
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(NUM)], "kind": ["hat", "bag", "shoe"] * 8, **columns})
    frame.to_csv(shop / "t.csv", index=False)
    settings = {"table": str(shop / "t.csv"), "out": str(shop / "out"), "px": 32, "workers": 1, "reuse": False}
    return build_dataset(PrepareSettings(**settings, **options))[0]


def labels(dataset, name):
    """By the number of the photo."""
    found = dataset.tasks.by_name(dataset.targets)[name]
    (task,) = (task for task in dataset.tasks if task.name == name)
    rows = found.reshape(len(found), -1).tolist()
    said = {path: task.label(row) for path, row in zip(dataset.table["path"], rows, strict=True)}
    return [said[f"{i}.png"] for i in range(NUM)]


SPELLINGS = {
    "bars": ["red", "blue", "red|blue", "blue"],
    "bars and spaces": ["red ", " blue", "red | blue", "blue"],
    "a bar at the end": ["red|", "|blue", "red|blue|", "blue"],
    "a value twice": ["red|red", "blue", "blue|red|blue", "blue"],
    "semicolons": ["red", "blue", "red;blue", "blue"],
    "commas": ["red", "blue", "red, blue", "blue"],
    "slashes": ["red", "blue", "red/blue", "blue"],
    "JSON lists": ['["red"]', '["blue"]', '["red", "blue"]', '["blue"]'],
    "Python lists": ["['red']", "['blue']", "['red', 'blue']", "['blue']"],
    "Python tuples": ["('red',)", "('blue',)", "('red', 'blue')", "('blue',)"],
    "Python sets": ["{'red'}", "{'blue'}", "{'red', 'blue'}", "{'blue'}"],
    "lists without quotes": ["[red]", "[blue]", "[red, blue]", "[blue]"],
    "lists of numpy": ["['red']", "['blue']", "['red' 'blue']", "['blue']"],
    "lists with nothing in them": ['["red", null, ""]', '["blue"]', '["red", "blue"]', '["blue"]'],
    "odd spaces in a value": ["red\u00a0", "blue", "red|\u200bblue", "blue"],
    "HTML entities": ["red", "blue", "red|blue&nbsp;", "blue"],
}


@pytest.mark.parametrize("kind", SPELLINGS)
@pytest.mark.parametrize("options", [{"set_cols": ("colours",)}, {"sets": "auto"}])
def test_sets_are_what_their_spellings_mean(shop, kind, options):
    cells, wanted = SPELLINGS[kind] * 6, WANTED * 6
    if kind in ("semicolons", "commas", "slashes"):  # one joined cell alone may be a name, such as the size S/M
        cells[3], wanted[3] = cells[2].replace("red", "teal"), ("blue", "teal")
        cells[7], wanted[7] = "teal", ("teal",)
    dataset = prepared(shop, {"colours": cells}, **options)
    assert [task.kind for task in dataset.tasks] == ["single", "set"]
    assert labels(dataset, "colours") == wanted
    assert "column 'colours' is a set" in "\n".join(dataset.manifest["notes"])


COLUMNS = {
    "ones and zeros": (["1", "0", "1", "0"], ["0", "1", "1", "1"]),
    "ones and blanks": (["1", "", "1", ""], ["", "1", "1", "1"]),
    "true and false": (["True", "False", "True", "False"], ["false", "true", "TRUE", "true"]),
    "yes and no": (["yes", "no", "y", "n"], ["No", "Yes", "Y", "yes"]),
    "crosses": (["x", "", "X", ""], ["", "x", "x", "x"]),
    "decimal numbers": (["1.0", "0.0", "1.0", "0.0"], ["0.0", "1.0", "1.0", "1.0"]),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize(("red", "blue"), [("colour_red", "colour_blue"), ("colour: red", "colour: blue")])
def test_a_column_for_each_value_makes_a_set(shop, kind, red, blue):
    columns = {red: COLUMNS[kind][0] * 6, blue: COLUMNS[kind][1] * 6}
    dataset = prepared(shop, columns, set_cols=("colour",))
    assert labels(dataset, "colour") == WANTED * 6
    plain = prepared(shop, columns)
    assert "look like the values of one set; --set-cols colour" in "\n".join(plain.manifest["notes"])
    assert "colour" not in plain.tasks.names
    assert labels(prepared(shop, columns, sets="auto"), "colour") == WANTED * 6


def test_longer_names_share_what_they_begin_with(shop):
    answers = ["1", "0", "1", "0"] * 6
    columns = {f"care_symbol_{name}": answers for name in ("hand_wash", "iron", "dry_clean")}
    (_, task) = prepared(shop, columns, set_cols=("care_symbol",)).tasks
    assert task.classes == ("dry_clean", "hand_wash", "iron")


def test_blank_is_unknown_and_an_empty_list_is_a_set_without_values(shop):
    cells = ["red|blue", "", "[]", "blue"] * 6
    dataset = prepared(shop, {"colours": cells}, set_cols=("colours",))
    assert labels(dataset, "colours") == [BOTH, None, (), BLUE] * 6
    assert (dataset.targets[:, 1] == IGNORE_INDEX).sum() == 6
    columns = {"colour_red": ["1", "", "0", "0"] * 6, "colour_blue": ["1", "", "0", "1"] * 6}
    assert labels(prepared(shop, columns, set_cols=("colour",)), "colour") == [BOTH, None, (), BLUE] * 6


def test_a_column_that_is_named_is_a_set_even_where_no_cell_has_two(shop):
    dataset = prepared(shop, {"colours": ["red", "blue"] * 12}, set_cols=("colours",))
    assert labels(dataset, "colours") == [RED, BLUE] * 12
    assert [task.kind for task in prepared(shop, {"colours": ["red", "blue"] * 12}, sets="auto").tasks] == [
        "single"
    ] * 2


def test_named_columns_keep_their_order_and_a_set_needs_no_second_mention(shop):
    columns = {"colours": SPELLINGS["bars"] * 6, "season": ["warm", "cold"] * 12}
    assert prepared(shop, columns, label_cols=("season",), set_cols=("colours",)).tasks.names == ["season", "colours"]
    assert prepared(shop, columns, set_cols=("colours",)).tasks.names == ["kind", "colours", "season"]
    with pytest.raises(DataError, match="did you mean 'colours'"):
        prepared(shop, columns, set_cols=("colour",))
    with pytest.raises(ValueError, match="named in both"):
        PrepareSettings(table="t.csv", set_cols=("colours",), first_value=("colours",))


def test_rare_values_are_treated_like_rare_classes(shop):
    cells = ["red|blue", "red", "blue", "blue"] * 5 + ["red|teal", "teal", "red", "blue"]
    options = {"set_cols": ("colours",), "min_class_images": 3}
    dataset = prepared(shop, {"colours": cells}, **options)
    counts = class_counts(dataset)["colours"]
    assert counts.loc["teal"].tolist() == [2, 0, 0]
    assert labels(prepared(shop, {"colours": cells}, rare="drop", **options), "colours")[20:22] == [RED, ()]
    assert labels(prepared(shop, {"colours": cells}, rare="other", **options), "colours")[20:22] == [
        ("other", "red"), ("other",),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_every_split_has_its_share_of_every_value(seed):
    rng = np.random.default_rng(seed)
    values = (rng.random((500, 4)) < [0.03, 0.1, 0.3, 0.5]).astype(np.int64)
    targets = np.column_stack([rng.integers(0, 8, 500), values])
    fractions = (0.7, 0.15, 0.15)
    splits = split_groups(targets, list(range(500)), fractions=fractions, seed=seed)
    for split, fraction in enumerate(fractions):
        np.testing.assert_allclose(values[splits == split].sum(axis=0), values.sum(axis=0) * fraction, atol=2.5)


def test_the_counts_of_values_are_those_of_the_table(shop):
    cells = ["red|blue", "red", "[]", "teal|blue|red", "", "teal"] * 4
    counts = class_counts(prepared(shop, {"colours": cells}, set_cols=("colours",)))["colours"]
    assert counts.sum(axis=1).to_dict() == {"blue": 8, "red": 12, "teal": 8}


def test_a_dataset_is_read_as_it_was_written_and_a_damaged_one_is_not(shop):
    dataset = prepared(shop, {"colours": SPELLINGS["bars"] * 6}, set_cols=("colours",))
    again = open_dataset(dataset.folder)
    assert again.tasks == dataset.tasks and again.digest == dataset.digest
    np.testing.assert_array_equal(again.targets, dataset.targets)
    table = pd.read_parquet(dataset.folder / "table.parquet")
    table.loc[3, "colours/red"] = 2
    table.to_parquet(dataset.folder / "table.parquet")
    with pytest.raises(DataError, match="row 3, 'colours/red': class number 2, of 2 classes"):
        open_dataset(dataset.folder, verify=False)


def test_casefold_and_numbers_hold_for_the_values_of_sets(shop):
    dataset = prepared(shop, {"colours": ["Red", "blue", "red|BLUE", "blue"] * 6}, set_cols=("colours",), casefold=True)
    assert len(dataset.tasks[1].classes) == 2
    dataset = prepared(shop, {"sizes": ["1", "2.0", "1.0|2", "2"] * 6}, set_cols=("sizes",))
    assert labels(dataset, "sizes") == [("1",), ("2",), ("1", "2"), ("2",)] * 6


@pytest.mark.parametrize(
    "label", [("red", "blue"), (), ("a|b",), ("[x]", "y"), ("(1, 2)",), ("red",), ('say "so"', "é")]
)
def test_a_set_in_a_cell_is_read_as_it_was_written(shop, label):
    (task,) = make_tasks({"s": sorted({*label, "other"})}, ["s"])
    cell = as_text(label)
    dataset = prepared(shop, {"s": [cell, "other"] * 12}, set_cols=("s",))
    assert {*labels(dataset, "s")[0]} == {*label}
    assert task.targets([label])[0].count(1) == len(label)
    assert json.loads(cell) == list(label) if cell.startswith("[") else cell.split("|") == list(label)


def test_two_rows_of_one_product_with_different_sets_contradict_each_other(shop):
    frame = pd.DataFrame(
        {"id": range(NUM), "image": [f"{i}.png" for i in range(NUM)], "colours": ["red|blue", "red"] * 12}
    )
    frame = pd.concat([frame, frame.iloc[:2].assign(colours=["blue|red", "blue"])])
    frame.to_csv(shop / "t.csv", index=False)
    settings = PrepareSettings(
        table=str(shop / "t.csv"), out=str(shop / "out"), px=32, set_cols=("colours",), workers=1
    )
    reasons = build_dataset(settings)[0].manifest["counts"]["reasons"]
    assert reasons == {"conflicting_rows": 2, "duplicate_row": 1}


def test_dates_prices_and_the_like_are_no_sets_unless_named(shop):
    columns = {
        "made": ["2021/03/04", "2021/04/03", "2022/03/04", "2021/03/05"] * 6,
        "price": ["3,120", "120,3", "3,3", "120,120"] * 6,
    }
    assert prepared(shop, columns, sets="auto").tasks.names == ["kind"]
    assert prepared(shop, columns, set_cols=("made",)).tasks.names == ["kind", "made"]


def test_a_named_column_is_not_widened_to_the_set_that_it_looks_like_a_part_of(shop):
    columns = {"mat_cotton": ["yes", "no"] * 12, "mat_wool": ["no", "yes"] * 12}
    dataset = prepared(shop, columns, label_cols=("mat_cotton",), sets="auto")
    assert [(task.name, task.kind) for task in dataset.tasks] == [("mat_cotton", "single")]


def test_free_text_is_no_set(shop):
    words = [f"{i} {j}" for i in range(NUM) for j in range(25)]
    cells = ["|".join(words[25 * i : 25 * (i + 1)]) for i in range(NUM)]
    told = "\n".join(prepared(shop, {"tags": cells}, sets="auto").manifest["notes"])
    assert "a set of 600 values, more than 500: left out" in told or "left out: free text" in told
    assert len(prepared(shop, {"tags": cells}, set_cols=("tags",)).tasks[1].classes) == 600
    with pytest.raises(DataError, match="has no value in any row"):
        prepared(shop, {"tags": [""] * NUM}, set_cols=("tags",))


def test_suspects_are_found_whatever_stands_before_a_task():
    """Columns of targets are not tasks: those behind a set count, too."""
    rng = np.random.default_rng(0)
    (wide, plain) = make_tasks({"s": list("abcd"), "kind": ["x", "y"]}, ["s"])
    kind = rng.integers(0, 2, 200)
    sets = (rng.random((200, 4)) < 0.5).astype(np.int64)
    features = torch.from_numpy(np.column_stack([kind, sets]) * 4 + rng.normal(0, 0.1, (200, 5))).float()
    targets = np.column_stack([sets, kind])
    targets[3, 4] = 1 - targets[3, 4]
    targets[5, 2] = 1 - targets[5, 2]
    found = label_issues.find(features, targets, Tasks([wide, plain]), groups=np.arange(200), seed=0)
    assert {(5, "s"), (3, "kind")} <= {*zip(found["row"][:5], found["task"][:5], strict=True)}
    (row,) = found[found["row"] == 5].to_dict("records")
    label, suggestion = ({*row[name].strip("[]").split("|")} - {""} for name in ("label", "suggestion"))
    assert label ^ suggestion == {"c"}


def test_a_value_that_means_a_blank_is_none_of_the_set(shop):
    cells = ["red|NA", "NA", "NA|NA", "[]"] * 3 + ["red|blue", "blue", "red", "blue"] * 3
    options = {"set_cols": ("colours",), "missing": ("NA",)}
    assert labels(prepared(shop, {"colours": cells}, **options), "colours")[:4] == [RED, None, None, ()]
