"""From a run folder to a real server, whatever happens to the server: nothing lost, nothing twice."""

import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest
from kit.outages import HEALTHY, behind_proxy, free_port
from mlflow.models import Model

from fmtl.commands.upkeep.clean import clean
from fmtl.commands.upkeep.sync import sync
from fmtl.errors import EnvironmentFault
from fmtl.settings.schema import CleanSettings, SyncSettings
from fmtl.tracking import earlier, opening, store
from fmtl.tracking.delivery import courier
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.run import open_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # sockets that were broken off
]

EPOCHS = 6
_connecting: set[str] = set()  # names of the threads that opened a socket
sys.addaudithook(
    lambda event, _: event.startswith("socket.connect") and _connecting.add(threading.current_thread().name)
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with behind_proxy(tmp_path_factory.mktemp("server")) as both:
        yield both


@pytest.fixture
def proxy(server, tmp_path, monkeypatch):
    """The server, healthy, as the store of a user who works in an empty folder."""
    proxy = server[1]
    proxy.mode, proxy.most_bytes = HEALTHY, 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
    for name, value in {"MAX_RETRIES": "2", "BACKOFF_FACTOR": "0", "TIMEOUT": "5"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setattr(courier, "PATIENCE_SECONDS", 3)
    opening._answered.clear()
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(proxy.uri)
    yield proxy
    proxy.mode = HEALTHY
    mlflow.set_tracking_uri(before)


def work(at_epoch=lambda epoch: None, *, before_end=lambda: None, **options):
    """A training without a network: epochs of metrics and files, a checkpoint each, a model. Returns its folder."""
    with open_run("train", name="worker", **options) as run:
        run.log_params({"learning_rate": 0.1})
        for epoch in range(1, EPOCHS + 1):
            at_epoch(epoch)
            (run.folder / "checkpoints").mkdir(exist_ok=True)
            (run.folder / "checkpoints" / "net_last.pt").write_bytes(os.urandom(200_000))
            (run.folder / f"epoch-{epoch}.txt").write_text(f"{epoch}")
            run.log_metrics({f"m{k}": epoch + k / 10 for k in range(30)}, step=epoch)
            time.sleep(0.3)
        before_end()
        run.set_tags({"note": "done"})
    return run


def assert_all_there(run, run_id=None):
    """Every point once, every file with the bytes of the folder, and a true end."""
    client = mlflow.MlflowClient()
    found = client.get_run(run_id or run.run_id)
    for k in (0, 17, 29):
        points = client.get_metric_history(found.info.run_id, f"m{k}")
        assert [(p.step, p.value) for p in points] == [(e, e + k / 10) for e in range(1, EPOCHS + 1)], list(
            run.place.journal().lines()
        )
    for path in run.place.deliverable():
        name = path.relative_to(run.folder).as_posix()
        there = Path(mlflow.artifacts.download_artifacts(run_id=found.info.run_id, artifact_path=name))
        assert hashlib.sha256(there.read_bytes()).digest() == hashlib.sha256(path.read_bytes()).digest(), name
    assert (found.info.status, found.data.tags["fmtl.outcome"]) == ("FINISHED", "completed")
    assert found.data.tags["note"] == "done" and found.data.params == {"learning_rate": "0.1"}
    assert "fmtl.lease" not in found.data.tags
    others = client.search_runs([found.info.experiment_id], f"tags.`fmtl.folder_id` = '{run.place.root.name}'")
    assert len(others) == 1


def test_a_healthy_server_gets_all_and_the_training_thread_opens_no_socket(proxy):
    _connecting.clear()
    threading.current_thread().name = "training"
    run = work()
    assert_connected = set(_connecting)
    threading.current_thread().name = "MainThread"
    assert "fmtl-courier" in assert_connected and "training" not in assert_connected
    assert_all_there(run)
    assert run.place.root.parent == Path.cwd() / "runs"


@pytest.mark.reliability
def test_requests_do_not_grow_with_the_number_of_metrics(proxy):
    def count(num):
        proxy.requests.clear()
        with open_run("train") as run:
            run.log_metrics({f"m{k}": float(k) for k in range(num)}, step=1)
        return sum("log-batch" in request for request in proxy.requests)

    assert count(5) == count(500)


@pytest.mark.reliability
@pytest.mark.parametrize("mode", ["away", "hang", "401", "reset"])
def test_what_a_server_missed_in_the_middle_it_has_at_the_end(proxy, monkeypatch, mode):
    monkeypatch.setattr(courier, "PATIENCE_SECONDS", 20)

    def outage(epoch):
        if epoch == 2:
            proxy.close() if mode == "away" else setattr(proxy, "mode", mode)
        if epoch == 5:
            proxy.open() if mode == "away" else setattr(proxy, "mode", HEALTHY)

    assert_all_there(work(outage))


@pytest.mark.reliability
def test_a_quarter_of_the_requests_may_fail(proxy, monkeypatch):
    monkeypatch.setattr(courier, "PATIENCE_SECONDS", 30)
    proxy.mode = "flaky"
    run = work()
    proxy.mode = HEALTHY
    assert_all_there(run)


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("away", "nothing listens"),
        ("hang", "does not answer"),
        ("401", "MLFLOW_TRACKING_USERNAME"),
        ("413", "client_max_body_size"),
    ],
)
def test_a_server_that_stays_away_costs_nothing_but_a_command(proxy, caplog, capsys, mode, says):
    def outage(epoch):
        if epoch == 2:
            proxy.most_bytes = 100_000
            proxy.close() if mode == "away" else setattr(proxy, "mode", mode)

    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "fmtl"):
        run = work(outage)
    assert time.monotonic() - began < 30
    assert f"fmtl sync --run {run.place.root.name}" in caplog.text
    assert says in caplog.text or mode == "hang"
    if mode == "401":
        with pytest.raises(EnvironmentFault, match="goes on where it stopped"):
            sync(SyncSettings(run=run.place.root.name))
    proxy.open() if mode == "away" else setattr(proxy, "mode", HEALTHY)
    join_couriers()
    for _ in range(2):
        sync(SyncSettings(run=run.place.root.name))
    assert_all_there(run)
    assert "has all of it" in capsys.readouterr().out  # the second time at the latest


