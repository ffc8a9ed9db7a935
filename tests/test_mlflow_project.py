"""The project as MLflow runs it, and its UI: real processes, the real server."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest

from fmtl.catalogue import sample

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.slow


def environment(folder, **extra):
    """A store in ``folder``, and this Python first on the path, as in an activated environment."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    uri = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    return clean | uri | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | extra


def mlflow_run(folder, entry, *options, expect=0, experiment="fmtl", **params):
    """``mlflow run . -e ENTRY --env-manager local -P ...``; relative paths in params are below the project."""
    command = [str(BIN / "mlflow"), "run", str(ROOT), "-e", entry, "--env-manager", "local",
               "--experiment-name", experiment, *options]  # fmt: skip
    for name, value in params.items():
        command += ["-P", f"{name}={value}"]
    done = subprocess.run(command, env=environment(folder), cwd=folder, capture_output=True, text=True)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Ui:
    """``mlflow ui`` with no store options, in a folder."""

    def __init__(self, folder):
        self.port = free_port()
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        self.process = subprocess.Popen(
            [str(BIN / "mlflow"), "ui", "--port", str(self.port), "--workers", "1"],
            cwd=folder, env=clean | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def __enter__(self):
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2).close()
                return self
            except OSError:
                time.sleep(0.5)
        raise AssertionError("mlflow ui did not start")

    def __exit__(self, *_):
        os.killpg(self.process.pid, 15)
        self.process.wait(20)

    def runs(self):
        body = json.dumps({"experiment_ids": [str(i) for i in range(5)]}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer).get("runs", [])


def test_every_entry_point_runs_and_passes_its_settings_on(tmp_path):
    data = tmp_path / "data"
    mlflow_run(tmp_path, "prepare", table="sample", out=data, px=64)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {data}\nbackbone: resnet18\nweights: none\npx: 32\nepochs: 3\nlearning_rate: 2e-3\n")
    mlflow_run(tmp_path, "train", config=recipe, epochs=1, run_name="it's a run; $(id)")
    mlflow_run(tmp_path, "compare", out=tmp_path / "board")
    mlflow_run(tmp_path, "register")
    out = tmp_path / "p.csv"
    images = tmp_path / "data-catalogue" / "images"
    mlflow_run(tmp_path, "predict", model="models:/fashion-attributes@champion", images=images, out=out)
    assert len(out.read_text().splitlines()) == 600
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    found = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert sorted(run.data.tags["fmtl.kind"] for run in found) == ["compare", "predict", "prepare", "register", "train"]
    assert {run.info.status for run in found} == {"FINISHED"}
    (train,) = (run for run in found if run.data.tags["fmtl.kind"] == "train")
    # What the file says, under what the command line says.
    assert (train.data.params["learning_rate"], train.data.params["epochs"]) == ("0.002", "1")
    assert train.data.params["backbone"] == "resnet18"


def test_a_misspelt_parameter_fails_before_anything_is_trained(tmp_path):
    text = mlflow_run(tmp_path, "train", expect=1, backbon="resnet18")
    assert "No such option" in text and "--backbone" in text


