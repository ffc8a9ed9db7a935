"""What a notebook's author finds after a training: their own process, and what was trained whatever ended it."""

import asyncio
import json
import logging
import os
import re
import threading
from pathlib import Path

import mlflow
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

import fmtl
from fmtl.commands.predict import predict
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.errors import DataError, EnvironmentFault, UsageError
from fmtl.settings.schema import PredictSettings
from fmtl.training import checkpoints

FAST = {"weights": "none", "precision": "fp32", "channels_last": True, "epochs": 1, "device": "cpu"}


class Noise(Dataset):
    def __init__(self, num, side=(32, 32), odd=None, fault=None):
        self.num, self.side, self.odd, self.fault = num, side, odd, fault

    def __len__(self):
        return self.num

    def __getitem__(self, i):
        if self.fault is not None and self.fault(i):
            raise OSError("[Errno 116] Stale file handle")
        return torch.rand(3, *self.side), {"colour": 3 if i == self.odd else i % 3}


def run(model="resnet18", num_classes=None, names=("train", "val", "test"), **more):
    sizes = {"train": 24, "val": 8, "test": 8}
    given = {f"{name}_loader": DataLoader(Noise(sizes[name]), 8) for name in names}
    settings = FAST | {"mode": "baseline", "mlflow": False} | given | more
    return fmtl.train_and_evaluate_model(model, num_classes or {"colour": 3}, **settings)


def test_random_numbers_go_on_as_if_there_had_been_no_training():
    after = []
    for train in (run, lambda: None):
        torch.manual_seed(7)
        np.random.seed(7)
        train()
        after.append((torch.rand(3).tolist(), np.random.rand(3).tolist()))
    assert after[0] == after[1]


def variables():
    return {name: value for name, value in os.environ.items() if not name.startswith("_MLFLOW")}  # MLflow's own


def experiments_of(*run_ids):
    return [mlflow.get_experiment(mlflow.get_run(run_id).info.experiment_id).name for run_id in run_ids]


def test_environment_log_levels_and_current_experiment_stay(store):
    mlflow.set_experiment("mine")
    environment, levels = variables(), {n: logging.getLogger(n).level for n in ("mlflow", "alembic", "fmtl", "")}
    result = run(mlflow=True)
    assert variables() == environment
    assert {name: logging.getLogger(name).level for name in levels} == levels
    with mlflow.start_run() as own:
        pass
    assert experiments_of(result["run_id"], own.info.run_id) == ["mine", "mine"]


def test_an_experiment_that_was_not_chosen_is_not_chosen_for_the_user(store):
    result = run(mlflow=True)
    with mlflow.start_run() as own:
        pass
    names = [
        mlflow.get_experiment(mlflow.get_run(r).info.experiment_id).name for r in (result["run_id"], own.info.run_id)
    ]
    assert names == ["fmtl", "Default"]


def test_inside_the_users_own_run_the_training_is_a_child_and_the_run_goes_on(store):
    mlflow.autolog(disable=False, silent=True)
    try:
        with mlflow.start_run() as own:
            result = run(mlflow=True)
            assert mlflow.active_run().info.run_id == own.info.run_id
            mlflow.log_metric("mine", 1.0)
    finally:
        mlflow.autolog(disable=True, silent=True)
    child = mlflow.get_run(result["run_id"])
    assert child.data.tags["mlflow.parentRunId"] == own.info.run_id
    assert child.info.experiment_id == own.info.experiment_id
    assert mlflow.get_run(own.info.run_id).data.metrics == {"mine": 1.0}


def test_it_runs_in_a_thread_and_in_a_running_event_loop():
    found = []
    thread = threading.Thread(target=lambda: found.append(run()))
    thread.start()
    thread.join()

    async def cell():
        return run()

    found.append(asyncio.run(cell()))
    assert [result["best_epoch"] for result in found] == [1, 1]


def test_workers_of_a_loader_are_the_users(tmp_path):
    loader = DataLoader(Noise(24), 8, num_workers=2, persistent_workers=True)
    assert run(train_loader=loader)["best_epoch"] == 1


@pytest.mark.parametrize("which", ["test", "val", "train"])
def test_what_was_trained_is_kept_when_a_loader_fails_later(store, tmp_path, which, capsys):
    """In the test split at its end; in the others after the first epoch."""
    seen = []

    def fault(i):
        seen.append(i)
        return len(seen) > {"test": 8 + 8, "val": 8 + 8, "train": 8 + 24}[which]

    sizes = {"test": 24, "val": 8, "train": 24}
    with pytest.raises(OSError, match="Stale") as caught:
        run(**{f"{which}_loader": DataLoader(Noise(sizes[which], fault=fault), 8)}, epochs=2)
    result = caught.value.result
    assert len(result["history"]) == (2 if which == "test" else 1)
    best = checkpoints.load(Path(result["checkpoints"]["best"]))
    assert best.epoch == result["best_epoch"] and best.metrics["val/loss"] == min(
        row["val/loss"] for row in result["history"]
    )
    assert result["checkpoints"]["best"] in capsys.readouterr().out


