"""Trainings that are killed at every kind of instant, and go on: to the same bits, with every metric once.

    python tests/commands/kills.py [--points 400] [--json docs/benchmarks/kills.json]

Each is a real ``fmtl train`` that writes a checkpoint after every step. Half of them have a local store, half an MLflow
server. An instant is an operation of ``kit.operations``: a step, a file opened, a part of a checkpoint written, a wait
for the disk, a rename, a link, a removal.
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from kit.forks import Zygote
from kit.outages import Server

from fmtl.catalogue import sample
from fmtl.metric_names import PACE
from fmtl.tracking.record.folder import RunFolder
from fmtl.training import checkpoints

OPTIONS = [
    "--weights", "none", "--backbone", "test_efficientnet", "--px", "32", "--batch-size", "16", "--gallery", "false",
    "--extra-plots", "false", "--precision", "fp32", "--channels-last", "false", "--epochs", "2", "--ema-decay", "0.9",
    "--mixup", "0.2", "--checkpoint-minutes", "1e-9",
]  # fmt: skip


class World:
    """A prepared sample, a store of either kind, and what an unbroken training gives.

    Args:
        server: None for local stores.
    """

    def __init__(self, root: Path, zygote: Zygote, data: Path, server: Server | None, store: Path):
        self.root, self.zygote, self.data, self.server, self.store = root, zygote, data, server, store
        self.num = 0
        log, self.whole = self._folder("unbroken") / "operations", self.root / "unbroken"
        code, said = self.train(self.whole, fault={"fault": "none", "at": 0, "log": str(log)})
        if code:
            raise RuntimeError(said)
        self.operations = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]
        self.expected = content(place_of(self.whole))

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir()
        if self.server is None:
            shutil.copy(self.store, folder / "mlflow.db")
        return folder

    def uri(self, folder: Path) -> str:
        return f"http://127.0.0.1:{self.server.port}" if self.server else f"sqlite:///{folder}/mlflow.db"

    def train(self, folder: Path, *more: str, fault: dict[str, Any] | None = None) -> tuple[int, str]:
        """Exit code and output."""
        self.num += 1
        log = folder / f"said-{self.num}.txt"
        argv = ["train", *more] if more else ["train", "--data", str(self.data), *OPTIONS]
        code = self.zygote.run(argv, folder, log, env={"MLFLOW_TRACKING_URI": self.uri(folder)}, fault=fault)
        return code, log.read_text()

    def trial(self, at: int, fault: str = "kill") -> list[str]:
        """What is wrong with a training that is killed at an operation and goes on."""
        folder = self._folder(f"{fault}-{at}")
        log = folder / "operations"
        code, said = self.train(folder, fault={"fault": fault, "at": at, "log": str(log)})
        if code == 0:  # a thread had fewer operations this time
            return self.differences(folder)
        faults = [] if code == {"kill": -9, "exit": 9}[fault] else [f"exit {code} of the killed one: {said[-200:]}"]
        steps = sum(line.endswith(" step") for line in log.read_text().splitlines())
        code, said = self.train(folder, "--resume", "last")
        if code == 3 and ("there is no training yet" in said or "train it anew" in said):
            code, said = self.train(folder)
        elif code == 0 and (lost := _steps_lost(said, steps)) > 1:
            faults.append(f"{lost} steps lost")
        if code:
            return [*faults, f"exit {code}: {said[-300:]}"]
        faults += self.differences(folder)
        shutil.rmtree(folder)
        return faults

    def differences(self, folder: Path) -> list[str]:
        """Between a folder's training and the unbroken one; and between its record and its store."""
        place = place_of(folder)
        found = content(place)
        faults = [f"{name} differs" for name in self.expected if found[name] != self.expected[name]]
        client = mlflow.MlflowClient(self.uri(folder))
        run = client.get_run(run_of(place))
        if (run.info.status, run.data.tags["fmtl.outcome"]) != ("FINISHED", "completed"):
            faults.append(f"status {run.info.status}, outcome {run.data.tags['fmtl.outcome']}")
        if run.data.tags.get("fmtl.resume", "exact") != "exact":
            faults.append("it is not called exact")
        for name in run.data.metrics:
            if not name.startswith("system/"):
                steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
                if len(set(steps)) < len(steps):
                    faults.append(f"{name} has a point twice")
        missing = set(self.expected["metric names"]) - {m for m in run.data.metrics if not m.startswith("system/")}
        return faults + [f"the store lacks {name}" for name in sorted(missing)]


def _steps_lost(said: str, done: int) -> int:
    """Of those that were done when it was killed, how many were trained again."""
    for line in said.splitlines():
        if line.startswith("it goes on after epoch "):
            epoch, _, rest = line.removeprefix("it goes on after epoch ").partition(", ")
            return done - (int(epoch) * STEPS + (int(rest.split()[0]) if rest else 0))
    return 0 if "begins anew" not in said else done


STEPS = 7  # of an epoch of the sample


