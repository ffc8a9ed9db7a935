import importlib.util
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import mlflow
import pytest
from PIL import Image

from fmtl.errors import DataError, Diverged, EnvironmentFault, Terminated
from fmtl.tracking.recording import MOST_WAITING
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
        (SystemExit(0), "failed", "FAILED"),
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


def test_training_goes_on_while_a_picture_is_written(store):
    may_be_saved = threading.Event()
    picture = Image.new("RGB", (8, 8))
    save = picture.save
    picture.save = lambda *args, **kwargs: may_be_saved.wait(60) and save(*args, **kwargs)
    with open_run("train") as run:
        run.log_image(picture, key="confusion/a", step=1)
        run.log_image(Image.new("RGB", (8, 8), "red"), key="confusion/a", step=2)
        assert not list(run.folder.glob("images/*.png"))
        may_be_saved.set()
    assert sorted(path.name[:18] for path in run.folder.glob("images/*.png")) == [
        "confusion~a+step+1", "confusion~a+step+2",
    ]  # fmt: skip


def test_a_picture_that_cant_be_written_fails_the_run(store):
    with pytest.raises(EnvironmentFault, match="images"), open_run("train") as run:
        (run.folder / "images").write_text("a file where the folder of pictures should be")
        run.log_image(Image.new("RGB", (8, 8)), key="confusion/a", step=1)
    assert mlflow.get_run(run.run_id).data.tags["fmtl.outcome"] == "failed"


def test_pictures_wait_for_the_store_in_a_queue_that_ends(store):
    """The first can't be saved until the queue is full and the next one asked for room."""
    held, lock = Image.new("RGB", (8, 8)), threading.Event()
    save = held.save
    held.save = lambda *args, **kwargs: lock.wait(60) and save(*args, **kwargs)
    with open_run("train") as run:
        for step in range(MOST_WAITING):
            run.log_image(held if step == 0 else Image.new("RGB", (8, 8)), key="a", step=step)
        threading.Timer(0.5, lock.set).start()
        run.log_image(Image.new("RGB", (8, 8)), key="a", step=MOST_WAITING)
        assert lock.is_set()
    assert len(list(run.folder.glob("images/*.png"))) == MOST_WAITING + 1


def test_an_interrupt_ends_the_run_without_the_pictures_that_wait_and_counts_them(store):
    """The second interrupt comes while the picture in work is waited for, which can't end before it."""
    held, begun, lock, told = Image.new("RGB", (8, 8)), threading.Event(), threading.Event(), threading.Event()
    save = held.save
    held.save = lambda *args, **kwargs: begun.set() or (lock.wait(60) and save(*args, **kwargs))

    class Screen(logging.Handler):
        def emit(self, record):
            if record.getMessage() == "9 pictures of the last epochs were not written":
                told.set()

    def interrupt():
        if told.wait(60):
            signal.raise_signal(signal.SIGINT)
        lock.set()

    screen = Screen()
    logging.getLogger("fmtl").addHandler(screen)
    second = threading.Thread(target=interrupt)
    second.start()
    with pytest.raises(KeyboardInterrupt), open_run("train") as run:
        for step in range(10):
            run.log_image(held, key="a", step=step)
        assert begun.wait(60)
        raise KeyboardInterrupt
    second.join()
    logging.getLogger("fmtl").removeHandler(screen)
    found = mlflow.get_run(run.run_id)
    assert (found.info.status, found.data.tags["fmtl.outcome"]) == ("KILLED", "interrupted")
    assert mlflow.active_run() is None
    assert told.is_set()


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


def test_an_empty_run_id_in_the_environment_is_none(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "")
    with open_run("train") as run:
        pass
    found = mlflow.get_run(run.run_id)
    assert mlflow.get_experiment(found.info.experiment_id).name == "fmtl" and found.info.status == "FINISHED"


@pytest.mark.parametrize(("switch", "psutil", "wanted"), [
    ("false", True, False), ("true", True, True), ("", True, True), ("true", False, False)
])  # fmt: skip
def test_system_metrics_are_as_the_user_says_and_a_missing_package_ends_no_run(
    store, monkeypatch, caplog, switch, psutil, wanted
):
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", switch)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    if not psutil:
        found = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "psutil" else found(name, *a))
    with open_run("train") as run:
        time.sleep(0.5)
    run = mlflow.get_run(run.run_id)
    assert run.info.status == "FINISHED"
    assert any(name.startswith("system/") for name in run.data.metrics) == wanted
    assert ("pip install psutil" in caplog.text) == (not psutil)


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


def test_an_experiment_id_left_over_from_another_store_is_named(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "77")
    with pytest.raises(DataError, match="MLFLOW_EXPERIMENT_ID=77.*unset it"), open_run("train"):
        raise AssertionError("work began")
    with open_run("train", experiment="mine") as run:
        assert mlflow.get_experiment_by_name("mine").experiment_id == mlflow.get_run(run.run_id).info.experiment_id


def test_an_unusable_store_is_an_environment_fault(tmp_path):
    code = "import sys; from fmtl.cli import main; sys.exit(main(['compare']))"
    for uri in (f"file:{tmp_path}/mlruns", "http://127.0.0.1:9"):
        env = os.environ | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 4, done.stderr
        assert f"MLflow store {uri}" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("argv", [["register", "--run", "0" * 32], ["predict", "--model", "0" * 32, "--images", "."]])
def test_an_unreachable_store_is_not_taken_for_missing_data(tmp_path, argv):
    code = f"import sys; from fmtl.cli import main; sys.exit(main({argv!r}))"
    env = os.environ | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr


def test_telemetry_is_off_whichever_room_is_entered_first(tmp_path):
    code = (
        "import importlib, sys; importlib.import_module(f'fmtl.commands.{sys.argv[1]}')\n"
        "from mlflow.telemetry import get_telemetry_client; sys.exit(get_telemetry_client() is not None)"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    for command in ("compare", "predict"):
        subprocess.run([sys.executable, "-c", code, command], env=env, check=True, cwd=tmp_path)


def test_later_runs_of_a_project_stay_in_its_experiment(tmp_path):
    code = (
        "import os, mlflow; made = mlflow.create_experiment('sweep'); first = mlflow.MlflowClient().create_run(made)\n"
        "os.environ |= {'MLFLOW_EXPERIMENT_ID': made, 'MLFLOW_RUN_ID': first.info.run_id}\n"
        "from fmtl.tracking.run import open_run\n"
        "for _ in range(3):\n"
        "    with open_run('train'): pass\n"
        "print([mlflow.get_experiment(r.info.experiment_id).name for r in"
        " mlflow.search_runs(search_all_experiments=True, output_format='list')])"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "['sweep', 'sweep', 'sweep']", done.stderr


def test_all_pages_of_runs_are_read(store, monkeypatch):
    monkeypatch.setattr("fmtl.tracking.store.PAGE_SIZE", 2)
    for _ in range(5):
        with open_run("train"):
            pass
    assert len(search_runs("train")) == 5
