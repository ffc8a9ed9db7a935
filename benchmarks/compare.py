"""A leaderboard of the newest of 20 datasets beside MLflow's own scan of all runs, in turn, each in its own process.

    python benchmarks/compare.py [--runs 10000] [--datasets 20] [--metrics 40] [--photos 600] [--repeats 5]

The store is SQLite, drawn for this: so many completed train runs, spread evenly over the datasets, with their last
metrics; those of the newest dataset have predictions of so many test photos. Ours: ``fmtl compare`` without its page,
that is, the runs of the newest dataset, their ranking, and the leads of the first 100 rows with intervals. Theirs:
``mlflow.search_runs`` over all. Seconds and the peak of memory are of the work, imports left out.
"""

import argparse
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

LATEST = 'INSERT INTO latest_metrics ("key", value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, ?, ?)'
CLASSES = {"Gender": 5, "Category": 7, "Type": 45, "Colour": 35, "Season": 4, "Usage": 8}


# -- the store --------------------------------------------------------------------------------------------------------


def draw_store(folder: Path, options: argparse.Namespace) -> str:
    """A store of runs, written as MLflow writes them but in one go. Returns its address."""
    import mlflow

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    experiment = mlflow.create_experiment("fmtl", artifact_location=(folder / "artifacts").as_uri())
    rng = np.random.default_rng(0)
    names = ["best/val/avg/f1", "test/avg/f1", "test/avg/accuracy", "test/avg/precision", "test/avg/recall"]
    names += [f"test/{task}/{kind}" for task in CLASSES for kind in ("f1", "accuracy", "loss")]
    names += [f"val/extra/{n}" for n in range(options.metrics - len(names))]
    each = options.runs // options.datasets
    with sqlite3.connect(folder / "mlflow.db") as base:
        for n in range(options.runs):
            data, run_id = n // each, f"{n:032x}"
            at, quality = 1_700_000_000_000 + n * 1000, float(rng.uniform(0.3, 0.9))
            place = (folder / "artifacts" / run_id / "artifacts").as_uri()
            base.execute(
                "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, "
                "start_time, end_time, deleted_time, source_version, lifecycle_stage, artifact_uri, experiment_id) "
                "VALUES (?, ?, 'LOCAL', '', '', 'me', 'FINISHED', ?, ?, NULL, '', 'active', ?, ?)",
                (run_id, f"run-{n}", at, at + 900, place, experiment),
            )
            values = [
                (name, float(v), at, 0, 0, run_id) for name, v in zip(names, _metrics(rng, quality, names), strict=True)
            ]
            base.executemany(
                'INSERT INTO metrics ("key", value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, ?, ?)',
                values,
            )
            base.executemany(
                LATEST,
                values,
            )
            tags = {"fmtl.kind": "train", "fmtl.outcome": "completed", "fmtl.data": f"{data:032x}",
                    "mlflow.runName": f"run-{n}", "fmtl.model_id": f"m-{n:032x}"}  # fmt: skip
            params = {"backbone": f"net{n % 7}", "mode": ("tuned", "baseline")[n % 2], "epochs": str(n % each),
                      "seed": "0", "data": "prepared", **{f"setting{k}": "auto" for k in range(40)}}  # fmt: skip
            for table, pairs in (("tags", tags), ("params", params)):
                base.executemany(
                    f'INSERT INTO {table} ("key", value, run_uuid) VALUES (?, ?, ?)',
                    [(key, value, run_id) for key, value in pairs.items()],
                )
            if data == options.datasets - 1:
                _write_predictions(folder / "artifacts" / run_id / "artifacts", quality, options.photos, n)
    return uri


def _metrics(rng: np.random.Generator, quality: float, names: list[str]) -> np.ndarray:
    return np.clip(quality + rng.normal(0, 0.02, len(names)), 0, 1)


def _write_predictions(folder: Path, quality: float, photos: int, seed: int) -> None:
    import pandas as pd

    truth, rng = np.random.default_rng(0), np.random.default_rng(seed)
    (folder / "predictions").mkdir(parents=True)
    tasks = [{"name": t, "slug": t, "classes": [f"{t} {k}" for k in range(size)]} for t, size in CLASSES.items()]
    (folder / "tasks.json").write_text(json.dumps(tasks))
    table: dict[str, Any] = {"id": [str(n) for n in range(photos)], "path": [f"{n}.jpg" for n in range(photos)]}
    table["duplicate group"] = np.arange(photos) // 2
    for task in tasks:
        target = truth.integers(0, len(task["classes"]), photos)
        said = np.where(rng.random(photos) < quality, target, rng.integers(0, len(task["classes"]), photos))
        for name, values in (("", said), ("/target", target)):
            table[f"{task['name']}{name}"] = [task["classes"][k] for k in values]
        table[f"{task['name']}/confidence"] = rng.random(photos)
        table[f"{task['name']}/probs"] = list(rng.random((photos, len(task["classes"])), dtype=np.float32))
    pd.DataFrame(table).to_parquet(folder / "predictions" / "test.parquet")


# -- both sides, each in a process of its own -------------------------------------------------------------------------


def ours() -> dict[str, Any]:
    from fmtl.commands.choosing.comparing import compare_rows
    from fmtl.commands.choosing.runs import find, rank_runs
    from fmtl.metric_names import CHOSEN_BY
    from fmtl.tracking import store

    store.search_runs("train", where="tags.`fmtl.data` = ''", most=1)  # which opens the store
    before, since = _peak(), time.monotonic()
    found = find(experiment=None)
    board = rank_runs(found.records, metric=CHOSEN_BY)
    ((_, rows),) = board.groups
    compared = compare_rows(rows, {r.run_id: r for r in found.records}, metric="f1", files={})
    assert not isinstance(compared, str) and len(compared.standings) == min(len(rows), 100), compared
    return {"runs": len(rows), "others": len(found.others), **_spent(before, since)}


def theirs() -> dict[str, Any]:
    import mlflow

    mlflow.search_runs(search_all_experiments=True, max_results=1)
    before, since = _peak(), time.monotonic()
    table = mlflow.search_runs(search_all_experiments=True, max_results=1_000_000)
    return {"runs": len(table), **_spent(before, since)}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _spent(before: float, since: float) -> dict[str, float]:
    return {"seconds": time.monotonic() - since, "mb": _peak() - before, "mb of the process": _peak()}


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        print(json.dumps({"ours": ours, "theirs": theirs}[sys.argv[2]]()))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("runs", 10_000), ("datasets", 20), ("metrics", 40), ("photos", 600), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        uri = draw_store(Path(temporary), options)
        print(f"{options.runs} runs of {options.datasets} datasets, {options.metrics} metrics each", flush=True)
        found: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
        for _ in range(options.repeats):
            for side, seen in found.items():
                done = subprocess.run(
                    [sys.executable, str(Path(__file__).resolve()), "one", side], cwd=temporary, capture_output=True,
                    text=True, check=False, env=os.environ | {"MLFLOW_TRACKING_URI": uri},
                )  # fmt: skip
                if done.returncode:
                    raise RuntimeError(done.stderr[-2000:])
                seen.append(json.loads(done.stdout.splitlines()[-1]))
        for side, seen in found.items():
            told = ", ".join(f"{k} {np.median([row[k] for row in seen]):.4g}" for k in seen[0])
            print(f"{side}: {told}")
        for kind in ("seconds", "mb", "mb of the process"):
            ratios = [a[kind] / b[kind] for a, b in zip(found["ours"], found["theirs"], strict=True)]
            low, middle, high = np.percentile(ratios, [0, 50, 100])
            print(f"{kind}, ours over MLflow's: {middle:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
