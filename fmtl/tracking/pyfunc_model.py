"""What MLflow runs to serve a logged model. It is copied into every model, so it stays small."""

import base64
import binascii
import os
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel

from fmtl.catalogue.photos.folder import ImageError, PhotoFile
from fmtl.catalogue.reasons import Reason
from fmtl.model import predictor
from fmtl.model.predictor import Photo


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
            model_input: Column ``image`` (base64, or a path; paths are refused when serving) or ``image_bytes``.
            params: ``top_k``, labels per task.
        """
        if "image_bytes" in model_input:
            names = [str(i) for i in range(len(model_input))]
            sources = [_content(cell) for cell in model_input["image_bytes"]]
        else:
            sources = [_source(text) for text in model_input["image"]]
            paths = zip(model_input["image"], sources, strict=True)
            names = [text if isinstance(source, PhotoFile) else str(i) for i, (text, source) in enumerate(paths)]
        table = self.predictor.predict(sources, top_k=int((params or {}).get("top_k", 1)))
        return pd.concat([pd.DataFrame({"image": names}), table], axis=1)


class FashionModel(Labeller, PythonModel):
    """What MLflow loads."""


def _content(cell: object) -> Photo:
    return bytes(cell) if isinstance(cell, bytes | bytearray) else ImageError(Reason.MISSING, "the cell is blank")


def _source(text: object) -> Photo:
    if not isinstance(text, str):
        return ImageError(Reason.MISSING, "the cell is blank")
    serving = os.environ.get("_MLFLOW_IS_IN_SERVING_ENVIRONMENT") == "true"
    if not serving and _is_file(text):
        return PhotoFile.named(Path(text))
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        if serving:
            return ImageError(Reason.NOT_AN_IMAGE, "not base64")
        return ImageError(Reason.MISSING, "no such file")


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a path, or a null byte: base64 then
        return False


mlflow.models.set_model(FashionModel())
