"""``predict`` against its parts, in ratios of photos per second.

    python benchmarks/predict.py [FOLDER] [--photos 20000]

FOLDER (default: ``FMTL_REAL_DATA``) holds ``fashion/images``, of which copies are labelled in slices. Three arms, each
in a process of its own with all processors, take turns in alternating order: ``decode`` (files to squares),
``evaluate`` (squares that lie in memory through the network, as after an epoch of training) and ``predict`` (the whole
command but for Python's start: listing, model, labels, file). One after the other, the parts can reach
1 / (1 / evaluate + 1 / decode).
"""

import argparse
import contextlib
import json
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import real_photos
import torch

from fmtl import machine
from fmtl.catalogue.photos.folder import ImageFolder, PhotoFile
from fmtl.commands.predict import predict
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.loading.preprocess import as_images, prepare_for_network
from fmtl.model import backbones, predictor
from fmtl.model.execution import Execution
from fmtl.settings.schema import PredictSettings
from fmtl.tasks import IGNORE_INDEX, make_tasks
from fmtl.training import evaluating
from fmtl.training.criterion import MultiTaskLoss

SLICES = 5
BATCH_SIZE = PredictSettings.model_fields["batch_size"].default
CLASSES = {"article": 46, "gender": 5, "colour": 40, "season": 4, "usage": 8, "brand": 200}
ARMS = ("decode", "evaluate", "predict")


def make_model(folder: Path) -> None:
    torch.manual_seed(0)
    tasks = make_tasks({name: [str(k) for k in range(num)] for name, num in CLASSES.items()})
    net = backbones.build("tf_efficientnet_lite0", tasks.num_classes, weights="none", px=128)
    net.run_on(torch.device("cpu"), Execution("fp32", channels_last=True))
    preprocess = Preprocess(256, "pad", "#ffffff", 128, (0.5,) * 3, (0.5,) * 3)
    predictor.save(folder, net, backbone="tf_efficientnet_lite0", tasks=tasks, preprocess=preprocess)


def copy_photos(source: Path, folder: Path, num: int) -> None:
    """``num`` photos in ``SLICES`` folders, the same ones again and again."""
    files = sorted(source.iterdir())
    for n in range(num):
        target = folder / str(n * SLICES // num) / f"{n:06}{files[n % len(files)].suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[n % len(files)], target)


class Work:
    """What each arm's process does with one slice."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model = predictor.load(folder / "model", torch.device("cpu"))
        self.squares = None

    def photos(self, number: int) -> list[PhotoFile]:
        folder = self.folder / str(number)
        root = ImageFolder(folder)
        return [PhotoFile(root, file.name) for file in sorted(folder.iterdir())]

    def decode(self, number: int) -> None:
        for _ in self.model.decoded_batches(self.photos(number), BATCH_SIZE):
            pass

    def evaluate(self, number: int) -> None:
        if self.squares is None:  # a few: they are to lie in memory, not to be read
            self.squares = [
                pixels for _, pixels in self.model.decoded_batches(self.photos(0)[: 8 * BATCH_SIZE], BATCH_SIZE)
            ]
        unknown = {name: torch.full((BATCH_SIZE,), IGNORE_INDEX) for name in CLASSES}
        num = len(self.photos(number)) // BATCH_SIZE
        given = (self.squares[n % len(self.squares)] for n in range(num))
        batches = ((prepare_for_network(as_images(pixels), self.model.preprocess), unknown) for pixels in given)
        loss = MultiTaskLoss(CLASSES)
        evaluating.evaluate(self.model.net, batches, loss=loss, device=torch.device("cpu"))

    def predict(self, number: int) -> None:
        names = {"model": str(self.folder / "model"), "images": str(self.folder / str(number))}
        predict(PredictSettings(**names, out=str(self.folder / "predictions.csv")))


def serve(name: str, folder: Path) -> None:
    """Run one slice per line of standard input; say the seconds, and the most memory so far in MB."""
    work = Work(folder)
    with machine.memory_kept():
        for line in sys.stdin:
            start = time.perf_counter()
            with contextlib.redirect_stdout(sys.stderr):
                getattr(work, name)(int(line))
            seconds = time.perf_counter() - start
            print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, flush=True)


class Arm:
    """A process that runs one arm, a slice when it is asked to."""

    def __init__(self, name: str, folder: Path):
        command = [sys.executable, __file__, "--arm", name, str(folder)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self.seconds: list[float] = []
        self.megabytes: list[int] = []

    def run(self, number: int) -> None:
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        seconds, megabytes = self.process.stdout.readline().split()
        self.seconds.append(float(seconds))
        self.megabytes.append(int(megabytes))


def measure(images: Path, num: int) -> dict:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy_photos(images, folder, num)
        make_model(folder / "model")
        arms = {name: Arm(name, folder) for name in ARMS}
        for name in ARMS:  # a warm-up
            arms[name].run(0)
            arms[name].seconds.clear()
        for number in range(SLICES):
            for name in ARMS if number % 2 else ARMS[::-1]:
                arms[name].run(number)
        for arm in arms.values():
            arm.process.kill()
    parts = [d + e for d, e in zip(arms["decode"].seconds, arms["evaluate"].seconds, strict=True)]
    ratios = [part / whole for part, whole in zip(parts, arms["predict"].seconds, strict=True)]
    shares = [d / part for d, part in zip(arms["decode"].seconds, parts, strict=True)]
    return {
        "photos": num,
        "predict / its parts": real_photos.spread(ratios),
        "all slices": sum(parts) / sum(arms["predict"].seconds),
        "decoding's share of the parts": statistics.median(shares),
        "memory grew by MB": arms["predict"].megabytes[-1] - arms["predict"].megabytes[0],
    }


def main() -> None:
    parser = real_photos.parser(__doc__)
    parser.add_argument("--photos", type=int, default=20_000)
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        serve(options.arm, Path(options.data))
        return
    if not real_photos.are_there(options, __file__):
        return
    figures = measure(Path(options.data).resolve() / "fashion" / "images", options.photos)
    figures["processor"] = platform.processor() or platform.machine()
    figures["versions"] = {name: version(name) for name in ("torch", "timm", "Pillow", "simplejpeg", "numpy")}
    for name, value in figures.items():
        print(f"{name:30} {value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
