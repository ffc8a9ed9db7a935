"""The logged model: a pyfunc from code and safetensors, and the way back to its model folder."""

import atexit
import base64
import contextlib
import hashlib
import importlib.metadata
import io
import logging
import os
import re
import shutil
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType
from PIL import Image

import fmtl
from fmtl.errors import DataError, EnvironmentFault, redacted
from fmtl.loading.preprocess import Preprocess
from fmtl.model import predictor
from fmtl.model.network import MultiTaskNet
from fmtl.model.predictor import Predictor
from fmtl.storage import cache, durable
from fmtl.tasks import Tasks
from fmtl.tracking import model_files, store
from fmtl.tracking.opening import reachable

ARTIFACT = "fmtl_model"  # the model folder inside the logged model
REQUIREMENTS = ("torch", "torchvision", "timm", "mlflow", "pandas", "pillow", "simplejpeg", "safetensors", "numpy")
log = logging.getLogger(__name__)

MOST_CACHED_BYTES = 4 << 30
_folders = contextlib.ExitStack()
atexit.register(_folders.close)
_CODE = Path(__file__).with_name("pyfunc_model.py")


def save_model(folder: Path, net: MultiTaskNet, *, backbone: str, tasks: Tasks, preprocess: Preprocess) -> None:
    """Write the network as an MLflow model, which ``Run.log_model`` delivers, into an empty folder."""
    with durable.temporary_folder() as temporary:
        predictor.save(temporary / ARTIFACT, net, backbone=backbone, tasks=tasks, preprocess=preprocess)
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(_CODE),
            artifacts={ARTIFACT: str(temporary / ARTIFACT)},
            code_paths=[str(Path(fmtl.__file__).parent)],
            signature=_signature(tasks),
            input_example=pd.DataFrame({"image": [_grey_image()]}),
            pip_requirements=[f"{name}=={_version(name)}" for name in REQUIREMENTS],
        )
    model_files.write_check(
        folder / model_files.CHECK, Predictor(net, tasks, preprocess, next(net.parameters()).device)
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
    folder = Path(uri) if Path(uri).is_dir() else logged_model(uri, cached=True)
    for candidate in (folder, folder / "artifacts" / ARTIFACT):
        if (candidate / predictor.DESCRIPTION).is_file():
            return candidate
    raise DataError(f"model '{uri}': not a model of fmtl; loading a stranger's model would run its code")


def logged_model(uri: str, *, cached: bool = False) -> Path:
    """All files of a logged model: where they are, if that is this disk; else a copy that goes with this process.

    Args:
        cached: A copy that was made earlier will do, and this one is kept for later.

    Raises:
        DataError: There is no such model, or its files are not there.
        EnvironmentFault: The store can't be used.
    """
    with reachable():
        try:
            model_id = _model_id(uri)
            if model_id is None:
                return _download(uri, _until_the_end())
            location = mlflow.MlflowClient().get_logged_model(model_id).artifact_location
            if (local := store.local_folder(location)) is not None:
                if not local.is_dir():
                    raise DataError(f"model '{uri}': its files were in {local}, which is not there any more")
                return local
            return _kept(model_id) if cached else _download(f"models:/{model_id}", _until_the_end())
        except MlflowException as error:
            if error.error_code not in store.NOT_FOUND:
                raise
            message = redacted(getattr(error, "message", str(error)))
            raise DataError(f"model '{uri}': not found in {store.address()} ({message})") from error


def _model_id(uri: str) -> str | None:
    """Of the logged model that an address names; None where it names something older."""
    client, name = mlflow.MlflowClient(), uri.removeprefix("models:/")
    if name == uri:
        return None
    if re.fullmatch(r"m-[0-9a-f]{32}", name):
        return name
    if "@" in name:
        name, _, alias = name.rpartition("@")
        return client.get_model_version_by_alias(name, alias).model_id
    name, _, version = name.rpartition("/")
    return client.get_model_version(name, version).model_id if version.isdecimal() else None


def _download(uri: str, folder: Path) -> Path:
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except OSError as error:
        raise DataError(f"model '{uri}': its files are not there ({redacted(str(error))})") from error


def _until_the_end() -> Path:
    return _folders.enter_context(durable.temporary_folder())


def _kept(model_id: str) -> Path:
    """From the cache, or into it: a job that labels every hour downloads a model once."""
    models = cache.cache_dir() / "models"
    folder = models / f"{model_id}-{hashlib.sha256(store.address().encode()).hexdigest()[:8]}"
    if folder.is_dir():
        with contextlib.suppress(OSError):
            os.utime(folder)
        return folder
    try:
        with durable.locked(folder):
            if not folder.is_dir():
                with durable.publishing(folder) as temporary:
                    _download(f"models:/{model_id}", temporary)
    except EnvironmentFault as error:  # nothing can be kept here
        log.debug("no cache: %s", error)
        return _download(f"models:/{model_id}", _until_the_end())
    cache.prune_folders(models, MOST_CACHED_BYTES)
    return folder


def _signature(tasks: Tasks) -> ModelSignature:
    outputs: list[ColSpec | TensorSpec] = [ColSpec("string", "image"), ColSpec("string", "status")]
    for task in tasks:
        outputs += [ColSpec("string", task.slug), ColSpec("double", f"{task.slug}/confidence")]
    return ModelSignature(
        Schema([ColSpec(AnyType(), "image", required=False), ColSpec("binary", "image_bytes", required=False)]),
        Schema(outputs),
        ParamSchema([ParamSpec("top_k", "long", 1)]),
    )


def _grey_image() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "grey").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
