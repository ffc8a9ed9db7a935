"""Whether a logged model is what was logged: every file by its hash, and what it predicts in a process of its own."""

import base64
import hashlib
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mlflow.store.artifact.models_artifact_repo import REGISTERED_MODEL_META_FILE_NAME  # put there by a download
from PIL import Image

from fmtl.errors import DataError
from fmtl.storage import durable

if TYPE_CHECKING:
    from fmtl.model.predictor import Predictor

MANIFEST, CHECK = "manifest.json", "check.json"
SECONDS = 600  # for loading a model and labelling three pictures
TOLERANCE = 0.02  # of a confidence: another processor, or another version of torch, rounds otherwise
_LABEL = """
import base64, json, sys
from pathlib import Path
from fmtl.model import predictor
model = predictor.load(Path(sys.argv[1]) / "artifacts" / "fmtl_model")
pictures = [base64.b64decode(text) for text in json.load(open(sys.argv[2]))["images"]]
Path(sys.argv[3]).write_text(model.comparable(pictures).to_json(orient="columns"))
"""  # with our code, not with that of the model, which might be anybody's


def write_check(path: Path, predictor: "Predictor") -> None:
    """Write three pictures and what the model says about them, to be compared wherever it is loaded."""
    pictures = [_png(pixels) for pixels in _pictures()]
    table = predictor.comparable(pictures)
    content = {
        "images": [base64.b64encode(picture).decode() for picture in pictures],
        "predictions": json.loads(table.to_json(orient="columns")),
    }
    durable.write_json(path, content)


def write_manifest(folder: Path) -> str:
    """List every file with its hash. Returns the hash of the list, to be kept elsewhere."""
    files = {name: durable.sha256(folder / name) for name in _names(folder)}
    durable.write_json(folder / MANIFEST, files)
    return durable.sha256(folder / MANIFEST)


def check_files(folder: Path, manifest_sha256: str) -> None:
    """Raise DataError, naming the file, where something is missing, altered or added."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise DataError(f"{MANIFEST} is missing: the model was not written to its end")
    content = manifest.read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest_sha256:
        raise DataError(f"{MANIFEST} was altered, or is another model's")
    listed = json.loads(content)
    there = set(_names(folder))
    if missing := sorted(set(listed) - there):
        raise DataError(f"{missing[0]} is missing ({len(missing)} of {len(listed)} files are)")
    if added := sorted(there - set(listed)):
        raise DataError(f"{added[0]} was added to it")
    altered = [name for name, content in listed.items() if durable.sha256(folder / name) != content]
    if altered:
        raise DataError(f"{altered[0]} was altered or is damaged")


def check_predictions(folder: Path) -> None:
    """Load the model in a process of its own, and compare what it says with what it said when it was logged.

    Raises:
        DataError: It can't be loaded, or says something else.
    """
    check = folder / CHECK
    if not check.is_file():  # of an older version
        return
    with durable.temporary_folder() as temporary:
        out = temporary / "said.json"
        environment = os.environ | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        try:
            done = subprocess.run(
                [sys.executable, "-c", _LABEL, str(folder), str(check), str(out)], check=False,
                env=environment, capture_output=True, text=True, timeout=SECONDS, cwd=temporary,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise DataError(f"it could not be loaded within {SECONDS} s") from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise DataError(f"it can't be loaded in a process of its own: {last}")
        said = json.loads(out.read_text(encoding="utf-8"))
    logged = json.loads(check.read_text(encoding="utf-8"))["predictions"]
    for column, values in logged.items():
        for row, value in values.items():
            now = said.get(column, {}).get(row)
            if not _agree(value, now):
                raise DataError(f"{column}: it says {now!r} where it said {value!r} when it was logged")


def _agree(logged: Any, said: Any) -> bool:
    if isinstance(logged, float) and isinstance(said, float):
        return math.isclose(logged, said, abs_tol=TOLERANCE)
    return logged == said


def _names(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    names = (path.relative_to(folder).as_posix() for path in paths)
    return sorted(name for name in names if name not in (MANIFEST, REGISTERED_MODEL_META_FILE_NAME))


def _pictures() -> list[np.ndarray]:
    """Grey, a slope of colours, and noise: ``(64, 64, 3)`` uint8."""
    slope = np.linspace(0, 255, 64, dtype=np.uint8)
    colours = np.stack([np.tile(slope, (64, 1)), np.tile(slope[:, None], (1, 64)), np.full((64, 64), 90, np.uint8)], 2)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return [np.full((64, 64, 3), 128, np.uint8), colours, noise]


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
