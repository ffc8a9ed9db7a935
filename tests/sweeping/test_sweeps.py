"""Sweeps as people start them: workers that die, that are interrupted, that come at once."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from fmtl.commands.sweeping.study import NEXT, SLOT, TWICE

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SEARCH = """
data: {data}
backbone: test_efficientnet
weights: none
px: 32
epochs: 3
precision: fp32
channels_last: false
gallery: false
extra_plots: false
checkpoint_minutes: 0.001
learning_rate: {{low: 1e-4, high: 1e-1, log: true}}
class_weights: [0, 0.25, 0.5]
trials: {trials}
"""
GRID = SEARCH.replace("learning_rate: {{low: 1e-4, high: 1e-1, log: true}}", "seed: [0, 1]").replace(
    "trials: {trials}", ""
)


def worker(folder, *more):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "fmtl", "sweep", "--config", "search.yaml", *more], cwd=folder, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def until_said(process, words, said):
    for line in process.stdout:
        said.append(line)
        if words in line:
            return
    raise AssertionError("".join(said))


def runs(kind):
    found = mlflow.search_runs(search_all_experiments=True, output_format="list", max_results=1000)
    return [run for run in found if run.data.tags.get("fmtl.kind") == kind]


def filled_once(study, names):
    """Of each slot one trial that settled it, and those before it passed on."""
    settled = {}
    for trial in study.trials:
        if TWICE in trial.user_attrs or NEXT in trial.user_attrs:
            assert trial.state == TrialState.FAIL
            continue
        settled.setdefault(trial.user_attrs[SLOT], []).append(trial)
    return settled.keys() == set(names) and all(len(of) == 1 for of in settled.values())


@pytest.fixture(scope="module")
def postgres():
    """Address of a real PostgreSQL."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("no PostgreSQL here")
    folder = Path(tempfile.mkdtemp(prefix="fmtl-postgres-"))  # not in pytest's, which others may not enter
    as_whom: list[str] = []
    if os.getuid() == 0:  # as whom it does not run
        as_whom = ["runuser", "-u", "nobody", "--"]
        shutil.chown(folder, "nobody")
    port = random.randint(20_000, 40_000)

    def run(*command):
        subprocess.run([*as_whom, *map(str, command)], check=True, cwd="/", stdout=subprocess.DEVNULL)

    control, data = programs[-1] / "pg_ctl", folder / "data"
    run(programs[-1] / "initdb", "-D", data, "-A", "trust", "-U", "fmtl")
    run(control, "-D", data, "-w", "-l", folder / "log", "-o", f"-p {port} -k {folder}", "start")
    yield f"postgresql+psycopg://fmtl@127.0.0.1:{port}/postgres"
    run(control, "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder)


def test_24_trials_by_3_workers_of_which_two_are_killed(dataset, store, postgres):
    (store / "search.yaml").write_text(SEARCH.format(data=dataset.folder, trials=24))
    workers = [worker(store, "--storage", postgres) for _ in range(3)]
    logs = [[], [], []]
    for number in (1, 2):  # neither has the sweep's run; one between epochs, one as it begins
        until_said(workers[number], "epoch 2/" if number == 1 else "run search", logs[number])
        workers[number].send_signal(signal.SIGKILL)
        workers[number].communicate()
        workers[number] = worker(store, "--storage", postgres)
    said = [process.communicate(timeout=550)[0] for process in workers]
    assert [process.returncode for process in workers] == [0, 0, 0], "\n".join(said)
    storage = optuna.storages.RDBStorage(postgres)
    study = optuna.load_study(study_name=optuna.get_all_study_names(storage)[0], storage=storage)
    assert filled_once(study, [str(n) for n in range(24)])
    assert sum(NEXT in trial.user_attrs for trial in study.trials) >= 2
    states = [trial.state for trial in study.trials]
    done = states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED)
    assert done == 24
    (parent,) = runs("sweep")
    assert parent.info.status == "FINISHED"
    children = runs("train")
    assert len(children) == 24, "\n".join(said)  # those that were killed went on in their runs
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert sum(child.data.tags["fmtl.outcome"] == "completed" for child in children) == states.count(
        TrialState.COMPLETE
    )
    best = max((t for t in study.trials if t.state == TrialState.COMPLETE), key=lambda t: t.value)
    assert parent.data.tags["fmtl.best_run"] == best.user_attrs["run"]
    assert parent.data.metrics["best"] == pytest.approx(best.value)
    table = pd.read_csv(mlflow.artifacts.download_artifacts(run_id=parent.info.run_id, artifact_path="trials.csv"))
    assert len(table) == 24 and table["value"].max() == pytest.approx(best.value)
    storage.remove_session()
    storage.engine.dispose()