def test_a_class_that_first_shows_in_the_last_test_batch_costs_no_epoch(store):
    with pytest.raises(DataError, match="test_loader, batch 3, image 5: colour: target 3") as caught:
        run(test_loader=DataLoader(Noise(24, odd=20), 8), save_checkpoints=True)
    assert caught.value.result["checkpoints"] == {w: f"checkpoints/resnet18_baseline_{w}.pt" for w in ("best", "last")}


def test_finished_runs_of_an_analysis_stay_whatever_a_later_one_does(store, monkeypatch, capsys):
    for error, status in ((OSError("disk"), "disk"), (KeyboardInterrupt(), "interrupted"), (ZeroDivisionError(), "")):
        begun = []

        def loss(logits, targets, begun=begun, error=error):
            if any("mobilenet" in name for name in begun):
                raise error
            return nn.functional.cross_entropy(logits, targets)

        original = fmtl.notebook.train_and_evaluate_model

        def watched(name, *args, begun=begun, original=original, **more):
            begun.append(name)
            return original(name, *args, **more)

        monkeypatch.setattr(fmtl.notebook, "train_and_evaluate_model", watched)
        given = {f"{s}_loader": DataLoader(Noise(16), 8) for s in ("train", "val", "test")}
        found = fmtl.run_complete_model_analysis(
            {"colour": 3}, **given, criterions=loss, backbones=["resnet18", "mobilenet_v3_small"], modes="baseline",
            mlflow=False, **FAST,
        )  # fmt: skip
        monkeypatch.undo()
        assert list(found["runs"]) == [("resnet18", "baseline")]
        assert found["table"]["status"].iloc[0] == "ok" and status in found["table"]["status"].iloc[1]
        with pytest.raises(UsageError, match="networks of an analysis are not kept"):
            found["runs"]["resnet18", "baseline"]["predict"](torch.rand(1, 3, 32, 32))


