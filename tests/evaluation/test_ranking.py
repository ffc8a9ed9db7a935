import math

import pytest

from fmtl.evaluation.ranking import Entry, rank
from fmtl.reports.leaderboard import to_markdown, to_text

METRIC = "best/val/avg/f1"


def entry(run_id, f1, data="d1", end_ms=0, **changes):
    values = {"run_id": run_id, "run_name": f"name-{run_id}", "backbone": "resnet50", "mode": "tuned", "data": data,
              "metrics": {METRIC: f1, "test/avg/f1": 0.5, "test/colour/f1": 0.4}, "end_ms": end_ms}  # fmt: skip
    return Entry(**values | changes)


def test_highest_first_and_a_loss_lowest_first():
    entries = [entry("a", 0.2), entry("b", 0.9), entry("c", 0.5)]
    assert rank(entries, metric=METRIC).table["run_id"].tolist() == ["b", "c", "a"]
    losses = [entry(e.run_id, 0, metrics={"best/val/loss": e.metrics[METRIC]}) for e in entries]
    assert rank(losses, metric="best/val/loss").table["run_id"].tolist() == ["a", "c", "b"]


def test_ranks_restart_for_each_dataset_and_the_newest_runs_dataset_comes_first():
    entries = [entry("a", 0.9, "old", 1), entry("b", 0.8, "old", 2), entry("c", 0.1, "new", 9)]
    board = rank(entries, metric=METRIC)
    assert board.table[["run_id", "rank"]].values.tolist() == [["c", 1], ["a", 1], ["b", 2]]
    assert board.best["run_id"] == "c"
    assert [data for data, _ in board.groups] == ["new", "old"]


def test_ties_have_a_stable_order_whatever_the_input_order():
    entries = [entry("z", 0.5, end_ms=1), entry("b", 0.5, end_ms=2), entry("a", 0.5, end_ms=2)]
    for order in (entries, entries[::-1]):
        assert rank(order, metric=METRIC).table["run_id"].tolist() == ["z", "a", "b"]


def test_what_is_not_finite_or_not_finished_is_listed_not_ranked():
    entries = [
        entry("nan", math.nan),
        entry("inf", 1.797e308),
        entry("none", 0, metrics={}),
        entry("failed", 0.99, unranked="it did not complete (failed)"),
        entry("good", 0.1),
    ]
    board = rank(entries, metric=METRIC)
    assert board.table["run_id"].tolist() == ["good"]
    reasons = dict(zip(board.unranked["run_id"], board.unranked["reason"], strict=True))
    assert reasons == {
        "nan": f"'{METRIC}' is not a finite number",
        "inf": f"'{METRIC}' is not a finite number",
        "none": f"has no metric '{METRIC}'",
        "failed": "it did not complete (failed)",
    }


def test_nothing_at_all_is_said():
    board = rank([], metric=METRIC)
    assert board.best is None
    assert to_text(board, {}, top=5) == "no train runs found"


def test_the_terminal_shows_the_top_and_says_how_many_more():
    board = rank([entry(f"r{i}", i / 10) for i in range(8)], metric=METRIC)
    text = to_text(board, {}, top=3)
    assert [f"name-r{i}" in text for i in range(8)] == [False] * 5 + [True] * 3
    assert "... and 5 more" in text


def test_markdown_cells_cannot_break_the_table():
    board = rank([entry("a", 0.5, run_name="x|y\nz")], metric=METRIC)
    assert "| x\\|y z |" in to_markdown(board, {})


def of_recipe(run_id, f1, seed, end_ms=0, **changes):
    return entry(run_id, f1, end_ms=end_ms, recipe={"epochs": "3"}, seed=seed, **changes)


def test_runs_that_differ_in_their_seed_alone_are_one_row_with_mean_and_deviation():
    entries = [of_recipe("a", 0.5, "0"), of_recipe("b", 0.7, "1"), entry("c", 0.61)]
    table = rank(entries, metric=METRIC).table
    assert table["run_id"].tolist() == ["c", "b"]  # by the mean, 0.6, under the name of the better one
    row = table.iloc[1]
    assert (row["rank"], row["seeds"], row["run_ids"]) == (2, 2, "b,a")
    assert row[METRIC] == pytest.approx(0.6) and row[METRIC + "/sd"] == pytest.approx(math.sqrt(0.02))
    assert math.isnan(table.iloc[0][METRIC + "/sd"])


def test_two_runs_of_one_seed_and_runs_of_unlike_recipes_stand_by_themselves():
    twice = [of_recipe("a", 0.5, "0"), of_recipe("b", 0.5, "0", end_ms=1), of_recipe("c", 0.4, "1")]
    assert rank(twice, metric=METRIC).table["run_ids"].tolist() == ["b", "a,c"]
    unlike = [
        of_recipe("a", 0.5, "0"),
        entry("b", 0.4, recipe={"epochs": "4"}, seed="1"),
        entry("c", 0.3),
        entry("d", 0.2),
    ]
    assert rank(unlike, metric=METRIC).table["seeds"].tolist() == [1, 1, 1, 1]
    other_data = [of_recipe("a", 0.5, "0"), of_recipe("b", 0.5, "1", data="d2")]
    assert rank(other_data, metric=METRIC).table["seeds"].tolist() == [1, 1]
