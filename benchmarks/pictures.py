"""What the pictures and the gallery of a run cost, as shares of its training.

    python benchmarks/pictures.py [--epochs 12] [--json FILE]

Needs ``FMTL_REAL_DATA``, a folder with ``fashion/fashion.csv``: six attributes, ``tf_efficientnet_lite0`` at 128 px.
Both parts of each ratio come from the same run. Of what is written in the background the processor's time counts.
"""

import argparse
import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import torch

from fmtl import hardware
from fmtl.commands import train as command
from fmtl.commands.prepare import build_dataset
from fmtl.evaluation import label_issues
from fmtl.model import feature_cache
from fmtl.reports import error_gallery, plots, run_page
from fmtl.settings.schema import PrepareSettings
from fmtl.settings.train import TrainSettings
from fmtl.tracking.recording import Run


class Timer:
    """Seconds spent in functions, by name; calls inside calls count once."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._calls = threading.local()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        outermost = not getattr(self._calls, "inside", False)
        self._calls.inside = True
        clock = time.perf_counter if threading.current_thread() is threading.main_thread() else time.thread_time
        started = clock()
        try:
            yield
        finally:
            if outermost:
                self._calls.inside = False
                with self._lock:
                    self.seconds[name] = self.seconds.get(name, 0.0) + clock() - started

    def watch(self, owner: object, attribute: str, name: str) -> None:
        function = getattr(owner, attribute)

        def timed(*args: object, **kwargs: object) -> object:
            with self.timed(name):
                return function(*args, **kwargs)

        setattr(owner, attribute, timed)


def measure(epochs: int) -> dict[str, float]:
    timer = Timer()
    for kind in ("curves", "confusion", "per_class", "roc", "precision_recall", "reliability", "save"):
        timer.watch(run_page.plots, kind, "pictures")
    timer.watch(plots.ConfusionFrames, "draw", "pictures")
    timer.watch(plots.ConfusionFrames, "__init__", "pictures")
    timer.watch(Run, "log_image", "pictures")
    timer.watch(mlflow.MlflowClient, "log_image", "pictures")
    timer.watch(feature_cache, "compute", "gallery")
    timer.watch(label_issues, "find", "gallery")
    timer.watch(error_gallery, "write", "gallery")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        table = Path(os.environ["FMTL_REAL_DATA"]).resolve() / "fashion" / "fashion.csv"
        build_dataset(PrepareSettings(table=str(table), out=f"{folder}/prepared"))
        settings = TrainSettings(
            data=f"{folder}/prepared", backbone="tf_efficientnet_lite0", weights="bundled", px=128, epochs=epochs
        )
        run_id = command.train(settings)
        points = mlflow.MlflowClient().get_metric_history(run_id, "epoch_seconds")
    training = sum(point.value for point in points)
    return {name: seconds / training for name, seconds in timer.seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    if "FMTL_REAL_DATA" not in os.environ:
        print("benchmarks/pictures.py: skipped, FMTL_REAL_DATA is not set")
        return
    shares = measure(options.epochs)
    for name, share in shares.items():
        print(f"{name} / {options.epochs} epochs of training: {share:.3f}")
    if options.json:
        machine = hardware.describe(torch.device("cpu"))
        options.json.write_text(json.dumps({"epochs": options.epochs, "machine": machine, "shares": shares}, indent=1))


if __name__ == "__main__":
    main()