def join_couriers():
    """Wait for threads that a command's end would have taken with it."""
    for thread in threading.enumerate():
        if thread.name == "fmtl-courier":
            thread.join()


def save_model(folder):
    """A large file among many small ones."""
    Model(flavors={"python_function": {"loader_module": "x"}}).save(str(folder / "MLmodel"))
    for i in range(150):
        (folder / f"{i}.py").write_text(f"x = {i}\n" * 200)
    (folder / "weights.safetensors").write_bytes(os.urandom(3 << 20))


def test_a_model_that_is_refused_keeps_nothing_else_back_and_the_end_is_near(proxy, capsys):
    with open_run("train") as run:
        proxy.mode, proxy.most_bytes = "413", 1_000_000
        run.log_model(save_model, epoch=1, metrics={"f1": 0.5})
        run.log_metrics({"after": 1.0}, step=1)
        began = time.monotonic()
    assert time.monotonic() - began < 30
    join_couriers()
    found = mlflow.get_run(run.run_id)
    assert found.data.metrics["after"] == 1.0 and found.info.status == "FINISHED"
    assert "fmtl.model_id" not in found.data.tags
    proxy.mode = HEALTHY
    sync(SyncSettings(run=run.place.root.name))
    assert "delivered" in capsys.readouterr().out
    model = mlflow.get_run(run.run_id).data.tags["fmtl.model_id"]
    assert mlflow.MlflowClient().get_logged_model(model).status == "READY"
    sync(SyncSettings(run=run.place.root.name))
    assert "has all of it" in capsys.readouterr().out


def test_a_server_that_takes_its_time_for_each_of_many_small_files_is_waited_for(proxy):
    """It takes several times as long as one without any progress is waited for."""
    with open_run("train") as run:
        proxy.mode = "slow"
        run.log_model(save_model, epoch=1, metrics={"f1": 0.5})
        began = time.monotonic()
    assert time.monotonic() - began > 3 * courier.PATIENCE_SECONDS
    found = mlflow.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    model = found.data.tags["fmtl.model_id"]
    assert mlflow.MlflowClient().get_logged_model(model).status == "READY"
    sent = [line for line in proxy.requests if line.startswith("PUT") and f"{model}/" in line]
    assert len(sent) == len(set(sent)) > 150


@pytest.mark.parametrize(
    ("mode", "says"),
    [("away", "nothing listens"), ("hang", "does not answer"), ("401", "MLFLOW_TRACKING_USERNAME"),
     ("version 2", "the server is MLflow 2.22.0")],
)  # fmt: skip
def test_a_store_that_cant_be_used_is_an_error_before_the_work(proxy, mode, says):
    proxy.close() if mode == "away" else setattr(proxy, "mode", mode)
    began = time.monotonic()
    try:
        with pytest.raises(EnvironmentFault, match=f"(?s){says}.*"):
            work(lambda epoch: pytest.fail("work began"))
        assert time.monotonic() - began < 30
    finally:
        if mode == "away":
            proxy.open()


@pytest.mark.reliability
def test_a_limit_on_uploads_is_seen_before_the_work_without_sending_anything(proxy):
    proxy.mode, proxy.most_bytes = "413", 100_000
    with pytest.raises(EnvironmentFault, match="client_max_body_size.*300 MB.*--offline"), open_run("train") as run:
        run.check_size(300_000_000)
    with open_run("train") as run:
        run.check_size(50_000)


