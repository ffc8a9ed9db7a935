"""A store that is not there yet."""

import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from fmtl.tracking import store as tracking_store

COMMAND = (
    "import logging; from fmtl.tracking import store; import mlflow\n"
    "with store.reachable(): print(len(mlflow.search_experiments()))\n"
)


def start(folder, name="new.db"):
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / name}"}
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_several_first_commands_make_one_store(tmp_path):
    running = [start(tmp_path) for _ in range(4)]
    for process in running:
        out, err = process.communicate()
        assert (process.returncode, out) == (0, "1\n"), err


@pytest.mark.slow
def test_a_store_whose_making_was_killed_is_made_by_the_next_command(tmp_path):
    for n in range(6):
        process = start(tmp_path)
        for _ in range(600):
            if (tmp_path / ".new.db.new").exists():
                break
            time.sleep(0.05)
        time.sleep(0.15 * n)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (tmp_path / "new.db").exists():  # there: whole
            assert sqlite3.connect(tmp_path / "new.db").execute("select count(*) from experiments").fetchone() == (1,)
            (tmp_path / "new.db").unlink()
    out, err = start(tmp_path).communicate()
    assert out == "1\n", err


def test_a_store_that_cannot_be_made_is_an_error_that_says_what_to_set(monkeypatch, store):
    import mlflow

    from fmtl.errors import EnvironmentFault
    from fmtl.tracking.store import reachable

    mlflow.set_tracking_uri("sqlite:////proc/none/mlflow.db")
    with pytest.raises(EnvironmentFault, match="set MLFLOW_TRACKING_URI to a place"), reachable():
        raise AssertionError("work began")


def test_values_in_filters_are_quoted_as_mlflow_reads_them():
    assert tracking_store.quoted("plain") == "'plain'" and tracking_store.quoted("season '24") == '"season \'24"'
    assert tracking_store.quoted("'\"") is None
