"""Processes that train together, when one of them fails, is killed or is asked to end."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
import torch
from kit.launching import ROOT, done, torchrun, train_options

from fmtl.training import checkpoints

pytestmark = pytest.mark.slow

TOGETHER = ("-m", "fmtl", "train")


def runs():
    return mlflow.search_runs(search_all_experiments=True, output_format="list")


def wait_for(what, seconds=120):
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.1)
    return found


def ranks_of(agent):
    """Process ids by rank."""
    found = {}
    for line in subprocess.run(
        ["ps", "--ppid", str(agent.pid), "-o", "pid="], capture_output=True, text=True
    ).stdout.split():
        environment = Path(f"/proc/{line}/environ").read_bytes().split(b"\0")
        rank = [part[5:] for part in environment if part.startswith(b"RANK=")]
        if rank:
            found[int(rank[0])] = int(line)
    return found


def last_checkpoint(folder):
    (path,) = folder.glob("mlruns/*/*/artifacts/checkpoints/*_last.pt")
    return checkpoints.load(path)


def weights_of(folder):
    return last_checkpoint(folder).model


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def alone(folder, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "fmtl", "train", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def unbroken(dataset, empty_store, tmp_path_factory):
    """Folder of a training of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("unbroken")
    shutil.copy(empty_store, folder / "mlflow.db")
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    done(torchrun(2, *TOGETHER, *train_options(dataset.folder, epochs=3), cwd=folder, env=env))
    return folder


@pytest.fixture(scope="module")
def interrupted(dataset, empty_store, tmp_path_factory):
    """Folder of one that SIGTERM ended in its second epoch, and what it said."""
    folder = tmp_path_factory.mktemp("interrupted")
    shutil.copy(empty_store, folder / "mlflow.db")
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    agent = torchrun(2, *TOGETHER, *train_options(dataset.folder, epochs=3), cwd=folder, env=env)
    said = []
    for line in agent.stdout:
        said.append(line)
        if line.startswith("epoch 1/"):
            agent.send_signal(signal.SIGTERM)
            break
    said += agent.communicate(timeout=60)[0].splitlines(keepends=True)
    return folder, "".join(said)


def test_a_signal_ends_all_with_a_checkpoint(interrupted):
    folder, said = interrupted
    assert "to go on: fmtl train --resume" in said and said.count("terminated") >= 1
    kept = last_checkpoint(folder)
    position = kept.training["position"]
    assert kept.epoch == 1 and (position is None or position["num_batches"] > 0)
    assert not any(line.startswith(("epoch 2/", "test:")) for line in said.splitlines())


@pytest.mark.parametrize("num", [1, 2, 4])
def test_it_goes_on_in_any_number_of_processes(interrupted, unbroken, tmp_path, num):
    folder = tmp_path / "copy"
    shutil.copytree(interrupted[0], folder)
    for file in folder.rglob("*"):  # a store of its own, whose artifacts are where they were
        if file.name == "mlflow.db":
            moved = file
    for table in ("runs", "experiments", "logged_models"):
        column = "artifact_location" if table != "runs" else "artifact_uri"
        statement = f"UPDATE {table} SET {column} = REPLACE({column}, '{interrupted[0]}', '{folder}')"
        subprocess.run([sys.executable, "-c",
                        f"import sqlite3; c = sqlite3.connect({str(moved)!r}); c.execute({statement!r}); c.commit()"],
                       check=True)  # fmt: skip
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{moved}"}
    if num == 1:
        os.environ.update(env)
        result = alone(folder, "--resume", "last")
        assert result.returncode == 0, result.stdout + result.stderr
        said = result.stdout
    else:
        said = done(torchrun(num, *TOGETHER, "--resume", "last", cwd=folder, env=env))
    assert "epoch 3/3" in said and ("approximately: ranks 2, now" in said) == (num != 2)
    assert last_checkpoint(folder).epoch == 3
    if num == 2:
        assert equal(weights_of(folder), weights_of(unbroken))


def test_a_killed_rank_starts_all_again_from_the_last_checkpoint(dataset, store):
    options = ("--standalone", "--max-restarts", "1", "--monitor-interval", "0.1")
    agent = torchrun(2, *TOGETHER, *train_options(dataset.folder, epochs=3), options=options)
    said = []
    for line in agent.stdout:
        said.append(line)
        if line.startswith("epoch 1/"):
            os.kill(ranks_of(agent)[1], signal.SIGKILL)
            break
    said = "".join(said) + agent.communicate(timeout=240)[0]
    assert agent.returncode == 0, said
    assert "going on with run" in said and "it goes on after epoch 1" in said
    (run,) = runs()
    assert run.info.status == "FINISHED" and run.data.tags["fmtl.outcome"] == "completed"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "val/loss")
    assert [point.step for point in history] == [1, 2, 3]


def two_datasets(dataset, folder):
    """The same dataset for each rank, and the command that gives each its own."""
    for rank in (0, 1):
        shutil.copytree(dataset.folder, folder / f"data{rank}")
    options = " ".join(train_options("data$RANK", allow_stale="true"))
    return ["--no-python", "bash", "-c", f"exec {sys.executable} -m fmtl train {options}"]


