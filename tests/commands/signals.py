"""Trainings that are asked to end at random moments: what they say, how long it takes, and what becomes of them.

    python tests/commands/signals.py [--signals 100] [--json docs/benchmarks/signals.json]

SIGTERM, SIGINT and SIGUSR1 in turn, to trainings with plots and a gallery: a third with a local store, a third with an
MLflow server, and a third with a server that has begun to hang. Each then goes on to its end.
"""

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import mlflow

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))
from kills import OPTIONS, World, content, place_of, prepare, run_of
from kit.forks import Zygote
from kit.outages import HEALTHY, Proxy, Server

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 143}
STORES = ("local", "server", "hanging server")
WITH_PICTURES = [
    "true" if name in ("--gallery", "--extra-plots") else value
    for name, value in zip(["", *OPTIONS], OPTIONS, strict=False)
]
MOST_SECONDS = 12  # a step, a save, and ten seconds for a server without any progress


class Signalled:
    """One training, its signal, and what becomes of it."""

    def __init__(self, zygote: Zygote, data: Path, store: Path, folder: Path, server: Server | None, hangs: bool):
        self.zygote, self.data, self.folder, self.hangs = zygote, data, folder, hangs
        self.proxy = Proxy(server.port) if server else None
        if self.proxy:
            self.proxy.open()
        else:
            shutil.copy(store, folder / "mlflow.db")
        self.uri = self.proxy.uri if self.proxy else f"sqlite:///{folder}/mlflow.db"
        self.env = {"MLFLOW_TRACKING_URI": self.uri}

    def run(self, signum: int, seconds: float) -> dict:
        """Seconds to the exit after a signal sent so long after the training's first line, and what is wrong."""
        log, argv = self.folder / "said.txt", ["train", "--data", str(self.data), *WITH_PICTURES]
        pid = self.zygote.start(argv, self.folder, log, env=self.env)
        while self.zygote.code(pid, 0.01) is None and "run test_efficientnet" not in log.read_text():
            pass
        if self.hangs and self.proxy:
            self.proxy.mode = "hang"
        self.zygote.code(pid, seconds)
        sent, had_ended = time.time(), "test: accuracy" in log.read_text()
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            return {"seconds": None, "faults": []}  # it had ended
        code, said = self.zygote.code(pid, 120), log.read_text()
        took = self.zygote.ended_at(pid) - sent if code is not None else 120.0
        if self.proxy:
            self.proxy.mode = HEALTHY
        faults = [] if took < MOST_SECONDS else [f"{took:.0f} s to the exit"]
        if code == 0 and had_ended:
            return {"seconds": None, "faults": faults}
        faults += [f"exit {code}: {said[-300:]}"] if code != CODES[signum] else []
        faults += ["not said how to go on"] if "to go on: fmtl train --resume " not in said else []
        place = place_of(self.folder)
        told = self.zygote.run(["sync"], self.folder, self.folder / "sync.txt", env=self.env)
        faults += [f"sync: exit {told}"] if told else []
        tags = mlflow.MlflowClient(self.uri).get_run(run_of(place)).data.tags
        faults += [f"outcome {tags.get('fmtl.outcome')}"] if tags.get("fmtl.outcome") != "interrupted" else []
        code = self.zygote.run(["train", "--resume", "last"], self.folder, self.folder / "again.txt", env=self.env)
        faults += [f"resume: exit {code}"] if code else []
        return {"seconds": took, "faults": faults}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signals", type=int, default=100)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born with it ignored
    rng, results = random.Random(0), []
    with tempfile.TemporaryDirectory(prefix="fmtl-signals-") as temporary, Zygote() as zygote:
        root = Path(temporary)
        data, store = prepare(zygote, root)
        started = time.time()
        world = World(root, zygote, data, None, store)
        lasts = 2 * (time.time() - started)  # with pictures
        server = Server(root / "server")
        server.start()
        try:
            for i in range(asked.signals):
                kind, signum = STORES[i % 3], list(CODES)[i // 3 % 3]
                folder = root / f"{i}"
                folder.mkdir()
                trial = Signalled(zygote, data, store, folder, server if "server" in kind else None, "hang" in kind)
                found = trial.run(signum, rng.uniform(0, lasts))
                if not found["faults"] and content(place_of(folder)) != world.expected:
                    found["faults"] = ["other bits than the unbroken one's"]
                results.append({"store": kind, "signal": signal.Signals(signum).name, **found})
                if found["faults"]:
                    print(json.dumps(results[-1]), flush=True)
                shutil.rmtree(folder)
        finally:
            server.kill()
    seconds = sorted(r["seconds"] for r in results if r["seconds"] is not None)
    summary = {
        "signals": len(results),
        "that came in time": len(seconds),
        "without fault": sum(not r["faults"] for r in results),
        "seconds to the exit": {"median": statistics.median(seconds), "most": seconds[-1]},
    }
    print(json.dumps(summary))
    if asked.json:
        asked.json.write_text(json.dumps(summary, indent=1) + "\n")
    sys.exit(summary["without fault"] != len(results))


if __name__ == "__main__":
    main()
