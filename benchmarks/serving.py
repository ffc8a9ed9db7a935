"""A model behind HTTP: ``fmtl serve`` against ``mlflow models serve``, on the same photos and the same two cores.

    python benchmarks/serving.py [--rounds 5] [--seconds 8] [--json FILE]

The model is ``tf_efficientnet_lite0`` at 128 px after an epoch on the real photos, served from its registered version
and from the file that ``fmtl export`` makes of it. All servers run the whole time and are asked in turn, in alternating
order: single photos one after the other (the median of their times), then by 16 clients at once (photos per second).
Every request carries the same photo as base64. Needs ``FMTL_REAL_DATA``.
"""

import argparse
import base64
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CLIENTS, SINGLES = 16, 60
MLFLOW = "mlflow models serve"


@dataclass(frozen=True)
class Arm:
    """A server: where it is asked, and how."""

    port: int
    path: str
    body: bytes

    def ask(self, connection: http.client.HTTPConnection) -> None:
        connection.request("POST", self.path, self.body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = json.loads(answer.read())
        if answer.status != 200 or content["predictions"][0]["status"] != "ok":
            raise RuntimeError(f"{answer.status}: {content}")

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)


def single(arm: Arm) -> float:
    """Seconds of one photo, the median."""
    connection, found = arm.connection(), []
    for _ in range(SINGLES):
        began = time.perf_counter()
        arm.ask(connection)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def many(arm: Arm, seconds: float) -> float:
    """Photos per second of many clients at once."""
    counts, end = [0] * CLIENTS, time.perf_counter() + seconds

    def client(n: int) -> None:
        connection = arm.connection()
        while time.perf_counter() < end:
            arm.ask(connection)
            counts[n] += 1

    threads = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


@contextlib.contextmanager
def servers(model: str, file: str, photo: bytes) -> Iterator[dict[str, Arm]]:
    text = base64.b64encode(photo).decode()
    asked = json.dumps({"images": [text]}).encode()
    with contextlib.ExitStack() as stack:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = ["-m", "mlflow", "models", "serve", "-m", model, "-p", str(port), "--env-manager", "local"]
        stack.enter_context(_process(command, None))
        _until_ready(port, "/ping")
        split = {"dataframe_split": {"columns": ["image"], "data": [[text]]}}
        arms = {MLFLOW: Arm(port, "/invocations", json.dumps(split).encode())}
        for name, served in {"fmtl serve, the model": model, "fmtl serve, the file": file}.items():
            if served:
                said = stack.enter_context(
                    _process(["-m", "fmtl", "serve", "--model", served, "--port", "0"], "http://")
                )
                arms[name] = Arm(int(said.rpartition("/ (")[0].rpartition(":")[2]), "/predict", asked)
        yield arms


@contextlib.contextmanager
def _process(command: list[str], until: str | None) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE if until else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield next((line for line in process.stdout or () if until and until in line), "")
    finally:
        os.killpg(process.pid, 15)
        process.wait(60)


def _until_ready(port: int, path: str) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(f"no answer on {port}{path}")


def made(folder: Path, photos: Path) -> tuple[str, str]:
    """Address of a registered model in a store of its own, and its exported file."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    table = str(photos.parent / "fashion.csv")
    for command in (
        ["prepare", "--table", table, "--images", str(photos), "--out", "data"],
        ["train", "--data", "data", "--backbone", "tf_efficientnet_lite0", "--weights", "bundled", "--px", "128",
         "--epochs", "1", "--extra-plots", "false", "--gallery", "false"],
        ["register", "--name", "shop"],
        ["export", "--model", "models:/shop@champion"],
    ):  # fmt: skip
        print(" ".join(command[:1]), flush=True)
        subprocess.run([sys.executable, "-m", "fmtl", *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return "models:/shop@champion", str(folder / "shop.onnx")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if "FMTL_REAL_DATA" not in os.environ:
        print("benchmarks/serving.py: skipped, FMTL_REAL_DATA is not set")
        return
    photos = Path(os.environ["FMTL_REAL_DATA"]).resolve() / "fashion" / "images"
    first = min(photos.iterdir()).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        model, file = made(Path(folder), photos)
        found = raced(model, file, first, options)
    for name, of_arm in found.items():
        for measured in list(of_arm):
            ratios = [value / base for value, base in zip(of_arm[measured], found[MLFLOW][measured], strict=True)]
            of_arm[f"{measured}, over MLflow's"] = ratios
            print(f"{name}: {measured} {statistics.median(ratios):.2f} of MLflow's "
                  f"({min(ratios):.2f} to {max(ratios):.2f})", flush=True)  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def raced(model: str, file: str, photo: bytes, options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    with servers(model, file, photo) as arms:
        for arm in arms.values():
            single(arm)  # the first requests of each are slower
        for number in range(options.rounds):
            for name, arm in list(arms.items())[:: -1 if number % 2 else 1]:
                of_arm = found.setdefault(name, {"seconds of one": [], "photos per second of many": []})
                of_arm["seconds of one"].append(single(arm))
                of_arm["photos per second of many"].append(many(arm, options.seconds))
    return found


if __name__ == "__main__":
    main()