def test_data_of_a_rank_may_lie_elsewhere_but_must_be_the_same(dataset, store):
    command = two_datasets(dataset, store)
    done(torchrun(2, *command[1:], options=("--standalone", command[0])))
    text = (store / "data1" / "manifest.json").read_text()
    (store / "data1" / "manifest.json").write_text(text)
    shutil.rmtree(store / "data1")
    agent = torchrun(2, *command[1:], options=("--standalone", command[0]))
    said, _ = agent.communicate(timeout=120)
    assert agent.returncode != 0
    (failed,) = [run for run in runs() if run.data.tags["fmtl.outcome"] == "failed"]
    assert "rank 1 of 2" in failed.data.tags["fmtl.error"] and "data1" in failed.data.tags["fmtl.error"], said


def test_what_is_wrong_with_one_rank_is_what_the_run_says(dataset, store):
    command = two_datasets(dataset, store)
    for shard in (store / "data1").glob("pixels-*.bin"):
        damaged = bytearray(shard.read_bytes())
        damaged[len(damaged) // 2] ^= 255
        shard.unlink()
        shard.write_bytes(damaged)
    agent = torchrun(2, *command[1:], options=("--standalone", command[0]))
    said, _ = agent.communicate(timeout=120)
    assert agent.returncode != 0
    (run,) = runs()
    assert run.info.status == "FAILED"
    assert (
        run.data.tags["fmtl.error"].startswith("RankFailed: rank 1 of 2: ") and "pixels-" in run.data.tags["fmtl.error"]
    )
    assert "error: rank 1 of 2: " in said


class Host:
    """A machine of one's own: a network namespace whose only way out is a cable to the other one."""

    def __init__(self, name, address, cable):
        self.name, self.address, self.cable = name, address, cable

    def torchrun(self, *command, **more):
        inside = ["ip", "netns", "exec", self.name, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2",
                  "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", "10.77.0.1:29511",
                  "--rdzv-id", "season-7", "--max-restarts", "3", "--monitor-interval", "0.1",
                  "--local-addr", self.address,
                  "--rdzv-conf", f"is_host={int(self.name == 'fmtl-a')}", *command]  # fmt: skip
        environment = os.environ | {
            "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": self.cable,
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", **more,
        }  # fmt: skip
        return subprocess.Popen(
            inside, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )


@pytest.fixture
def hosts():
    found = [Host("fmtl-a", "10.77.0.1", "fmtl-cable-a"), Host("fmtl-b", "10.77.0.2", "fmtl-cable-b")]
    commands = [f"ip netns add {host.name}" for host in found]
    commands.append("ip link add fmtl-cable-a netns fmtl-a type veth peer name fmtl-cable-b netns fmtl-b")
    for host in found:
        inside = f"ip -n {host.name}"
        commands += [f"{inside} addr add {host.address}/24 dev {host.cable}", f"{inside} link set {host.cable} up",
                     f"{inside} link set lo up"]  # fmt: skip
    try:
        for command in commands:
            made = subprocess.run(command.split(), capture_output=True, text=True)
            if made.returncode:
                pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
        yield found
    except FileNotFoundError:
        pytest.skip("no iproute2 here")
    finally:
        for host in found:
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True)


def test_a_machine_that_dies_joins_again(dataset, store, hosts):
    command = [*TOGETHER, *train_options(dataset.folder, epochs=4)]
    first, second = hosts[0].torchrun(*command), hosts[1].torchrun(*command)
    said = []
    for line in first.stdout:
        said.append(line)
        if line.startswith("epoch 1/"):
            os.killpg(second.pid, signal.SIGKILL)
            for worker in ranks_of(second).values():
                os.kill(worker, signal.SIGKILL)
            break
    second.communicate()
    again = hosts[1].torchrun(*command)
    said = "".join(said) + first.communicate(timeout=240)[0]
    told = again.communicate(timeout=60)[0]
    assert first.returncode == again.returncode == 0, said + told
    assert said.count("2 processes train together") == 2 and "going on with run" in said
    (run,) = runs()
    assert run.data.tags["fmtl.outcome"] == "completed" and run.data.tags["fmtl.resume"] == "exact"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "val/loss")
    assert [point.step for point in history] == [1, 2, 3, 4]


def test_everything_that_ranks_have_to_agree_on(dataset, store):
    """Frozen epochs on kept features, a moving average, mixing, patience, accumulation: two variants in one launch."""
    options = train_options(
        dataset.folder, epochs=4, freeze_epochs=1, ema_decay=0.9, mixup=0.2, patience=1, accumulate=2,
        task_weights="uncertainty", checkpoint_minutes=0.001,
    )  # fmt: skip
    (store / "two.yaml").write_text("variants: [{seed: 1}, {seed: 2, save_checkpoints: false}]\n")
    said = done(torchrun(2, *TOGETHER, "--config", "two.yaml", *options))
    assert said.count("\ntest: accuracy") == 2
    outcomes = [run.data.tags["fmtl.outcome"] for run in runs()]
    assert outcomes == ["completed"] * 2


def test_a_name_that_was_used_before_begins_a_new_run(dataset, store):
    options = ("--standalone",), ("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--rdzv-id", "season-8")
    for _ in range(2):
        done(torchrun(2, *TOGETHER, *train_options(dataset.folder, epochs=1), options=options[1]))
    assert len(runs()) == 2


def test_too_few_images_for_so_many_processes_is_said_at_once(dataset, store):
    agent = torchrun(2, *TOGETHER, *train_options(dataset.folder, batch_size=2))
    said, _ = agent.communicate(timeout=120)
    assert agent.returncode != 0 and "batch_size: 2 images are too few for 2 processes" in said
    (run,) = runs()
    assert run.info.status == "FAILED" and "too few" in run.data.tags["fmtl.error"]
