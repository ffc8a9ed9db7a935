import os
import subprocess
import sys

import mlflow
import pytest

from fmtl.errors import Diverged, EnvironmentFault, Terminated
from fmtl.tracking.run import open_run
from fmtl.tracking.store import RunRecord, search_runs


def end_with(error):
    with pytest.raises(type(error)), open_run("train") as run:
        raise error
    return mlflow.get_run(run.run_id)


@pytest.mark.parametrize(
    ("error", "outcome", "status"),
    [
        (ValueError("x"), "failed", "FAILED"),
        (SystemExit(0), None, "FAILED"),
        (KeyboardInterrupt(), "interrupted", "KILLED"),
        (Terminated(), "interrupted", "KILLED"),
        (Diverged("nan"), "diverged", "FAILED"),
    ],
)
def test_the_recorded_outcome_is_true_however_a_run_ends(store, error, outcome, status):
    run = end_with(error)
    assert run.data.tags.get("fmtl.outcome") == outcome
    assert run.info.status == status


def test_a_clean_end_is_completed(store):
    with open_run("prepare") as run:
        run.log_metrics({"x": 1.0})
    found = mlflow.get_run(run.run_id)
    assert (found.data.tags["fmtl.outcome"], found.info.status) == ("completed", "FINISHED")
    assert mlflow.get_experiment(found.info.experiment_id).name == "fmtl"


def test_what_is_not_finite_is_not_logged(store):
    with open_run("train") as run:
        run.log_metrics({"nan": float("nan"), "inf": float("inf"), "none": None, "ok": 0.5}, step=1)
    assert mlflow.get_run(run.run_id).data.metrics == {"ok": 0.5}


def test_the_run_of_mlflow_run_is_adopted_and_its_params_stand(store, monkeypatch):
    mlflow.set_experiment("chosen")
    with mlflow.start_run() as outer:
        mlflow.log_params({"learning_rate": "1e-3", "note": "'two words'"})
    monkeypatch.setenv("MLFLOW_RUN_ID", outer.info.run_id)
    with open_run("train", experiment="ignored") as run:
        run.log_params({"learning_rate": 0.001, "epochs": 3})
    found = mlflow.get_run(outer.info.run_id)
    assert run.run_id == outer.info.run_id
    assert found.data.params == {"learning_rate": "1e-3", "note": "'two words'", "epochs": "3"}
    (record,) = search_runs("train")
    assert (record.param("note"), record.param("epochs"), record.param("none")) == ("two words", "3", "")


@pytest.mark.parametrize(("raw", "value"), [("''", ""), ("it's", "it's"), ("'it'\"'\"'s'", "it's"), ("a b", "a b")])
def test_params_are_read_without_the_shells_quotes(raw, value):
    assert RunRecord("", "", "", 0, {"p": raw}, {}, {}).param("p") == value


def test_inside_a_run_another_becomes_its_child(store):
    with open_run("main") as parent, open_run("train") as child:
        pass
    assert mlflow.get_run(child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id


def test_files_in_the_runs_folder_are_its_artifacts(store):
    with open_run("train") as run:
        (run.folder / "a.txt").write_text("x")
    assert [i.path for i in mlflow.MlflowClient().list_artifacts(run.run_id)] == ["a.txt"]


def test_an_experiment_that_a_server_made_stops_the_run_with_the_fix(store):
    mlflow.create_experiment("ui", artifact_location="mlflow-artifacts:/7")
    with pytest.raises(EnvironmentFault, match="MLFLOW_TRACKING_URI.*--experiment-name"), \
            open_run("train", experiment="ui"):  # fmt: skip
        raise AssertionError("work began")


def test_an_unusable_store_is_an_environment_fault(tmp_path):
    code = "import sys; from fmtl.cli import main; sys.exit(main(['compare']))"
    for uri in (f"file:{tmp_path}/mlruns", "http://127.0.0.1:9"):
        env = os.environ | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 4, done.stderr
        assert f"MLflow store {uri}" in done.stderr and "Traceback" not in done.stderr


def test_all_pages_of_runs_are_read(store, monkeypatch):
    monkeypatch.setattr("fmtl.tracking.store.PAGE_SIZE", 2)
    for _ in range(5):
        with open_run("train"):
            pass
    assert len(search_runs("train")) == 5
