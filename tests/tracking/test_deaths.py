"""Eight ways to end before the end, directly and under ``mlflow run``: what the run's page says afterwards is true."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from fmtl.commands.compare import compare
from fmtl.commands.upkeep.sync import sync
from fmtl.settings.schema import CompareSettings, SyncSettings

pytestmark = pytest.mark.reliability

DIE = """
import logging, os, signal, sqlite3, sys
from fmtl import cli

def memory():
    raise MemoryError

def full():
    with sqlite3.connect("mlflow.db") as database:
        for table in ("metrics", "tags", "latest_metrics"):
            raised = "BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
            database.execute(f"CREATE TRIGGER full_{table} BEFORE INSERT ON {table} {raised}")

WAYS = {
    "exception": lambda: [][1],
    "sys.exit": lambda: sys.exit(3),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "SIGINT": lambda: os.kill(os.getpid(), signal.SIGINT),
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "abort": os.abort,
    "out of memory": memory,
    "full database": full,
}

class Death(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith("epoch 1/"):
            WAYS[os.environ["WAY"]]()

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background has it ignored
logging.getLogger("fmtl").addHandler(Death())
sys.exit(cli.main(["train", "--data", os.environ["DATA"], "--weights", "none", "--backbone", "resnet18", "--px", "32",
                   "--epochs", "3", "--gallery", "false", "--extra-plots", "false", "--precision", "fp32",
                   "--channels-last", "false"]))
"""

ENDS = {  # exit code, outcome, MLflow's status if called directly
    "exception": (1, "failed", "FAILED"),
    "sys.exit": (3, "failed", "FAILED"),
    "SIGTERM": (143, "interrupted", "KILLED"),
    "SIGINT": (130, "interrupted", "KILLED"),
    "SIGKILL": (-9, "interrupted", "KILLED"),
    "abort": (-6, "failed", "FAILED"),
    "out of memory": (4, "failed", "FAILED"),
    "full database": (0, "completed", "FINISHED"),
}


@pytest.mark.parametrize("way", ENDS)
@pytest.mark.parametrize("project", [False, True], ids=["directly", "under mlflow run"])
def test_the_page_of_a_run_tells_its_end(store, dataset, way, project):
    code, outcome, status = ENDS[way]
    (store / "die.py").write_text(DIE)
    environment = os.environ | {"WAY": way, "DATA": str(dataset.folder)}
    if project:
        (store / "MLproject").write_text(f"name: die\nentry_points:\n  main:\n    command: {sys.executable} die.py\n")
        command = [sys.executable, "-m", "mlflow", "run", ".", "--env-manager", "local"]
    else:
        command = [sys.executable, "die.py"]
    done = subprocess.run(command, env=environment, cwd=store, capture_output=True, text=True)
    if project:
        status = "FINISHED" if code == 0 else "FAILED" if way not in ("SIGKILL", "abort") else status
        assert (done.returncode == 0) == (code == 0), done.stderr
    else:
        assert done.returncode == code, done.stderr
    if way == "full database":
        with sqlite3.connect("mlflow.db") as database:
            for table in ("metrics", "tags", "latest_metrics"):
                database.execute(f"DROP TRIGGER full_{table}")
        assert "fmtl sync --run" in done.stderr
        sync(SyncSettings())
    else:
        compare(CompareSettings())  # the next command on this machine
    runs = [
        run
        for run in mlflow.search_runs(search_all_experiments=True, output_format="list")
        if run.data.tags.get("fmtl.kind") != "compare"
    ]
    (run,) = runs
    assert (run.data.tags["fmtl.outcome"], run.info.status) == (outcome, status)
    assert ("fmtl.error" in run.data.tags) == (outcome == "failed" or way == "SIGKILL")
    assert "fmtl.lease" not in run.data.tags
    assert Path(run.info.artifact_uri).is_dir()
