"""Decoding of ``prepare`` against plain Pillow and torchvision, in ratios of images per second and core.

    python benchmarks/prepare.py [FOLDER]

FOLDER (default: ``FMTL_REAL_DATA``) holds ``fashion/originals`` and ``fashion/images``. Each arm has a process of its
own, as its users run it, with one thread; they take turns, in alternating order. ``fmtl`` is everything that a worker
process does but the write: path checks, reading, the file's sha256, decoding, thumbnail, the pixels' sha256.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import real_photos
import simplejpeg
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms.v2 import functional as tv

from fmtl.catalogue.photos.folder import ImageFolder
from fmtl.dataset import freshness, shards, workers

PX = 256
REPEATS = 7
MOST = 512  # images of a folder in one pass
PLACES = {"originals": "1080 x 1440 and 1800 x 2400", "images": "256 x 341"}


def photos(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def target(width: int, height: int) -> tuple[int, int]:
    scale = PX / max(width, height)
    return round(width * scale), round(height * scale)


def pillow(folder: Path, names: list[str]) -> None:
    for name in names:
        image = Image.open(folder / name).convert("RGB")
        np.asarray(image.resize(target(*image.size), Image.Resampling.BILINEAR))


def torchvision(folder: Path, names: list[str]) -> None:
    for name in names:
        pixels = decode_jpeg(read_file(str(folder / name)), mode=ImageReadMode.RGB)
        width, height = target(pixels.shape[2], pixels.shape[1])
        tv.resize(pixels, [height, width], antialias=True)


def decode_only(folder: Path, names: list[str]) -> None:
    """libjpeg-turbo at the scale that is needed, of bytes that are read: what no JPEG pipeline can beat."""
    for name in names:
        content = (folder / name).read_bytes()
        height, width, _, _ = simplejpeg.decode_jpeg_header(content)
        width, height = target(width, height)
        simplejpeg.decode_jpeg(content, min_width=width, min_height=height)


def jobs(folder: Path, names: list[str], into: Path) -> list[shards.Job]:
    sources = freshness.scan(names, ImageFolder(folder))
    how = shards.decoding(PX, "pad", "#ffffff")
    return [
        shards.Job(str(into / f"{start}"), sources[start : start + 128], {}, {}, str(folder), how)
        for start in range(0, len(sources), 128)
    ]


@cache
def _jobs(folder: Path) -> list[shards.Job]:
    return jobs(folder, photos(folder)[:MOST], Path())


def fmtl(folder: Path, names: list[str]) -> None:
    for job in _jobs(folder):
        results, _ = shards.decode(job, len)
        if any(result.reason for result in results):
            raise AssertionError("a photo was rejected")


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


ARMS = {"fmtl": fmtl, "pillow": pillow, "torchvision": torchvision, "decode only": decode_only}


class Arm:
    """A process that runs one arm when it is asked to, and says how long it took."""

    def __init__(self, name: str, folder: Path):
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | (workers.KEEP_MEMORY if name == "fmtl" else {})
        command = [sys.executable, __file__, "--arm", name, str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.seconds: list[float] = []
        self.run()
        self.seconds.clear()  # a warm-up

    def run(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.seconds.append(float(self.process.stdout.readline()))


def serve(name: str, folder: Path) -> None:
    """What an arm's process does."""
    torch.set_num_threads(1)
    names = photos(folder)[:MOST]
    for _ in sys.stdin:
        print(seconds(lambda: ARMS[name](folder, names)), flush=True)


def one_core(data: Path) -> dict:
    """Ratios fmtl / arm of images per second on one core, by folder."""
    found = {}
    for place, size in PLACES.items():
        folder = data / "fashion" / place
        arms = {name: Arm(name, folder) for name in ARMS}
        for repeat in range(REPEATS):
            for name in list(arms) if repeat % 2 else list(arms)[::-1]:
                arms[name].run()
        found[place] = {"images": min(MOST, len(photos(folder))), "pixels": size}
        for name, arm in arms.items():
            arm.process.kill()
            if name != "fmtl":
                ratios = [a / b for a, b in zip(arm.seconds, arms["fmtl"].seconds, strict=True)]
                found[place][f"fmtl / {name}"] = real_photos.spread(ratios)
    return found


def two_workers(data: Path) -> dict:
    """Ratio of two worker processes to one, process start and shard files included."""
    folder = data / "fashion" / "images"
    names = photos(folder)
    times = {1: [], 2: []}
    for repeat in range(REPEATS):
        for num_workers in (1, 2) if repeat % 2 else (2, 1):
            with tempfile.TemporaryDirectory() as temporary:
                todo = jobs(folder, names * 3, Path(temporary))
                times[num_workers].append(seconds(lambda: workers.make_shards(todo, num_workers=num_workers)))  # noqa: B023
    return {
        "images": 3 * len(names),
        "2 workers / 1": real_photos.spread([a / b for a, b in zip(times[1], times[2], strict=True)]),
    }


def main() -> None:
    parser = real_photos.parser(__doc__)
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        serve(options.arm, Path(options.data))
        return
    if not real_photos.are_there(options, __file__):
        return
    data = Path(options.data).resolve()
    figures = {
        "px": PX,
        "processor": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("Pillow", "simplejpeg", "torchvision", "torch", "numpy")},
        "one core": one_core(data),
        "workers": two_workers(data),
    }

    def show(name: str, row: dict) -> None:
        low, high = row["quartiles"]
        print(f"  {name:22} {row['median']:.2f}   quartiles {low:.2f} to {high:.2f}")

    for place, rows in figures["one core"].items():
        print(f"{place} ({rows['images']} photos, {rows['pixels']}), images per second and core:")
        for name, row in rows.items():
            if isinstance(row, dict):
                show(name, row)
    print("whole decoding stage, processes and shard files included:")
    show("2 workers / 1", figures["workers"]["2 workers / 1"])
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