def place_of(folder: Path) -> RunFolder:
    """The one run of a folder."""
    found = [*folder.glob("runs/*/record/journal.jsonl"), *folder.glob("mlruns/*/*/record/journal.jsonl")]
    return RunFolder.at(max(found, key=lambda path: path.stat().st_mtime).parent.parent)


def run_of(place: RunFolder) -> str:
    (noted,) = place.record.glob("delivered-*.json")
    return json.loads(noted.read_text())["run_id"]


def content(place: RunFolder) -> dict[str, Any]:
    """All that must be the same: weights, optimizer, generators, history, best weights, predictions, metrics."""
    found = {}
    for which in ("best", "last"):
        (path,) = (place.files / "checkpoints").glob(f"*_{which}.pt")
        saved = checkpoints.load(path)
        training = {k: v for k, v in saved.training.items() if k != "machine"}
        if "history" in training:
            training["history"] = [without_timing(row) for row in training["history"]]
        found[which] = digest([saved.model, saved.epoch, without_timing(saved.metrics), training])
    table = pd.read_parquet(place.files / "predictions" / "test.parquet")
    found["predictions"] = digest(
        [np.stack(table[name]) if "/probs" in name else table[name].map(_plain).tolist() for name in table]
    )
    metrics: dict[str, Any] = {}
    for line, _ in place.journal().lines():
        if line["op"] == "metrics" and not any(name.startswith("system/") for name in line["values"]):
            metrics |= {f"{name} at {line['step']}": value for name, value in without_timing(line["values"]).items()}
    found["metrics"] = digest(sorted(metrics.items()))
    found["metric names"] = sorted({name.split(" at ")[0] for name in metrics})
    return found


def _plain(cell: object) -> object:
    return cell.tolist() if isinstance(cell, np.ndarray) else cell  # the values of a set


def without_timing(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in PACE}


def digest(thing: Any) -> str:
    found = hashlib.sha256()
    for part in _parts(thing):
        found.update(part)
    return found.hexdigest()


def _parts(thing: Any) -> Iterator[bytes]:
    if isinstance(thing, torch.Tensor):
        yield thing.cpu().contiguous().numpy().tobytes()
    elif isinstance(thing, np.ndarray):
        yield thing.tobytes()
    elif isinstance(thing, dict):
        for name, value in thing.items():
            yield repr(name).encode()
            yield from _parts(value)
    elif isinstance(thing, list | tuple):
        for value in thing:
            yield from _parts(value)
    else:
        yield repr(thing).encode()


def spread(operations: list[str], num: int) -> list[int]:
    """So many numbers of operations, of each kind about as many, evenly spread."""
    by_kind: dict[str, list[int]] = {}
    for number, what in enumerate(operations, 1):
        by_kind.setdefault(what.split()[0], []).append(number)
    chosen: list[int] = []
    kinds = sorted(by_kind.values(), key=len)
    for i, numbers in enumerate(kinds):
        share = min(len(numbers), (num - len(chosen)) // (len(kinds) - i))
        chosen += [numbers[round(k * (len(numbers) - 1) / max(share - 1, 1))] for k in range(share)]
    return sorted(chosen)


def prepare(zygote: Zygote, root: Path) -> tuple[Path, Path]:
    """A small dataset of single labels, a set, and attributes that some products do not have; and an empty store."""
    store = root / "empty.db"
    options = ["prepare", "--table", "sample", "--px", "32", "--limit", "150", "--out", str(root / "data")]
    options += ["--sets", "auto", "--applies", json.dumps(sample.APPLIES)]
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{root}/prepare.db"}
    if zygote.run(options, root, root / "prepare.log", env=env):
        raise RuntimeError((root / "prepare.log").read_text())
    mlflow.MlflowClient(f"sqlite:///{store}").search_experiments()
    return root / "data", store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=400)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory(prefix="fmtl-kills-") as temporary, Zygote() as zygote:
        root = Path(temporary)
        data, store = prepare(zygote, root)
        for kind in ("a local store", "an MLflow server"):
            here = root / kind.split()[-1]
            here.mkdir()
            server = Server(here / "server") if "server" in kind else None
            if server:
                server.start()
            try:
                world = World(here, zygote, data, server, store)
                for at in spread(world.operations, asked.points // 2):
                    faults = world.trial(at)
                    what = world.operations[at - 1]
                    results[f"{kind}, {at}: {what}"] = {"what": what.split()[0], "faults": faults}
                    if faults:
                        print(f"{kind}, operation {at} ({what}): {'; '.join(faults)}", flush=True)
            finally:
                if server:
                    server.kill()
    kinds = sorted({found["what"] for found in results.values()})
    summary = {
        "kills": len(results),
        "to the same bits": sum(not found["faults"] for found in results.values()),
        "by kind": {kind: sum(found["what"] == kind for found in results.values()) for kind in kinds},
    }
    print(json.dumps(summary))
    if asked.json:
        asked.json.write_text(json.dumps(summary, indent=1) + "\n")
    sys.exit(summary["kills"] != summary["to the same bits"])


if __name__ == "__main__":
    main()
