"""A server follows the champion: through each move of the alias every request is answered by one model or the other."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import mlflow
import pytest
from kit.exported import SMALL
from kit.servers import Live, coded, form, started

from fmtl.cli import main
from fmtl.commands.train import train
from fmtl.settings.schema import TrainSettings


@pytest.fixture
def champions(store, dataset):
    """Two registered versions of ``shop``, the first of which is the champion."""
    runs = [train(TrainSettings(data=str(dataset.folder), **SMALL, seed=seed)) for seed in (0, 1)]
    for run_id in reversed(runs):
        assert main(["register", "--run", run_id, "--name", "shop"]) == 0
    return mlflow.MlflowClient()


@pytest.mark.slow
def test_the_champion_of_the_day_answers(champions, store, dataset, photos):
    options = ["--model", "models:/shop@champion", "--port", "0", "--device", "cpu"]
    follow = ["--follow", "true", "--follow-seconds", "0.3"]
    command = [sys.executable, "-m", "fmtl", "serve", *options, *follow]
    with started(command) as (process, port):
        live = Live(process, port, store)
        stop, said = threading.Event(), []

        def ask():
            while not stop.is_set():
                status, _, answer = live.post({"images": [coded(photos[0])]})
                row = answer["predictions"][0] if status == 200 else {}
                said.append((status, answer.get("model", {}).get("version"), tuple(sorted(row.items(), key=str))))

        with ThreadPoolExecutor(3) as pool:
            asking = [pool.submit(ask) for _ in range(3)]
            for version in ("1", "2", "1"):
                champions.set_registered_model_alias("shop", "champion", version)
                end = time.monotonic() + 60
                while live.request("GET", "/info")[2]["model"]["version"] != version:
                    assert time.monotonic() < end
                    time.sleep(0.1)
                time.sleep(0.5)
            stop.set()
            for found in asking:
                found.result()
        assert {status for status, *_ in said} == {200}
        rows = {version: {row for _, v, row in said if v == version} for version in ("1", "2")}
        assert len(rows["1"]) == len(rows["2"]) == 1 and rows["1"] != rows["2"]  # each says the same all the time
        status, _, found = live.request("POST", "/look", *form([("a.png", photos[0])]))
        assert status == 200 and set(found["maps"]) == {task.slug for task in dataset.tasks if not task.is_set}
        assert live.end() == 0


@pytest.mark.slow
def test_only_what_moves_is_followed(champions, store, capsys):
    assert main(["serve", "--model", "models:/shop/1", "--follow", "true", "--port", "0"]) == 2
    assert "models:/NAME@ALIAS" in capsys.readouterr().err
