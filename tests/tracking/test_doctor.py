"""Runs whose process died: seen by their lease, mended once, and no living one touched."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import mlflow
import pytest

from fmtl.commands.compare import compare
from fmtl.commands.upkeep.doctor import doctor
from fmtl.errors import DataError
from fmtl.settings.schema import CompareSettings, DoctorSettings
from fmtl.tracking import doctor as clinic
from fmtl.tracking.record import lease
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.record.lease import Lease
from fmtl.tracking.run import open_run

DIE = (
    "import os, sys, time, faulthandler; from fmtl.tracking.run import open_run\n"
    "with open_run('train', name='dies') as run:\n"
    "    run.log_metrics({'x': 1.0}, step=1)\n"
    "    print(run.run_id, flush=True)\n"
    "    sys.stdin.readline()\n"
    "    os.abort()"
)


def begin_elsewhere(store):
    """A run in another process, which waits for a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", DIE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=store,
    )  # fmt: skip
    return process, process.stdout.readline().strip()


def state_of(run_id):
    run = mlflow.get_run(run_id)
    return run.info.status, run.data.tags.get("fmtl.outcome"), lease.TAG in run.data.tags


def test_a_killed_run_is_mended_by_the_next_command_and_a_living_one_is_not_touched(store, capsys):
    (dying, dead), (living, alive) = begin_elsewhere(store), begin_elsewhere(store)
    dying.send_signal(signal.SIGKILL)
    dying.wait()
    assert state_of(dead) == ("RUNNING", None, True)
    compare(CompareSettings())
    assert state_of(dead) == ("KILLED", "interrupted", False)
    assert "ended without a word" in mlflow.get_run(dead).data.tags["fmtl.error"]
    assert state_of(alive) == ("RUNNING", None, True)
    doctor(DoctorSettings(repair=True))
    assert "1 runs look alive: 1 are, 0 are not" in capsys.readouterr().out
    assert state_of(alive) == ("RUNNING", None, True)
    living.kill()
    living.communicate()
    dying.communicate()


def test_a_crashed_interpreter_failed_and_its_last_words_are_told(store):
    process, run_id = begin_elsewhere(store)
    process.communicate("\n")
    assert process.returncode == -signal.SIGABRT
    clinic.mend_dead()
    assert state_of(run_id) == ("FAILED", "failed", False)
    assert "Fatal Python error: Aborted" in mlflow.get_run(run_id).data.tags["fmtl.error"]
    assert clinic.find() == []


def test_under_mlflow_run_a_killed_run_has_a_status_and_gets_its_outcome(store):
    process, run_id = begin_elsewhere(store)
    process.kill()
    process.communicate()
    mlflow.MlflowClient().set_terminated(run_id, "FAILED")  # what 'mlflow run' does
    clinic.mend_dead()
    assert state_of(run_id) == ("KILLED", "interrupted", False)


def test_a_run_that_ended_while_the_store_was_away_is_not_taken_for_a_killed_one(store):
    with open_run("train") as run:
        run.log_metrics({"x": 1.0}, step=1)
    client, dead = mlflow.MlflowClient(), replace(Lease.mine(), pid=2**22 + 1)
    client.delete_tag(run.run_id, "fmtl.outcome")  # as if the end had not come through
    client.update_run(run.run_id, status="RUNNING")
    client.set_tag(run.run_id, lease.TAG, dead.json())
    clinic.mend_dead()
    assert state_of(run.run_id) == ("FINISHED", "completed", False)
    assert "fmtl.error" not in mlflow.get_run(run.run_id).data.tags


def test_who_was_resumed_meanwhile_is_left_alone(store):
    client, dead = mlflow.MlflowClient(), replace(Lease.mine(), pid=2**22 + 1)
    experiment = client.create_experiment("e")
    run_id = client.create_run(experiment, tags={"fmtl.kind": "train", lease.TAG: dead.json()}).info.run_id
    (patient,) = clinic.find()
    client.set_tag(run_id, lease.TAG, Lease.mine().json())
    assert not clinic.mend(patient)
    assert state_of(run_id) == ("RUNNING", None, True)


def test_fifty_zombies_are_mended_and_no_living_run(store, capsys):
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("zombies")
    mine = Lease.mine()
    dead = replace(mine, pid=2**22 + 1)  # above what a pid can be here
    zombies = [
        client.create_run(experiment, tags={"fmtl.kind": "train", lease.TAG: replace(dead, since=n).json()}).info.run_id
        for n in range(50)
    ]
    living = client.create_run(experiment, tags={"fmtl.kind": "train", lease.TAG: mine.json()}).info.run_id
    strange = client.create_run(experiment).info.run_id  # another program's
    doctor(DoctorSettings(repair=True))
    assert "50 repaired" in capsys.readouterr().out
    assert {state_of(run_id) for run_id in zombies} == {("KILLED", "interrupted", False)}
    assert state_of(living) == ("RUNNING", None, True)
    assert state_of(strange) == ("RUNNING", None, False)


def test_death_is_told_from_life_by_machine_boot_and_start():
    mine = Lease.mine()
    assert not mine.died and mine.is_here and not mine.is_silent
    assert replace(mine, boot="another").died
    assert replace(mine, started="1").died  # the pid is another process's now
    elsewhere = replace(mine, place="another machine", pid=2**22 + 1)
    assert not elsewhere.died and not elsewhere.is_silent
    assert replace(elsewhere, beat=mine.beat - (lease.SILENT_SECONDS + 1) * 1000).is_silent
    assert Lease.read(mine.json()) == mine
    assert Lease.read("{}") is None and Lease.read(None) is None and Lease.read("x") is None


def test_a_run_that_another_process_works_on_cant_be_resumed(store):
    process, run_id = begin_elsewhere(store)
    folder = RunFolder.of_artifacts(store / "mlruns" / "1" / run_id / "artifacts")
    with pytest.raises(DataError, match=rf"it is running \(process {process.pid} on .* since \d\d:\d\d\)"), \
            open_run("train", resume=folder):  # fmt: skip
        raise AssertionError("work began")
    process.kill()
    process.communicate()
    with open_run("train", resume=folder) as run:
        assert run.run_id == run_id
    assert state_of(run_id) == ("FINISHED", "completed", False)


def test_the_lease_is_in_the_folder_too(store):
    with open_run("train") as run:
        assert json.loads((run.place.record / "lease.json").read_text())["pid"] == os.getpid()
        assert run.place.is_held
    assert not run.place.is_held


def test_memory_that_ran_out_is_named_where_the_kernel_says_that_it_killed(store):
    process, run_id = begin_elsewhere(store)
    process.kill()
    process.communicate()
    begun = Lease.read(mlflow.get_run(run_id).data.tags[lease.TAG])
    if begun.killed is None:
        pytest.skip("this system does not count what it kills")
    assert not begun.memory_ran_out
    earlier = replace(begun, killed=begun.killed - 1)  # as if one had been killed since
    assert earlier.memory_ran_out and not replace(earlier, boot="another").memory_ran_out
    mlflow.MlflowClient().set_tag(run_id, lease.TAG, earlier.json())
    compare(CompareSettings())
    told = mlflow.get_run(run_id).data.tags["fmtl.error"]
    assert "the kernel has killed processes of this machine for memory: lower batch_size or px" in told
    assert f"fmtl train --resume {run_id} goes on" in told
