"""Which runs a leaderboard is of: on a store of runs that a notebook might have recorded."""

import mlflow
import pytest

from fmtl.commands.choosing.runs import ALL, find, other_groups, rank_runs


def record(name, data, *, at, f1=0.5, outcome="completed"):
    """A completed train run of a dataset, as far as a leaderboard reads it."""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("e")
    experiment_id = experiment.experiment_id if experiment else client.create_experiment("e")
    tags = {"fmtl.kind": "train", "fmtl.outcome": outcome, "fmtl.model_id": f"m-{name}"}
    run = client.create_run(
        experiment_id, start_time=at, run_name=name, tags=tags | ({"fmtl.data": data} if data else {})
    )
    client.log_metric(run.info.run_id, "best/val/avg/f1", f1)
    client.set_terminated(run.info.run_id, "FINISHED", at + 1)
    return run.info.run_id


def names(found):
    return sorted(record.name for record in found.records)


@pytest.fixture
def runs(store):
    record("old", "season '24", at=1000)
    record("older", "0123abcd", at=900)
    record("unsaid", "both ' and \"", at=5000)
    record("nowhere", None, at=4000)
    record("new", 'season "25', at=3000)
    record("new too", 'season "25', at=2000)


def test_only_the_newest_dataset_is_read_and_the_others_are_named(runs):
    found = find(experiment=None)
    assert names(found) == ["new", "new too", "nowhere"]
    assert found.others == ["season '24", "0123abcd"]
    board = rank_runs(found.records, metric="best/val/avg/f1")
    assert board.table["run_name"].tolist() == ["new too", "new"]  # equals: the one that ended first
    assert board.unranked[["run_name", "reason"]].values.tolist() == [["nowhere", "its dataset is not known"]]
    assert "season '" in other_groups(board, found.others) and "0123abcd" in other_groups(board, found.others)


def test_one_dataset_by_the_start_of_its_digest_or_all(runs):
    assert names(find(experiment=None, data="0123")) == ["nowhere", "older"]
    assert len(find(experiment=None, data=ALL).records) == 6


def test_a_dataset_none_of_whose_runs_can_be_ranked_is_passed_over(store):
    record("good", "aaaa", at=1000)
    record("broken", "bbbb", at=2000, outcome="failed")
    found = find(experiment=None)
    assert names(found) == ["broken", "good"] and found.others == []
    assert rank_runs(found.records, metric="best/val/avg/f1").best["run_name"] == "good"
