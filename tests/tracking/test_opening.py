"""Stores that can't be opened: one sentence with the way out, soon, and never a password."""

import logging
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import mlflow
import pytest

from fmtl.errors import EnvironmentFault, redacted
from fmtl.tracking import opening
from fmtl.tracking.run import open_run


@pytest.fixture
def uri(monkeypatch):
    before = mlflow.get_tracking_uri()
    yield mlflow.set_tracking_uri
    mlflow.set_tracking_uri(before)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:5000", "did you mean http://127.0.0.1:5000?"),
        ("localhost:5000", "did you mean http://localhost:5000?"),
        ("mlflow.shop.example", "did you mean http://mlflow.shop.example?"),
        ("sqlite://mlflow.db", "did you mean sqlite:///mlflow.db"),
        ("sqlite:/mlflow.db", "did you mean sqlite:///mlflow.db"),
        ("postgresql://bob:s3cret@127.0.0.1:1/db", "package .psycopg.* is missing|nothing listens"),
        ("http://bob:s3cret@127.0.0.1:1", "nothing listens there"),
        ("sqlite:////proc/none/mlflow.db", "can't be made"),
    ],
)
def test_an_address_that_leads_nowhere_is_one_sentence(uri, address, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri(address)
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match=says) as raised, opening.reachable():
        mlflow.MlflowClient().search_experiments()
    assert time.monotonic() - began < 30
    assert "s3cret" not in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("address", ["http://h:5000", "databricks", "databricks-uc", "sqlite:///a.db", "file:mlruns"])
def test_addresses_that_are_some_are_taken(address):
    opening.check_address(address)


def test_a_file_that_is_no_database_is_named(uri, tmp_path):
    (tmp_path / "a.db").write_text("hello")
    uri(f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(EnvironmentFault, match="a.db is not a database of SQLite"), opening.reachable():
        raise AssertionError("asked")


def test_a_locked_database_is_waited_for(store, caplog):
    locked = sqlite3.connect(store / "mlflow.db", check_same_thread=False, isolation_level=None)
    locked.execute("BEGIN EXCLUSIVE")
    threading.Timer(3, locked.rollback).start()
    with caplog.at_level(logging.WARNING, "fmtl"), open_run("train") as run:
        run.log_metrics({"x": 1.0})
    assert "is locked by another program; waiting for it" in caplog.text
    assert mlflow.get_run(run.run_id).data.metrics == {"x": 1.0}
    locked.close()


def test_an_older_stores_tables_are_upgraded_with_a_word_and_a_copy(store, caplog):
    with sqlite3.connect(store / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '0584bdc529eb'")
        database.execute("DROP TABLE registered_model_aliases")
    database.close()
    engine = opening.create_engine(f"sqlite:///{store / 'mlflow.db'}")
    with caplog.at_level(logging.WARNING, "fmtl"):
        opening._say_upgrade(engine, f"sqlite:///{store / 'mlflow.db'}")
    engine.dispose()
    assert "made by an older MLflow; its tables are upgraded now (from 0584bdc529eb" in caplog.text
    assert (store / "mlflow.db.0584bdc529eb").read_bytes() == (store / "mlflow.db").read_bytes()


def test_a_moved_project_is_told_and_the_old_folder_is_not_made_again(tmp_path, empty_store, uri, monkeypatch):
    (tmp_path / "alice").mkdir()
    shutil.copy(empty_store, tmp_path / "alice" / "mlflow.db")
    monkeypatch.chdir(tmp_path / "alice")
    uri(f"sqlite:///{tmp_path}/alice/mlflow.db")
    with open_run("train"):
        pass
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alice").rename(tmp_path / "bob")
    monkeypatch.chdir(tmp_path / "bob")
    uri(f"sqlite:///{tmp_path}/bob/mlflow.db")
    with pytest.raises(EnvironmentFault, match=r"alice/mlruns/1, which is not there any more.*--experiment NAME"), \
            open_run("train"):  # fmt: skip
        raise AssertionError("work began")
    assert not (tmp_path / "alice").exists()
    with open_run("train", experiment="new") as run:
        assert tmp_path / "bob" in run.folder.parents


def test_a_per_cent_sign_in_a_path_is_one(tmp_path, monkeypatch):
    place = tmp_path / "p%20q"
    place.mkdir()
    code = (
        "import mlflow; from fmtl.tracking.run import open_run\n"
        "with open_run('train') as run: (run.folder / 'a.txt').write_text('x')\n"
        "print([f.path for f in mlflow.MlflowClient().list_artifacts(run.run_id)])"
    )
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["['a.txt']"], done.stderr
    assert [path.name for path in place.rglob("a.txt")] == ["a.txt"]


def test_passwords_are_in_no_message(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter22")
    text = "GET http://bob:s3cret@host/x failed, postgresql+psycopg2://u:p@ss@db/x, hunter22"
    assert redacted(text) == "GET http://***@host/x failed, postgresql+psycopg2://***@db/x, ***"
    assert redacted("mail bob@shop.example about http://shop.example/@bob") == (
        "mail bob@shop.example about http://shop.example/@bob"
    )
