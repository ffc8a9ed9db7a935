"""Sixty trainings whose server goes away, hangs, refuses, breaks off, dies or is full: what is lost, and what is said.

    python tests/tracking/reliability.py [--only NAME] [--seeds 3] [--json docs/benchmarks/reliability.json]

Each is a real ``fmtl train`` against a real MLflow server behind a proxy. Ten outages begin at two moments, in the
middle of the training or when its model is to be uploaded. Afterwards the cause is mended, ``fmtl sync`` runs once, and
every metric point, file and state of the store is compared with the run's folder.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from kit.forks import Zygote
from kit.outages import HEALTHY, Proxy, Server

MOMENTS = {"middle": "epoch 3", "upload": "model"}
OPTIONS = [
    "--weights", "none", "--backbone", "resnet18", "--px", "32", "--batch-size", "32", "--gallery", "false",
    "--extra-plots", "false", "--precision", "fp32", "--channels-last", "false", "--epochs", "8",
]  # fmt: skip
SECONDS_TO_EXIT = 30
COUNTED = ("points", "points_lost", "points_twice", "files", "files_lost")


class Trial:
    """One training and its outage."""

    def __init__(self, zygote: Zygote, server: Server, data: Path, folder: Path, seed: int):
        self.zygote, self.server, self.data, self.folder, self.seed = zygote, server, data, folder, seed
        self.proxy = Proxy(server.port, seed)
        self.proxy.open()
        self.env = {"MLFLOW_TRACKING_URI": self.proxy.uri}
        self.killed = False
        self.pid = 0

    # the outages: what happens at the moment; what is returned mends it

    def away_5_s(self) -> Callable[[], None]:
        self.proxy.close()
        time.sleep(5)
        self.proxy.open()
        return lambda: None

    def away_60_s(self) -> Callable[[], None]:
        self.proxy.close()
        time.sleep(60)
        self.proxy.open()
        return lambda: None

    def away_to_the_end(self) -> Callable[[], None]:
        self.proxy.close()
        return self.proxy.open

    def _mode(self, mode: str) -> Callable[[], None]:
        self.proxy.mode = mode
        return lambda: setattr(self.proxy, "mode", HEALTHY)

    def hangs(self) -> Callable[[], None]:
        return self._mode("hang")

    def refuses_large_files_413(self) -> Callable[[], None]:
        self.proxy.most_bytes = 1_000_000
        return self._mode("413")

    def forgets_the_password_401(self) -> Callable[[], None]:
        return self._mode("401")

    def answers_503_to_a_quarter(self) -> Callable[[], None]:
        return self._mode("flaky")

    def resets_connections(self) -> Callable[[], None]:
        return self._mode("reset")

    def is_killed_or_the_trainer(self) -> Callable[[], None]:
        if self.seed % 2:
            os.killpg(self.pid, signal.SIGKILL)
            self.killed = True
        else:
            self.server.kill()
            time.sleep(2)
            self.server.start()
        return lambda: None

    def has_a_full_disk(self) -> Callable[[], None]:
        filler = self.server.folder / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"\0" * 65536)
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            while True:
                file.write(b"\0")
        return filler.unlink

    def run(self, outage: str, moment: str) -> dict:
        """What came of it; ``faults`` is empty if all is well."""
        log, sockets = self.folder / "train.log", self.folder / "sockets"
        argv = ["train", "--data", str(self.data), *OPTIONS, "--seed", str(self.seed)]
        self.pid = self.zygote.start(argv, self.folder, log, env=self.env, sockets=sockets)
        self._wait_for(MOMENTS[moment], log)
        mend = getattr(self, outage)()
        code = self.zygote.code(self.pid, 300)
        if code is None:
            raise RuntimeError(f"it hangs: {log.read_text(encoding='utf-8')[-2000:]}")
        ended = self.zygote.ended_at(self.pid)
        faults = []
        (place,) = (self.folder / "runs").iterdir()
        lines = [json.loads(line) for line in (place / "record" / "journal.jsonl").read_text().splitlines()]
        last = next((line["at"] / 1000 for line in reversed(lines) if line["op"] == "end"), None)
        waited = ended - last if last else 0.0
        said = log.read_text()
        if self.killed:
            if code != -signal.SIGKILL:
                faults.append(f"exit {code}")
        elif code != 0:
            faults.append(f"exit {code}: {said[-300:]}")
        elif waited > SECONDS_TO_EXIT:
            faults.append(f"{waited:.0f} s to exit")
        is_told = f"fmtl sync --run {place.name}" in said
        mend()
        faults += ["a socket was opened by the training thread"] if sockets.exists() else []
        sync = self.folder / "sync.log"
        if self.zygote.run(["sync", "--run", "all"], self.folder, sync, env=self.env):
            faults.append(f"sync: {sync.read_text(encoding='utf-8')[-300:]}")
        counts, more = compare(place, self.proxy.uri)
        if "delivered to" in sync.read_text() and not (is_told or self.killed):
            faults.append("not delivered, and not said")
        self.proxy.close()
        about = {"outage": outage, "moment": moment, "seed": self.seed, "exit": code}
        return {**about, "seconds_to_exit": round(waited, 1), "told": is_told, "faults": faults + more, **counts}

    def _wait_for(self, what: str, log: Path) -> None:
        for _ in range(6000):
            for journal in self.folder.glob("runs/*/record/journal.jsonl"):
                lines = journal.read_text().splitlines()
                epochs = sum('"train/loss"' in line for line in lines)
                if epochs >= 3 and (what != "model" or any('"op": "model"' in line for line in lines)):
                    return
            if self.zygote.code(self.pid, 0.01) is not None:
                raise RuntimeError(log.read_text()[-2000:])
            time.sleep(0.01)
        raise RuntimeError(f"never saw {what}: {log.read_text(encoding='utf-8')[-2000:]}")


def compare(place: Path, uri: str) -> tuple[dict, list[str]]:
    """Of a run folder and what the store has of it: counts, and every difference."""
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[3]); from reliability import differences\n"
        "print(json.dumps(differences(sys.argv[1], sys.argv[2])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(place), uri, str(Path(__file__).parent)], capture_output=True, text=True
    )
    if done.returncode:
        return {}, [f"could not be compared: {done.stderr[-500:]}"]
    counts, faults = json.loads(done.stdout.splitlines()[-1])
    return counts, faults


def differences(place: str, uri: str) -> tuple[dict, list[str]]:
    """See ``compare``; in a process of its own."""
    import mlflow

    from fmtl.storage import durable
    from fmtl.tracking.record.folder import RunFolder

    mlflow.set_tracking_uri(uri)
    client, folder = mlflow.MlflowClient(), RunFolder.at(Path(place))
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`fmtl.folder_id` = '{folder.root.name}'")
    faults = [] if len(runs) == 1 else [f"{len(runs)} runs in the store"]
    run, lines = runs[0], [line for line, _ in folder.journal().lines()]
    points: dict[str, list] = {}
    for line in lines:
        if line["op"] == "metrics":
            for name, value in line["values"].items():
                points.setdefault(name, []).append((line["step"], line["at"], value))
    lost = twice = 0
    for name, expected in points.items():
        there = [(p.step, p.timestamp, p.value) for p in client.get_metric_history(run.info.run_id, name)]
        lost += len(set(expected) - set(there))
        twice += len(there) - len(set(there))
    lost_files = 0
    names = [path.relative_to(folder.files).as_posix() for path in folder.deliverable()]
    for name in names:
        try:
            back = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=name))
            same = durable.sha256(back) == durable.sha256(folder.files / name)
        except Exception:
            same = False
        lost_files += not same
    end = next(line for line in reversed(lines) if line["op"] == "end")
    if (run.info.status, run.data.tags.get("fmtl.outcome")) != (end["status"], end["outcome"]):
        faults.append(f"status {run.info.status}, outcome {run.data.tags.get('fmtl.outcome')}")
    if any(line["op"] == "model" for line in lines):
        model = run.data.tags.get("fmtl.model_id")
        if not model or client.get_logged_model(model).status != "READY":
            faults.append(f"model {model}")
    counts = {"points": sum(map(len, points.values())), "points_lost": lost, "points_twice": twice, "files": len(names),
              "files_lost": lost_files}  # fmt: skip
    faults += [f"{counts[what]} {what}" for what in ("points_lost", "points_twice", "files_lost") if counts[what]]
    return counts, faults


OUTAGES = [
    "away_5_s", "away_60_s", "away_to_the_end", "hangs", "refuses_large_files_413", "forgets_the_password_401",
    "answers_503_to_a_quarter", "resets_connections", "is_killed_or_the_trainer", "has_a_full_disk",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=OUTAGES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(prefix="fmtl-reliability-") as temporary:
        root, zygote = Path(temporary), Zygote()
        local = {"MLFLOW_TRACKING_URI": f"sqlite:///{root}/local.db"}
        options = ["prepare", "--table", "sample", "--px", "32", "--limit", "150", "--out", str(root / "data")]
        if zygote.run(options, root, root / "prepare.log", env=local):
            raise RuntimeError((root / "prepare.log").read_text())
        disk = root / "server"
        disk.mkdir()
        mounted = (
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3g", "none", str(disk)], check=False).returncode == 0
        )
        server = Server(disk)
        server.start()
        try:
            for outage in [asked.only] if asked.only else OUTAGES:
                if outage == "has_a_full_disk" and not mounted:
                    print("has_a_full_disk: not tried, since no disk of its own could be mounted (needs root)")
                    continue
                for moment in MOMENTS:
                    for seed in range(asked.seeds):
                        folder = root / f"{outage}-{moment}-{seed}"
                        folder.mkdir()
                        found = Trial(zygote, server, root / "data", folder, seed).run(outage, moment)
                        results.append(found)
                        print(json.dumps(found), flush=True)
                        for used in (folder, disk / "artifacts"):  # or the disk would be full before its turn
                            shutil.rmtree(used, ignore_errors=True)
        finally:
            server.kill()
            if mounted:
                subprocess.run(["umount", "-l", str(disk)], check=False)
            zygote.process.kill()
    summary = {
        "runs": len(results),
        "without_fault": sum(not r["faults"] for r in results),
        **{name: sum(r.get(name, 0) for r in results) for name in COUNTED},
        "most_seconds_to_exit": max(r["seconds_to_exit"] for r in results),
    }  # fmt: skip
    print(json.dumps(summary))
    if asked.json:
        asked.json.write_text(json.dumps({"summary": summary, "runs": results}, indent=1) + "\n")
    sys.exit(summary["without_fault"] != len(results))


if __name__ == "__main__":
    main()
