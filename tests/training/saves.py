"""Saves of checkpoints that are killed, or fail, at every instant: a verified checkpoint is there every time.

python tests/training/saves.py [--kills 1000] [--json docs/benchmarks/saves.json]
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from kit import operations
from kit.mutations import flipped

from fmtl.errors import DataError, EnvironmentFault
from fmtl.tasks import make_tasks
from fmtl.training import checkpoints

TASKS = make_tasks({"season": ["Fall", "Summer"]})
SIZE = 500_000  # numbers: 2 MB


def save(path: Path, number: int) -> None:
    weights = {f"layer {i}": torch.full((SIZE // 10,), float(number)) for i in range(10)}
    training = {"updater": {}, "history": [{"epoch": number, "val/loss": 1 / (number + 1)}], "position": None}
    checkpoints.save(path, model=weights, tasks=TASKS, settings={}, epoch=number, metrics={}, training=training)


def newest(path: Path) -> int:
    """Number of the newest whole checkpoint; -1 where there is none."""
    for _, found in checkpoints.generations(path):
        if all(bool((value == found.epoch).all()) for value in found.model.values()):
            return found.epoch
    return -1


def killed_while_saving(folder: Path, seconds: float) -> tuple[int, int]:
    """The newest save that had ended, and the newest that is there, after a kill at some instant."""
    path, said = folder / "x_last.pt", folder / "said"
    said.write_text("0")
    save(path, 0)
    pid = os.fork()
    if not pid:
        number = 0
        with said.open("r+") as file:
            while True:
                number += 1
                save(path, number)
                file.seek(0)
                file.write(str(number))
                file.flush()
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return int(said.read_text()), newest(path)


def operations_of_a_save(folder: Path) -> int:
    return _forked(folder, "none", 0)[1]


def failing(folder: Path, fault: str, at: int) -> tuple[str, int]:
    """What the save said, and the newest checkpoint afterwards: 1 was saved before, 2 is what fails."""
    return _forked(folder, fault, at)[0], newest(folder / "x_last.pt")


def _forked(folder: Path, fault: str, at: int) -> tuple[str, int]:
    for number in (0, 1):
        save(folder / "x_last.pt", number)
    said = folder.with_name("said.txt")
    said.write_text("")
    pid = os.fork()
    if not pid:
        counted = operations.Operations(folder, fault, at)
        operations.install(counted)
        try:
            save(folder / "x_last.pt", 2)
            word = "saved"
        except EnvironmentFault:
            word = "fault"
        except BaseException as error:
            word = repr(error)
        counted.at = 0
        descriptor = os.open(said, os.O_WRONLY)
        os.write(descriptor, f"{counted.num} {word}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    num, _, word = said.read_text().partition(" ")
    return word or "died", int(num or 0)


def flips(path: Path, num: int, seed: int = 0) -> int:
    """Of so many single bits of a checkpoint turned over, how many it was read in spite of."""
    good, rng, silent = path.read_bytes(), np.random.default_rng(seed), 0
    for _ in range(num):
        path.write_bytes(flipped(good, rng))
        try:
            checkpoints.load(path)
            silent += 1
        except DataError:
            pass
    path.write_bytes(good)
    return silent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--flips", type=int, default=400)
    parser.add_argument("--every", type=int, default=1, help="try only one operation in so many")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="fmtl-saves-") as temporary:
        root = Path(temporary)
        kills = {"tried": 0, "without a checkpoint": 0, "older than what was saved": 0}
        for i in range(asked.kills):
            folder = root / f"kill-{i % 4}"
            folder.mkdir(exist_ok=True)
            ended, there = killed_while_saving(folder, rng.uniform(0.0, 0.12))
            kills["tried"] += 1
            kills["without a checkpoint"] += there < 0
            kills["older than what was saved"] += there < ended
        folder = root / "operations"
        folder.mkdir()
        num = operations_of_a_save(folder)
        broken, tried = [], 0
        for fault in ("ENOSPC", "EIO", "exit"):
            for at in range(1, num + 1, asked.every):
                tried += 1
                said, there = failing(folder, fault, at)
                if there not in (1, 2) or (said == "saved" and there != 2) or said not in ("saved", "fault", "died"):
                    broken.append(f"{fault} at {at}: {said}, {there}")
        silent = flips(folder / "x_last.pt", asked.flips)
    summary = {"kills": kills, "operations": num, "failures tried": tried, "broken promises": broken,
               "flips": {"tried": asked.flips, "silent": silent}}  # fmt: skip
    print(json.dumps(summary))
    if asked.json:
        asked.json.write_text(json.dumps(summary, indent=1) + "\n")
    bad = kills["without a checkpoint"] or kills["older than what was saved"] or broken or silent
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
