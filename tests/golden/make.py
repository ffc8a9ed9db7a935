"""Writes what this version of fmtl leaves on a disk, for later versions to be tested with: once for each release.

python tests/golden/make.py tests/golden/0.1
"""

import json
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from fmtl import cli
from fmtl.storage.records import SEAL, sealed

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200)}
QUICK = [
    "--backbone", "test_efficientnet", "--weights", "none", "--px", "32", "--batch-size", "8", "--epochs", "2",
    "--gallery", "false", "--extra-plots", "false", "--precision", "fp32", "--channels-last", "false",
    "--offline", "true",
]  # fmt: skip


class Interrupt(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("epoch 1/"):
            raise KeyboardInterrupt


def photos(folder: Path) -> pd.DataFrame:
    """Squares of three colours on white, in two sizes."""
    rng, rows = np.random.default_rng(0), []
    for i in range(36):
        name, colour = list(COLOURS.items())[i % 3]
        size = "large" if i % 2 else "small"
        pixels = np.full((40, 40, 3), 255, np.uint8)
        edge = 2 if size == "large" else 12
        pixels[edge:-edge, edge:-edge] = np.clip(np.array(colour) + rng.integers(-25, 26, 3), 0, 255)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append({"image": f"{i}.png", "colour": name, "size": size})
    return pd.DataFrame(rows)


def main(target: Path) -> None:
    target = target.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///store.db"
        os.environ["XDG_CACHE_HOME"] = temporary
        Path("images").mkdir()
        photos(Path("images")).to_csv("table.csv", index=False)
        prepare = ["prepare", "--table", "table.csv", "--px", "32", "--out", "dataset"]
        train = ["train", "--data", "dataset", *QUICK]
        done = [cli.main(prepare), cli.main([*train, "--run-folder", "whole"])]
        interrupt = Interrupt()
        logging.getLogger("fmtl").addHandler(interrupt)
        done.append(cli.main([*train, "--run-folder", "interrupted"]))
        logging.getLogger("fmtl").removeHandler(interrupt)
        model = next(Path("whole").rglob("model.json")).parent
        done.append(cli.main(["predict", "--model", str(model), "--images", "images", "--out", "predictions.csv"]))
        if done != [0, 0, 130, 0]:
            raise RuntimeError(f"exit codes {done}")
        shutil.copytree("dataset", target / "dataset")
        shutil.copytree("images", target / "images")
        left_out = shutil.ignore_patterns("lock", "delivering", "lease.json", "crash.log")
        shutil.copytree("interrupted", target / "run", ignore=left_out)
        about = target / "run" / "record" / "run.json"
        said = {name: value for name, value in json.loads(about.read_text()).items() if name != SEAL}
        about.write_text(json.dumps(sealed(said | {"context": {}}), indent=1) + "\n")  # not whose machine it was
        shutil.copytree(model, target / "model")
        shutil.copy("predictions.csv", target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