def test_ctrl_c_and_again_goes_on_without_a_database(dataset, store):
    (store / "search.yaml").write_text(SEARCH.format(data=dataset.folder, trials=4) + "seed: [0, 1]\nfinalists: 1\n")
    said = []
    first = worker(store)
    until_said(first, "trial 0: f1", said)
    until_said(first, "epoch 1/", said)
    first.send_signal(signal.SIGINT)
    said.append(first.communicate(timeout=60)[0])
    assert first.returncode == 130 and "to go on: fmtl sweep --config search.yaml" in said[-1]
    told = worker(store).communicate(timeout=300)[0]
    assert (
        "trial 0:" not in told.replace("best so far: trial 0", "").replace("trial 0 seed", "")
        and "it goes on after" in told
    )
    (parent,) = runs("sweep")
    assert parent.info.status == "FINISHED"
    (journal,) = (store / "sweeps").glob("*.journal")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    study = optuna.load_study(study_name=journal.stem, storage=storage)
    best = max((t for t in study.trials if t.state == TrialState.COMPLETE and t.user_attrs[SLOT].isdecimal()),
               key=lambda t: t.value)  # fmt: skip
    finals = {f"{slot} seed 1" for slot in (best.user_attrs[SLOT], "0")}
    assert filled_once(study, {"0", "1", "2", "3", *finals})
    board = pd.read_csv(store / "leaderboard" / "leaderboard.csv")
    assert board["seeds"].max() == 2
    num = len(runs("train"))
    again = worker(store).communicate(timeout=120)[0]
    assert "best: trial" in again and len(runs("train")) == num  # nothing is trained twice


def test_a_grid_is_trained_with_every_seed(dataset, store):
    (store / "search.yaml").write_text(GRID.format(data=dataset.folder))
    told = worker(store).communicate(timeout=300)[0]
    board = pd.read_csv(store / "leaderboard" / "leaderboard.csv")
    ranked = board[board["rank"].notna()]
    assert len(ranked) == 3 and set(ranked["seeds"]) == {2}, told
    children = {(run.data.params["class_weights"], run.data.params["seed"]) for run in runs("train")}
    assert children == {(w, s) for w in ("0.0", "0.25", "0.5") for s in ("0", "1")}


def test_settings_that_were_tried_are_not_trained_again(dataset, store):
    text = SEARCH.format(data=dataset.folder, trials=5)
    (store / "search.yaml").write_text(text.replace("learning_rate: {low: 1e-4, high: 1e-1, log: true}\n", ""))
    told = worker(store).communicate(timeout=300)[0]
    assert len(runs("train")) == 3 and told.count("again, not trained") == 2, told


KILLED = """
import os, signal, sys
from fmtl.commands.sweeping.study import Study
Study.note_run = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
from fmtl.cli import main
main(["sweep", "--config", "search.yaml"])
"""


def test_a_worker_that_dies_before_it_says_which_run_it_has_leaves_none(dataset, store):
    (store / "search.yaml").write_text(SEARCH.format(data=dataset.folder, trials=2))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", KILLED], cwd=store, env=environment).returncode == -signal.SIGKILL
    (begun,) = runs("train")
    told = worker(store).communicate(timeout=300)[0]
    assert [run.data.tags["fmtl.outcome"] for run in runs("train")] == ["completed"] * 2, told
    assert begun.info.run_id in {run.info.run_id for run in runs("train")}
