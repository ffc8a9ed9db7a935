"""The benchmarks' own arithmetic, and their code at a small size."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def load(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_the_gpu_benchmark_runs_on_a_cpu(monkeypatch, tmp_path):
    gpu = load("gpu", monkeypatch)
    options = ["--device", "cpu", "--backbones", "resnet18", "--px", "32", "--batch-size", "8", "--photos", "24",
               "--repeats", "2", "--compile", "no", "--limit-size", "64"]  # fmt: skip
    figures = gpu.main([*options, "--json", str(tmp_path / "gpu.json")])
    assert json.loads((tmp_path / "gpu.json").read_text()) == figures
    rows = figures["backbones"]["resnet18@32"]
    assert set(rows) == {"channels last", "channels first"}
    assert all(row["images per second"]["median"] > 0 and row["steps of an epoch"] == 3 for row in rows.values())


def test_the_limit_is_operations_and_bytes_one_after_the_other(monkeypatch):
    gpu = load("gpu", monkeypatch)
    found = {"bf16 FLOP/s": 24.5e9 * 100, "bytes/s": 353e6 * 50}  # 10 ms and 20 ms per image of resnet50
    assert gpu.share_of_limit("resnet50", 1 / 0.03, found) == pytest.approx(1)
    assert gpu.share_of_limit("resnet50", 1 / 0.06, found) == pytest.approx(0.5)


@pytest.fixture
def work(monkeypatch, dataset, catalogue_table, tmp_path):
    """Eight training photos and eight others of the sample, and the module of the peers."""
    peers = load("peers", monkeypatch)
    items = [(dataset.table["path"][row], dataset.targets[row].tolist()) for row in range(16)]
    pixels = tmp_path / "pixels.npy"
    np.save(pixels, dataset.pixels(np.arange(16)))
    return peers, peers.Work(
        photos=str(catalogue_table.parent / "images"), train=items[:8], val=items[8:],
        num_classes=dataset.tasks.num_classes, backbone="resnet18", weights=None, px=64,
        batch_size=4, epochs=2, learning_rate=1e-3, seed=0, pixels=str(pixels),
    )  # fmt: skip


def test_the_notebooks_loop_and_ours_train_on_the_same_work(work, dataset, monkeypatch, tmp_path):
    peers, its = work
    assert peers.Work.from_json(its.to_json()) == its
    found = peers.notebook(its, "matched")
    ours = load("ours", monkeypatch).train(its, dataset.folder)
    for result in (found, ours):
        assert len(result["images_per_second"]) == 2 and min(result["images_per_second"]) > 0
        assert 0 < result["accuracy"] <= 1 and 0 < result["f1"] <= 1


def test_the_peers_scores_are_scikit_learns_over_known_targets(monkeypatch):
    peers = load("peers", monkeypatch)
    answers = peers.Answers()
    logits = torch.eye(3)[[0, 1, 2, 0]]
    answers.add({"a": logits}, {"a": torch.tensor([0, 1, -100, 2])})
    assert answers.scores() == pytest.approx(
        {"accuracy": accuracy_score([0, 1, 2], [0, 1, 0]),
         "f1": f1_score([0, 1, 2], [0, 1, 0], average="macro", zero_division=0)}
    )  # fmt: skip


def test_a_study_repeats_no_run_and_forgets_those_of_other_settings(monkeypatch, tmp_path):
    recipe, made = load("recipe", monkeypatch), []
    monkeypatch.setattr(recipe, "run", lambda settings, folder: made.append(settings) or {"test/avg/f1": 0.5})
    for epochs, seeds in ((2, (0, 1)), (2, (0, 1)), (3, (1,))):
        results = recipe.Results(tmp_path / "study.json", {})
        for seed in seeds:
            results.make("tuned", seed, {"epochs": epochs, "mode": "tuned"}, "folder")
    assert [(found["epochs"], found["seed"]) for found in made] == [(2, 0), (2, 1), (3, 1)]
    assert results.by_seed("tuned", "test/avg/f1") == {"1": 0.5}


def test_what_is_judged_on_a_trained_network_is_what_its_run_says(monkeypatch, dataset, store):
    evidence = load("evidence", monkeypatch)
    monkeypatch.setattr(evidence, "STRENGTHS", (0.1,))
    settings = {"backbone": "test_efficientnet", "weights": "none", "px": 32, "epochs": 2, "batch_size": 128,
                "precision": "fp32", "channels_last": False}  # fmt: skip
    found = evidence.train_and_judge(str(dataset.folder), settings)
    (journal,) = store.glob("runs/*/record/journal.jsonl")
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    (said,) = [line["values"] for line in lines if line["op"] == "metrics" and "test/avg/f1" in line["values"]]
    heads = found["heads"]
    refits = {"refit", "refit, rare weighted", "refit, rare weighted, colours"}
    assert set(heads) == {"best", "last", "mirror", "decode"} | refits
    for split, prefix in (("val", "best/val"), ("test", "test")):
        for name in ("accuracy", "f1"):
            assert heads["best"][split][name] == pytest.approx(said[f"{prefix}/avg/{name}"], abs=1e-6)
    assert heads["best"]["val"]["refined_loss"] == pytest.approx(said["best/val/refined_loss"], rel=1e-3)
    assert found["best_epoch"] == said["best/epoch"] and found["images"]["test"] == len(dataset.rows("test"))
    score = lambda which: heads[which]["val"]["accuracy"] + heads[which]["val"]["f1"]  # noqa: E731
    assert score("decode") >= score("last")  # the share is chosen on val, and 0 is among them
    assert json.loads(json.dumps(found)) == found
