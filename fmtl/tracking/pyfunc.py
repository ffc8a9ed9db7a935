"""The logged model: a pyfunc from code and safetensors, and the way back to its model folder."""

import base64
import importlib.metadata
import io
import shutil
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType, Array
from PIL import Image

import fmtl
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.errors import DataError
from fmtl.model import predictor
from fmtl.model.confidence import Confidence
from fmtl.model.labeller import ACCEPTED
from fmtl.model.network import MultiTaskNet
from fmtl.model.predictor import Predictor
from fmtl.storage import durable
from fmtl.tasks import Tasks
from fmtl.tracking import logged_models, model_files

ARTIFACT = "fmtl_model"  # the model folder inside the logged model
REQUIREMENTS = ("torch", "torchvision", "timm", "mlflow", "pandas", "pillow", "simplejpeg", "safetensors", "numpy")
_CODE = Path(__file__).with_name("pyfunc_model.py")


def save_model(
    folder: Path,
    net: MultiTaskNet,
    *,
    backbone: str,
    tasks: Tasks,
    preprocess: Preprocess,
    confidence: Confidence | None = None,
) -> None:
    """Write the network as an MLflow model, which ``Run.log_model`` delivers, into an empty folder."""
    known = confidence or Confidence()
    with durable.temporary_folder() as temporary:
        predictor.save(
            temporary / ARTIFACT, net, backbone=backbone, tasks=tasks, preprocess=preprocess, confidence=confidence
        )
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(_CODE),
            artifacts={ARTIFACT: str(temporary / ARTIFACT)},
            code_paths=[str(Path(fmtl.__file__).parent)],
            signature=_signature(tasks, known),
            input_example=pd.DataFrame({"image": [_grey_image()]}),
            pip_requirements=[f"{name}=={_version(name)}" for name in REQUIREMENTS],
        )
    model_files.write_check(
        folder / model_files.CHECK,
        Predictor(net, tasks, preprocess, next(net.parameters()).device, backbone, known),
    )
    for left in folder.rglob("__pycache__"):
        shutil.rmtree(left, ignore_errors=True)


def _version(package: str) -> str:
    """Without what a build calls itself (2.14.1+cu128): package indexes know no such version."""
    return importlib.metadata.version(package).partition("+")[0]


def model_folder(uri: str) -> Path:
    """A local copy of the model folder inside a logged model; a folder of this machine is taken as it is.

    Args:
        uri: ``models:/...``, ``runs:/...`` or a path.

    Raises:
        DataError: There is no such model, or it was not made by fmtl.
    """
    found = model_within(uri if Path(uri).is_dir() else logged_models.folder(uri, cached=True))
    if found:
        return found
    raise DataError(f"model '{uri}': not a model of fmtl; loading a stranger's model would run its code")


def model_within(folder: str | Path) -> Path | None:
    """The model folder that a folder is, or that a logged model's holds; None where there is none."""
    candidates = (Path(folder), Path(folder) / "artifacts" / ARTIFACT)
    return next((path for path in candidates if (path / predictor.DESCRIPTION).is_file()), None)


def _signature(tasks: Tasks, confidence: Confidence) -> ModelSignature:
    outputs: list[ColSpec | TensorSpec] = [ColSpec("string", "image"), ColSpec("string", "status")]
    for task in tasks:
        kind = Array(DataType.string) if task.is_set else DataType.string
        outputs += [ColSpec(kind, task.slug), ColSpec("double", f"{task.slug}/confidence")]
        if task.name in confidence.accepted_from:
            outputs.append(ColSpec("boolean", f"{task.slug}/{ACCEPTED}"))
    return ModelSignature(
        Schema([ColSpec(AnyType(), "image", required=False), ColSpec("binary", "image_bytes", required=False)]),
        Schema(outputs),
        ParamSchema([ParamSpec("top_k", "long", 1)]),
    )


def _grey_image() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "grey").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