@pytest.mark.reliability
def test_an_offline_run_is_delivered_later_to_one_store_and_to_another(proxy, tmp_path):
    proxy.close()
    run = work(offline=True)
    proxy.open()
    assert run.run_id is None
    sync(SyncSettings(run="all"))
    (found,) = mlflow.search_runs(
        search_all_experiments=True, output_format="list",
        filter_string=f"tags.`fmtl.folder_id` = '{run.place.root.name}'",
    )  # fmt: skip
    assert_all_there(run, found.info.run_id)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/other.db")
    sync(SyncSettings(run=str(run.place.root)))
    (found,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert_all_there(run, found.info.run_id)


@pytest.mark.reliability
def test_a_run_that_was_killed_is_delivered_as_interrupted(proxy):
    with pytest.raises(KeyboardInterrupt), open_run("train", offline=True) as run:
        run.log_metrics({"x": 1.0}, step=1)
        raise KeyboardInterrupt
    journal = run.place.record / "journal.jsonl"
    journal.write_text("".join(line for line in journal.read_text().splitlines(True) if '"end"' not in line))
    sync(SyncSettings(run=run.place.root.name))
    (found,) = mlflow.search_runs(
        search_all_experiments=True, output_format="list",
        filter_string=f"tags.`fmtl.folder_id` = '{run.place.root.name}'",
    )  # fmt: skip
    assert (found.info.status, found.data.tags["fmtl.outcome"]) == ("KILLED", "interrupted")


def test_a_run_that_is_brought_from_its_server_does_not_say_its_scores_again(proxy):
    scores = {"best/epoch": 2.0, "test/avg/f1": 0.1 + 0.2}
    with pytest.raises(KeyboardInterrupt), open_run("train", name="worker") as run:
        (run.folder / "config.yaml").write_text("epochs: 2")
        run.log_metrics(scores)
        raise KeyboardInterrupt
    shutil.rmtree(run.place.root)
    client = mlflow.MlflowClient()
    brought = earlier.bring(store.get_run(run.run_id))
    sync(SyncSettings())  # what was brought is not a run that died here
    assert client.get_run(run.run_id).data.tags["fmtl.outcome"] == "interrupted"
    with open_run("train", resume=brought, run_id=run.run_id) as again:
        again.log_model(lambda folder: (folder / "MLmodel").write_text("flavors: {}"), epoch=2, metrics=scores)
    assert again.run_id == run.run_id
    for name, value in scores.items():
        assert [p.value for p in client.get_metric_history(run.run_id, name)] == [value]


@pytest.mark.reliability
def test_a_folder_is_removed_only_when_every_byte_is_in_the_store(proxy, capsys, server):
    run, waiting = work(), work(offline=True)
    there = next((server[0].folder / "artifacts").rglob(f"{run.run_id}/artifacts/epoch-3.txt"))
    there.write_text("9")
    clean(CleanSettings(run="all"))
    assert "epoch-3.txt differs in the store" in capsys.readouterr().out
    there.write_text("3")
    clean(CleanSettings(run="all", dry_run=True))
    assert run.folder.is_dir()
    clean(CleanSettings(run="all"))
    assert not run.folder.exists()
    assert waiting.folder.is_dir()
    assert "not delivered: fmtl sync --run" in capsys.readouterr().out


@pytest.mark.reliability
def test_a_checkpoint_that_grows_while_it_is_sent_is_sent_as_one_of_its_states(proxy):
    """The newest in the end, since the last delivery takes what is there then."""
    run = work(before_end=lambda: None)
    assert RunFolder.at(run.place.root).files == run.folder
    assert_all_there(run)


SERVER_ELSEWHERE = """
mount -t tmpfs none {disk} && cd {disk} && exec {python} -m mlflow server --host 127.0.0.1 --port {port} --workers 1 \\
  --backend-store-uri sqlite:///{disk}/s.db --default-artifact-root {disk}/artifacts --no-serve-artifacts
"""


def test_a_server_whose_artifact_folder_is_on_another_machine_is_told_before_the_work(tmp_path, monkeypatch):
    """Here: in a mount namespace of its own, where the same path is another folder."""
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("a mount namespace takes more rights than this user has")
    (tmp_path / "disk").mkdir()
    port = free_port()
    script = SERVER_ELSEWHERE.format(disk=tmp_path / "disk", python=sys.executable, port=port)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    server = subprocess.Popen(["unshare", "-m", "bash", "-c", script], env=clean, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    try:
        uri = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.5)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(uri)
        unseen = pytest.raises(EnvironmentFault, match="the server can't see artifacts that are written to")
        with unseen, open_run("train"):
            pytest.fail("the work began")
    finally:
        mlflow.set_tracking_uri(before)
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_files_of_a_run_are_read_through_a_server_wherever_they_lie(proxy):
    run = work()
    record = store.get_run(run.run_id)
    assert store.artifact(record, "epoch-1.txt").read_text() == "1"
    assert store.artifact(record, "checkpoints/net_last.pt").stat().st_size == 200_000
    assert store.artifact(record, "epoch-9.txt") is None and store.artifact(record, "plots/none.png") is None
    proxy.mode = "hang"
    opening._answered.clear()
    with pytest.raises(EnvironmentFault):
        store.artifact(record, "epoch-1.txt")