def test_the_ui_without_options_shows_what_the_commands_recorded(tmp_path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    subprocess.run([str(BIN / "fmtl"), "prepare", "--table", "sample", "--px", "32"],
                   cwd=tmp_path, env=clean, check=True, capture_output=True)  # fmt: skip
    with Ui(tmp_path) as ui:
        (run,) = ui.runs()
    assert {"key": "fmtl.kind", "value": "prepare"} in run["data"]["tags"]


def test_a_ui_started_first_in_an_empty_folder_does_not_break_training(tmp_path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    with Ui(tmp_path) as ui:
        done = subprocess.run([str(BIN / "fmtl"), "prepare", "--table", "sample", "--px", "32"],
                              cwd=tmp_path, env=clean, capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert len(ui.runs()) == 1
        # The experiment that the server made can only be written through it; the message says so.
        text = mlflow_run(tmp_path, "prepare", expect=1, experiment="Default", table="sample", out=tmp_path / "x")
    assert "MLFLOW_TRACKING_URI=http" in text and "--experiment-name" in text
    assert not (tmp_path / "x").exists()


def test_a_run_through_a_server_is_stopped_resumed_and_served_from_its_artifacts(tmp_path):
    """Nothing of the run lies on the trainer's disk: the server keeps checkpoints, plots and the model."""
    (tmp_path / "server").mkdir()
    with Ui(tmp_path / "server") as ui:
        env = environment(tmp_path, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{ui.port}")

        def fmtl(*argv):
            return subprocess.Popen([str(BIN / "fmtl"), *argv], cwd=tmp_path, env=env, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True)  # fmt: skip

        def done(*argv):
            process = fmtl(*argv)
            text, _ = process.communicate(timeout=300)
            assert process.returncode == 0, text
            return text

        done("prepare", "--table", "sample", "--px", "32")
        with fmtl("train", "--backbone", "resnet18", "--weights", "none", "--px", "32", "--epochs", "3") as process:
            for line in process.stdout:
                if line.startswith("epoch 1/3"):
                    process.terminate()
        assert process.returncode == 143
        (run,) = (r for r in ui.runs() if {"key": "fmtl.kind", "value": "train"} in r["data"]["tags"])
        assert {"key": "fmtl.outcome", "value": "interrupted"} in run["data"]["tags"]
        run_id = run["info"]["run_id"]
        assert "epoch 3/3" in done("train", "--resume", run_id)
        env["TMPDIR"] = str(tmp_path / "temporary")
        (tmp_path / "temporary").mkdir()
        done("predict", "--model", run_id, "--images", "data/prepared-catalogue/images")
        left = [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in left) < 1 << 20, left  # the model that came from the server is gone
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 600


def test_a_project_that_git_brings_means_the_folder_of_its_caller(tmp_path):
    """Its own working directory is a clone that nobody finds again."""
    git = ["git", "-c", "safe.directory=*"]
    subprocess.run([*git, "clone", "-q", "--bare", str(ROOT), str(tmp_path / "repo.git")], check=True)
    port = free_port()
    daemon = subprocess.Popen(["git", "daemon", "--reuseaddr", f"--base-path={tmp_path}", "--export-all",
                               "--listen=127.0.0.1", f"--port={port}"], stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        shop = tmp_path / "shop"
        sample.draw_catalogue(shop)
        (table,) = shop.glob("*.csv")
        time.sleep(1)
        command = [str(BIN / "mlflow"), "run", f"git://127.0.0.1:{port}/repo.git", "--env-manager", "local"]
        for options in (
            ["-e", "prepare", "-P", f"table=shop/{table.name}", "-P", "px=32", "-P", "limit=100"],
            ["-e", "train", "-P", "weights=none", "-P", "backbone=test_efficientnet", "-P", "px=32", "-P", "epochs=1"],
        ):
            done = subprocess.run([*command, *options], cwd=tmp_path, env=environment(tmp_path), capture_output=True,
                                  text=True)  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
    finally:
        daemon.kill()
        daemon.wait()
    assert (tmp_path / "data" / "prepared" / "manifest.json").is_file()


def test_main_runs_the_whole_pipeline_on_the_sample(tmp_path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    done = subprocess.run([str(BIN / "fmtl"), "main"], cwd=tmp_path, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "registered" in done.stdout and "mlflow ui" in done.stdout
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    found = mlflow.search_runs(search_all_experiments=True, output_format="list")
    by_kind = {}
    for run in found:
        by_kind.setdefault(run.data.tags["fmtl.kind"], []).append(run)
    (parent,) = by_kind["main"]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.data.tags["fmtl.kind"] for run in children) == ["compare", "prepare", "train", "train"]
    champion = mlflow.MlflowClient().get_model_version_by_alias("fashion-attributes", "champion")
    best = next(run for run in by_kind["train"] if run.info.run_id == champion.tags["fmtl.run"])
    assert best.data.metrics["test/avg/f1"] >= 0.85
