"""What it costs to keep a training on the disk, on real photos: saves within an epoch against none.

    python benchmarks/checkpoints.py [DATA] [--pairs 10] [--json FILE]

Needs ``FMTL_REAL_DATA``. Both arms are ``fmtl train`` of one epoch, in a process of its own; they take turns, in
alternating order. One saves about six times in that epoch, the other not at all, so that a save costs a sixth of the
difference; printed are the ratio of their times, the seconds of a save, and its share of the five minutes that lie
between two saves by default.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import real_photos

MINUTES = 5  # the default of checkpoint_minutes
SAVES = 6
TRAIN = [
    "--backbone", "tf_efficientnet_lite0", "--px", "128", "--weights", "none", "--epochs", "1", "--gallery", "false",
    "--extra-plots", "false", "--precision", "fp32", "--channels-last", "true", "--offline", "true",
]  # fmt: skip


def fmtl(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'store.db'}"}
    done = subprocess.run(
        [sys.executable, "-m", "fmtl", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: exit {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def timed(folder: Path, minutes: float) -> tuple[float, int]:
    """Seconds of a training, and how many times it saved within its epoch."""
    began = time.perf_counter()
    said = fmtl(folder, "train", "--data", "data", *TRAIN, "--checkpoint-minutes", str(minutes), "--verbose")
    return time.perf_counter() - began, said.count("saved within epoch")


def main() -> None:
    parser = real_photos.parser(__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    options = parser.parse_args()
    if not real_photos.are_there(options, __file__):
        return
    photos = Path(options.data).resolve() / "fashion"
    with tempfile.TemporaryDirectory(prefix="fmtl-checkpoints-") as temporary:
        folder = Path(temporary)
        fmtl(folder, "prepare", "--table", str(photos / "fashion.csv"), "--images", str(photos / "images"),
             "--image-col", "Image", "--px", "128", "--out", "data")  # fmt: skip
        plain, _ = timed(folder, 0)  # also finds out how fast this machine is
        minutes = plain / 60 / (SAVES + 1)
        seconds: dict[float, list[float]] = {0: [], minutes: []}
        saves = []
        for pair in range(options.pairs):
            for arm in (0, minutes) if pair % 2 else (minutes, 0):
                took, num = timed(folder, arm)
                seconds[arm].append(took)
                if arm:
                    saves.append(num)
            print(
                f"pair {pair + 1}: {seconds[0][-1]:.1f} s, {seconds[minutes][-1]:.1f} s with {saves[-1]} saves",
                flush=True,
            )
    ratios = [a / b for a, b in zip(seconds[minutes], seconds[0], strict=True)]
    each = [(a - b) / n for a, b, n in zip(seconds[minutes], seconds[0], saves, strict=True)]
    found = {
        "with saves / without": real_photos.spread(ratios),
        "seconds of a save": real_photos.spread(each),
        f"share of {MINUTES} minutes": real_photos.spread([save / (60 * MINUTES) for save in each]),
        "saves": saves,
    }
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
