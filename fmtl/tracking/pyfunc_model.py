"""What MLflow runs to serve a logged model. It is copied into every model, so it stays small."""

import os
import sys
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel
from pandas.api.types import is_numeric_dtype

from fmtl.catalogue.photos import encoding
from fmtl.catalogue.photos.folder import ImageError, PhotoFile
from fmtl.catalogue.reasons import Reason
from fmtl.model import predictor
from fmtl.model.labeller import Photo
from fmtl.tasks import Tasks

IMAGE, CONTENT = "image", "image_bytes"


class Labeller:
    """A table of images to a predictions table, in input order.

    A class of its own, since MLflow asks for type hints on any ``predict`` of a PythonModel's body, and none
    can say "either of two columns"; the logged signature does.
    """

    def load_context(self, context):
        self.predictor = predictor.load(Path(context.artifacts["fmtl_model"]))

    def predict(self, context, model_input, params=None):
        """Label images.

        Args:
            model_input: A table with a column ``image`` (base64 as it comes: with line breaks, as a data URI, for
                URLs, without padding; a path, unless this is a server; or bytes) or ``image_bytes``; where both are
                there, each row's own that is not blank.
            params: ``top_k``, labels per task.
        """
        table = pd.DataFrame(model_input)
        if not {IMAGE, CONTENT} & set(table.columns):
            names = ", ".join(map(repr, table.columns)) or "none"
            raise MlflowException(
                f"the input needs a column '{IMAGE}' (base64, or a path) or '{CONTENT}'; its columns are: {names}",
                error_code=INVALID_PARAMETER_VALUE,
            )
        for column in {IMAGE, CONTENT} & set(table.columns):  # of a dict of lists MLflow makes one row of lists
            if any(isinstance(cell, list) for cell in table[column]):
                table = table.explode(column, ignore_index=True)
        blank = [None] * len(table)
        cells = zip(table.get(IMAGE, blank), table.get(CONTENT, blank), strict=True)
        sources = [_source(image if _is_there(image) else content) for image, content in cells]
        names = [str(source.path) if isinstance(source, _File) else str(i) for i, source in enumerate(sources)]
        photos = [source.photo if isinstance(source, _File) else source for source in sources]
        found = self.predictor.predict(photos, top_k=int((params or {}).get("top_k", 1)))
        found = pd.concat([pd.DataFrame({"image": names}), found], axis=1)
        if "mlserver" in sys.modules:
            return MlserverTable(found.astype({name: object for name in found if not is_numeric_dtype(found[name])}))
        if _is_server():  # it writes JSON, which knows no NaN
            return found.astype(object).where(found.notna(), None)
        return _for_spark(found, self.predictor.tasks) if _is_spark_task() else found


class FashionModel(Labeller, PythonModel):
    """What MLflow loads."""


class MlserverColumn(pd.Series):
    """MLServer takes whatever column misses something for numbers, and fails on text; a null in JSON it can say."""

    def isnull(self):
        return super().isnull() & is_numeric_dtype(self.dtype)


class MlserverTable(pd.DataFrame):
    """A predictions table of ``MlserverColumn``."""

    @property
    def _constructor_sliced(self):
        return MlserverColumn


def _for_spark(table: pd.DataFrame, tasks: Tasks) -> pd.DataFrame:
    """MLflow makes texts of text columns for Spark, and of nothing the text 'None', which might be a label."""
    return table.fillna({task.slug: "" for task in tasks if not task.is_set})


class _File:
    """A cell that names a file of this machine."""

    def __init__(self, path: str):
        self.path, self.photo = path, PhotoFile.named(Path(path))


def _source(cell: object) -> "Photo | _File":
    if not _is_there(cell):
        return ImageError(Reason.MISSING, "the cell is blank")
    if isinstance(cell, bytes | bytearray | memoryview):
        return bytes(cell)
    text = os.fspath(cell) if isinstance(cell, os.PathLike) else cell
    if not isinstance(text, str):
        return ImageError(Reason.NOT_AN_IMAGE, f"expected base64, a path or bytes, got {type(cell).__name__}")
    if _paths_are_allowed() and _is_file(text):
        return _File(text)
    reason = (Reason.MISSING, "no such file") if _paths_are_allowed() else (Reason.NOT_AN_IMAGE, "not base64")
    return encoding.decoded(text) or ImageError(*reason)


def _is_there(cell: object) -> bool:
    return cell is not None and cell != "" and not (pd.api.types.is_scalar(cell) and pd.isna(cell))


def _is_server() -> bool:
    """MLflow's own server says so by a variable, MLServer by being there."""
    return os.environ.get("_MLFLOW_IS_IN_SERVING_ENVIRONMENT") == "true" or "mlserver" in sys.modules


def _is_spark_task() -> bool:
    """Whether this is a worker of Spark, and not a notebook that has it."""
    if "pyspark" not in sys.modules:
        return False
    from pyspark import TaskContext

    return TaskContext.get() is not None


def _paths_are_allowed() -> bool:
    """A stranger's request must not open files of the server."""
    return not _is_server() and os.environ.get("FMTL_ALLOW_PATHS", "true").lower() not in ("false", "0", "no")


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a path, or a null byte: base64 then
        return False


mlflow.models.set_model(FashionModel())