def test_new_images_are_labelled_by_the_network_just_trained(store, tmp_path):
    how = Preprocess(32, "stretch", "#ffffff", 32, (0.5,) * 3, (0.5,) * 3)
    labels = ["red", "blue", "green"]
    result = run(classes={"colour": labels}, preprocess=how, num_classes={"colour": 3}, save_checkpoints=True)
    assert json.loads(json.dumps(result)) == result
    images = torch.rand(5, 3, 32, 32)
    found = result["predict"](images)
    assert list(found) == ["colour", "colour/confidence"] and set(found["colour"]) <= set(labels)
    pd.testing.assert_frame_equal(result["predict"](DataLoader(images, 2)), found)
    pd.testing.assert_frame_equal(result["predict"](images[0]), found.iloc[:1])
    pixels = (images[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    of_file = result["predict"]([tmp_path / "a.png"])
    normalised = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - 0.5) / 0.5
    assert (
        of_file["status"].tolist() == ["ok"]
        and of_file["colour"].tolist() == result["predict"](normalised)["colour"].tolist()
    )
    of_checkpoint = predict(PredictSettings(model=result["checkpoints"]["best"], images="a.png", out="p.csv"))
    assert of_checkpoint["colour"].tolist() == of_file["colour"].tolist()
    assert of_checkpoint["colour/confidence"].tolist() == pytest.approx(of_file["colour/confidence"].tolist(), abs=1e-6)
    for given in (3, [[1, 2]], torch.zeros(2, 2)):
        with pytest.raises(DataError, match="predict: expected"):
            result["predict"](given)


def test_a_checkpoint_that_does_not_say_how_photos_become_input_says_what_was_assumed(store, caplog):
    result = run(save_checkpoints=True)
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save("a.png")
    found = predict(PredictSettings(model=result["checkpoints"]["best"], images="a.png", out="p.csv"))
    assert found["status"].tolist() == ["ok"]
    assert "assumed: stretched to 32 px, normalised as for resnet18's weights" in caplog.text


def test_images_need_not_be_square_where_the_network_takes_them(store):
    wide = {f"{name}_loader": DataLoader(Noise(16, (32, 24)), 8) for name in ("train", "val", "test")}
    result = run(**wide, mlflow=True)
    assert mlflow.get_run(result["run_id"]).data.params["image_size"] == "32 x 24"
    with pytest.raises(DataError, match="vit_tiny_patch16_224 does not take images of 32 x 16"):
        run("vit_tiny_patch16_224", **{k: DataLoader(Noise(16, (32, 16)), 8) for k in wide})


def test_a_batch_of_another_size_is_named_when_the_network_refuses_it(store):
    class Two(list):
        pass

    batches = Two([(torch.rand(4, 3, side, side), {"colour": torch.arange(4) % 3}) for side in (32, 48)])
    with pytest.raises(DataError, match="train_loader, batch 2: images of 48 x 48, the first were 32 x 32: "):
        run("vit_tiny_patch16_224", train_loader=batches)
    assert run(train_loader=batches)["best_epoch"] == 1  # a CNN takes it


def test_where_checkpoints_can_not_go_is_said_first(store):
    with pytest.raises(EnvironmentFault, match="checkpoint_folder: .*name a folder that can be written"):
        run(save_checkpoints=True, checkpoint_folder="/proc/none")
    assert run(save_checkpoints=True, checkpoint_folder="deep/er")["checkpoints"]["best"].startswith("deep/er/resnet18")


def test_parameters_without_a_say_are_not_logged(store):
    for criterions, logged in ((nn.CrossEntropyLoss(), False), (None, True)):
        params = mlflow.get_run(run(mlflow=True, mode="tuned", criterions=criterions)["run_id"]).data.params
        assert ("class_weights" in params) is logged and ("label_smoothing" in params) is logged


def test_the_attributes_own_names_are_the_keys_of_the_history(store):
    names = ["Product Type", "Größe"]
    batches = [(torch.rand(4, 3, 32, 32), {name: torch.arange(4) % 3 for name in names})]
    given = {f"{name}_loader": batches for name in ("train", "val", "test")}
    result = run(num_classes=dict.fromkeys(names, 3), **given)
    assert all(f"val/{name}/f1" in result["history"][0] and name in result["val"] for name in names)


def test_the_first_line_and_a_last_batch_of_one_are_said_before_the_training(capsys):
    with pytest.raises(DataError, match="BatchNorm"):
        run(train_loader=DataLoader(Noise(17), 8))
    said = capsys.readouterr().out.splitlines()
    assert "train_loader: its last batch has 1 image" in said[0]
    assert said[1] == "resnet18, baseline, cpu: 1 epochs of 3 batches of 8, 32 x 32 px, 1 attributes"


CELLS = (
    """
import os, signal, torch, fmtl
from torch.utils.data import DataLoader

class D(torch.utils.data.Dataset):
    seen, stop = 0, 300
    def __len__(self): return 24
    def __getitem__(self, i):
        D.seen += 1
        if D.seen == D.stop: os.kill(os.getpid(), signal.SIGINT)
        return torch.rand(3, 32, 32), {"colour": i % 3}

def train(epochs):
    return fmtl.train_and_evaluate_model(
        "resnet18", {"colour": 3}, *[DataLoader(D(), 8)] * 3, "cpu", epochs=epochs, weights="none", mlflow=False,
        precision="fp32", channels_last=False,
    )
""",
    "train(100)",
    "r = train(2)\nprint(r['best_epoch'] > 0)",
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's own libraries
def test_in_a_kernel_a_training_is_interrupted_and_run_again_under_one_line(tmp_path):
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, allow_errors=True, resources=resources).execute()
    first, interrupted, again = (cell.outputs for cell in notebook.cells)
    assert first == []
    assert [output.ename for output in interrupted if output.output_type == "error"] == ["KeyboardInterrupt"]
    assert list((tmp_path / "checkpoints").glob("resnet18_tuned_*_best.pt"))
    shown = [output for output in again if output.output_type != "stream"]
    assert [re.fullmatch(r"\d+ s in all", output["data"]["text/plain"]) is not None for output in shown] == [True]
    printed = "".join(output["text"] for output in again if output.output_type == "stream")
    assert printed.count("epoch ") == 2 and printed.endswith("True\n")


def test_what_was_trained_is_kept_when_its_record_fails_at_the_end(store, monkeypatch):
    def fail(*args, **more):
        raise OSError("no space for pictures")

    monkeypatch.setattr(fmtl.notebook.run_page, "write", fail)
    with pytest.raises(OSError, match="no space") as caught:
        run(mlflow=True)
    assert checkpoints.load(Path(caught.value.result["checkpoints"]["best"])).epoch == 1


def test_what_one_network_refuses_another_may_take(store):
    given = {f"{name}_loader": DataLoader(Noise(16, (32, 16)), 8) for name in ("train", "val", "test")}
    found = fmtl.run_complete_model_analysis(
        {"colour": 3}, **given, backbones=["vit_tiny_patch16_224", "resnet18"], modes="baseline", mlflow=False, **FAST
    )
    assert list(found["runs"]) == [("resnet18", "baseline")]
    assert "does not take images of 32 x 16" in found["table"]["status"].iloc[1]


def test_labels_that_are_listed_and_others_that_are_named_come_together(store):
    from fmtl.commands.bringing import brought

    batches = [(torch.rand(4, 3, 32, 32), {"colour": torch.arange(4) % 2, "shape": torch.arange(4) % 2})]
    found = brought.check(
        {"backbone": "resnet18", "weights": "none"}, asked=brought.Asked({"colour": ["red", "blue"], "shape": 2}),
        loaders=dict.fromkeys(("train", "val", "test"), batches), device="cpu", criterions=None,
        classes={"shape": ["round", "flat"]}, preprocess=None, say=print,
    )  # fmt: skip
    assert [task.classes for task in found.tasks] == [("red", "blue"), ("round", "flat")] and found.named
