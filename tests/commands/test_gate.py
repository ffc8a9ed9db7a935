"""What stands between a model and an alias, and how the alias goes back: real runs in a store of their own."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from fmtl import cli
from fmtl.catalogue import sample
from fmtl.commands.choosing import gate
from fmtl.commands.prepare import build_dataset
from fmtl.commands.register import register
from fmtl.commands.train import train
from fmtl.dataset.prepared import open_dataset
from fmtl.errors import DataError, Refused, UsageError
from fmtl.evaluation.gate import codes
from fmtl.settings.schema import PrepareSettings, RegisterSettings
from fmtl.settings.train import TrainSettings
from fmtl.tasks import make_tasks
from fmtl.tracking import registry, store

HOW = {"backbone": "test_efficientnet", "weights": "none", "px": 48, "batch_size": 16, "device": "cpu",
       "precision": "fp32", "extra_plots": False, "gallery": False, "channels_last": False}  # fmt: skip


pytestmark = pytest.mark.slow  # each model is loaded in a process of its own before it gets a version


@pytest.fixture(scope="module")
def world(tmp_path_factory, empty_store):
    """Runs by name: a good one, one of the same recipe, a poor one, and two of other datasets of the same photos."""
    folder, before = tmp_path_factory.mktemp("gate"), (Path.cwd(), os.environ.get("MLFLOW_TRACKING_URI"))
    shutil.copy(empty_store, folder / "mlflow.db")
    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = uri = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    for name, drawn, split in (("here", 0, 0), ("again", 0, 1), ("there", 1, 0)):
        table = folder / f"shop-{drawn}" / "catalogue.csv"
        if not table.is_file():
            sample.draw_catalogue(table.parent, seed=drawn)
        build_dataset(PrepareSettings(table=str(table), out=name, px=48, test_fraction=0.3, seed=split, workers=1))
    runs = {
        "good": train(TrainSettings(data="here", epochs=6, learning_rate=0.01, **HOW)),
        "alike": train(TrainSettings(data="here", epochs=6, learning_rate=0.01, seed=1, **HOW)),
        "poor": train(TrainSettings(data="here", epochs=1, learning_rate=1e-5, **HOW)),
        "again": train(TrainSettings(data="again", epochs=1, learning_rate=1e-5, **HOW)),
        "there": train(TrainSettings(data="there", epochs=1, learning_rate=1e-5, **HOW)),
    }
    yield runs
    os.chdir(before[0])
    if before[1] is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before[1]
        mlflow.set_tracking_uri(before[1])


@pytest.fixture
def shop(request):
    """A name of a registered model that no other test has."""
    return request.node.name.replace("/", "-")[:100]


def registered(world, shop, which, **rules):
    register(RegisterSettings(run=world[which], name=shop, **rules))
    return registry.alias_target(shop, "champion")


def verdict(shop, version):
    return json.loads(mlflow.MlflowClient().get_model_version(shop, str(version)).tags["fmtl.gate"])


def test_the_first_version_needs_no_better_one_and_has_its_scores(world, shop, capsys):
    assert registered(world, shop, "poor", if_better=True) == 1
    found = mlflow.MlflowClient().get_model_version(shop, "1")
    assert verdict(shop, 1)["passes"] and "fmtl.replaces" not in found.tags
    scores = json.loads(found.tags["fmtl.scores"])
    metrics = store.get_run(world["poor"]).metrics
    assert scores["avg"] == metrics["test/avg/f1"] and scores["colour"] == metrics["test/colour/f1"]
    assert f"{shop}@champion is new" in found.description
    assert "worse" not in capsys.readouterr().out


def test_a_better_model_passes_and_a_worse_one_does_not(world, shop):
    registered(world, shop, "poor")
    assert registered(world, shop, "good", if_better=True) == 2
    found = verdict(shop, 2)["comparison"]
    assert found["low"] > 0 and found["better"] > 0.99
    metrics = [store.get_run(world[which]).metrics["test/avg/f1"] for which in ("good", "poor")]
    assert (found["candidate"], found["champion"]) == pytest.approx(metrics)
    assert found["difference"] == pytest.approx(metrics[0] - metrics[1])
    assert mlflow.MlflowClient().get_model_version(shop, "2").tags["fmtl.replaces"] == "1"
    with pytest.raises(Refused, match="not shown to be better than version 2: macro-F1 .* the lower bound must be"):
        registered(world, shop, "poor", if_better=True)
    assert registry.alias_target(shop, "champion") == 2
    assert len(mlflow.MlflowClient().search_model_versions(f"name = '{shop}'")) == 2


def test_of_two_alike_neither_is_better_but_within_a_margin(world, shop):
    registered(world, shop, "good")
    with pytest.raises(Refused, match="not shown to be better"):
        registered(world, shop, "alike", if_better=True, metric="test/avg/accuracy")
    assert registered(world, shop, "alike", if_better=True, margin=0.5) == 2
    for metric in ("best/val/loss", "test/colour/f1"):
        with pytest.raises(UsageError, match=f"the mean f1 or accuracy over attributes, not by '{metric}'"):
            registered(world, shop, "alike", if_better=True, metric=metric)


def test_the_champion_again_keeps_what_its_version_says(world, shop, capsys):
    registered(world, shop, "poor")
    registered(world, shop, "good")
    before = mlflow.MlflowClient().get_model_version(shop, "2")
    capsys.readouterr()
    assert registered(world, shop, "good") == 2
    assert f"is {shop}@champion already, as version 2" in capsys.readouterr().out
    after = mlflow.MlflowClient().get_model_version(shop, "2")
    assert after.tags == before.tags and after.description == before.description
    assert before.tags["fmtl.replaces"] == "1" and len(registry.moves(shop, "champion")) == 2


def test_a_worse_one_moves_the_alias_and_the_last_line_says_so(world, shop, capsys):
    registered(world, shop, "good")
    assert registered(world, shop, "poor") == 2
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("warning: it is worse than version 1: macro-F1 0.")
    assert f"fmtl rollback --name {shop} --alias champion" in last


def test_a_floor_is_held_unless_forced_and_what_it_said_is_kept(world, shop, capsys):
    with pytest.raises(Refused, match="colour: macro-F1 0.* is below the floor 0.99"):
        registered(world, shop, "good", floor={"colour": 0.99, "avg": 0.1})
    with pytest.raises(UsageError, match="floor: there is no attribute 'color'; did you mean 'colour'"):
        registered(world, shop, "good", floor={"color": 0.1})
    assert registered(world, shop, "good", floor={"colour": 0.99}, force=True) == 1
    assert "forced, although: colour: macro-F1" in capsys.readouterr().out
    found = verdict(shop, 1)
    assert found["forced"] and found["passes"] and "below the floor" in found["against"][0]
    assert "below the floor" in registry.moves(shop, "champion")[0].why


def test_scores_that_are_no_numbers_are_refused(world, shop):
    client = mlflow.MlflowClient()
    client.log_metric(world["alike"], "test/avg/f1", float("nan"), step=99)
    try:
        with pytest.raises(Refused, match="test/avg/f1 is nan"):
            registered(world, shop, "alike")
    finally:
        value = store.get_run(world["good"]).metrics["test/avg/f1"]
        client.log_metric(world["alike"], "test/avg/f1", value, step=100)


def test_a_model_that_is_not_whole_is_no_matter_of_a_gate(world, shop):
    model = mlflow.MlflowClient().get_logged_model(store.get_run(world["alike"]).model_uri.removeprefix("models:/"))
    folder = Path(model.artifact_location.removeprefix("file://"))
    weights = folder / "artifacts" / "fmtl_model" / "weights.safetensors"
    kept = weights.read_bytes()
    for content in (kept[:-1] + b"x", None):
        weights.unlink()
        if content:
            weights.write_bytes(content)
        with pytest.raises(DataError, match="can't be registered"):
            registered(world, shop, "alike", force=True)
    weights.write_bytes(kept)
    assert mlflow.MlflowClient().search_model_versions(f"name = '{shop}'") == []


def test_the_champion_of_another_dataset_is_run_on_the_candidates_photos(world, shop, capsys):
    registered(world, shop, "there")
    assert registered(world, shop, "good") == 2  # other photos: not compared, and so not refused
    assert "warning: not compared with version 1: it was tested on other photos" in capsys.readouterr().out
    registered(world, shop, "there")
    assert registered(world, shop, "good", if_better=True) == 2
    found = verdict(shop, 2)["comparison"]
    assert found["left_out"] == 0 and found["photos"] == len(open_dataset("here").rows("test"))
    assert found["low"] > 0


def test_photos_that_the_champion_was_trained_on_are_left_out_and_too_few_are_no_verdict(world, shop):
    registered(world, shop, "again")
    here, again = open_dataset("here"), open_dataset("again")
    hashes = here.photo_hashes[here.rows("test")]
    learnt = {sha for split in ("train", "val") for sha in again.photo_hashes[again.rows(split)]}
    unseen = [sha for sha in hashes if sha not in learnt]
    assert 0 < len(unseen) < 100
    told = f"no verdict on {len(unseen)} test photos, {len(hashes) - len(unseen)} others were its own"
    with pytest.raises(Refused, match=told):
        registered(world, shop, "good", if_better=True)


def _register(run_id, name, uri):
    os.environ["MLFLOW_TRACKING_URI"] = uri
    mlflow.set_tracking_uri(uri)
    register(RegisterSettings(run=run_id, name=name))


def test_two_at_once_do_no_harm(world, shop):
    registered(world, shop, "poor")
    spawn = multiprocessing.get_context("spawn")
    runs = [world["good"], world["alike"]]
    both = [spawn.Process(target=_register, args=(run_id, shop, mlflow.get_tracking_uri())) for run_id in runs]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    found = mlflow.MlflowClient().search_model_versions(f"name = '{shop}'")
    assert sorted(int(version.version) for version in found) == [1, 2, 3]
    moves = registry.moves(shop, "champion")
    assert sorted(move.after for move in moves) == [1, 2, 3]
    assert registry.alias_target(shop, "champion") in (2, 3)


def test_every_move_is_kept_and_taken_back_one_by_one(world, shop, capsys):
    for which in ("poor", "good", "alike"):
        registered(world, shop, which)
    capsys.readouterr()

    def said(command):
        assert cli.cli.main([command, "--name", shop], standalone_mode=False) is None
        return capsys.readouterr().out

    assert said("rollback") == f"{shop}@champion points to version 2 again; it pointed to version 3\n"
    assert registry.alias_target(shop, "champion") == 2
    said("rollback")
    assert registry.alias_target(shop, "champion") == 1
    with pytest.raises(DataError, match="no version is known that it pointed to before"):
        said("rollback")
    lines = said("history").splitlines()
    assert [line.partition(": ")[2].partition(":")[0] for line in lines[:-1]] == [
        "nothing -> version 1", "version 1 -> version 2", "version 2 -> version 3", "version 3 -> version 2",
        "version 2 -> version 1",
    ]  # fmt: skip
    assert lines[-1] == f"{shop}@champion points to version 1"
    registered(world, shop, "alike")
    assert registered(world, shop, "alike") == 3  # again: no move
    assert len(registry.moves(shop, "champion")) == 6
    mlflow.MlflowClient().set_registered_model_alias(shop, "champion", "2")
    assert "somebody else has moved it since" in said("history")
    with pytest.raises(DataError, match="no registered model 'nobody'"):
        cli.cli.main(["history", "--name", "nobody"], standalone_mode=False)


def test_exit_codes(world, shop, capsys):
    registered(world, shop, "good")
    assert Refused.exit_code == 5
    with pytest.raises(Refused):
        cli.cli.main(["register", "--run", world["poor"], "--name", shop, "--if-better"], standalone_mode=False)


def test_labels_of_a_table_are_codes():
    single, several = make_tasks({"a": ["x", "y"], "b": ["p", "q"]}, ["b"])
    assert codes(single, pd.Series(["y", None, "z", np.nan], dtype=object), blank=-100).tolist() == [1, -100, -1, -100]
    rows = pd.Series([np.array(["q"]), None, []], dtype=object)
    assert codes(several, rows, blank=-1).tolist() == [[0, 1], [-1, -1], [0, 0]]


def test_a_step_back_takes_back_what_was_not_taken_back_yet():
    def move(before, after, is_back=False):
        return registry.Move(before, after, "", "", "", is_back)

    three = [move(None, 1), move(1, 2), move(2, 3)]
    assert registry.step_back([], None) is None
    assert registry.step_back([move(None, 1)], 1) is None
    assert registry.step_back(three, 3) == 2
    assert registry.step_back([*three, move(3, 2, is_back=True)], 2) == 1
    assert registry.step_back([*three, move(2, 3)], 3) == 2  # begun twice
    assert registry.step_back([move(None, 1), move(1, 2), move(2, 3), move(2, 3), move(3, 2, is_back=True)], 2) == 1
    assert registry.step_back([*three, move(3, 4)], 3) == 2  # begun and not done
    assert registry.step_back(three, 7) == 3  # somebody else has moved it


def test_rules_without_a_champion_say_so(world, shop):
    found = gate.judge(store.get_run(world["good"]), name=shop, alias="champion", rules=gate.Rules("test/avg/f1"))
    assert found.passes and found.details["replaces"] is None
