"""A model that is one ONNX file, run by onnxruntime: no torch and no MLflow here."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from fmtl import __version__, machine
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.errors import DataError, UsageError
from fmtl.model.confidence import Confidence
from fmtl.model.labeller import Labeller
from fmtl.tasks import Tasks

SUFFIX = ".onnx"
IMAGE = "image"  # the graph's input
FORMAT = "fmtl-onnx-1"
_TEXTS = ("format", "fmtl", "name", "version", "data")
_PARTS = ("tasks", "preprocess", "thresholds", "confidence")
KEYS = (*_PARTS, *_TEXTS)  # of the metadata


@dataclass(frozen=True)
class Description:
    """What an exported file says of itself: its metadata.

    Attributes:
        name: Which model it was, such as ``models:/fashion-attributes@champion``.
        version: Of the registered model; empty of another.
        data: Digest of the dataset that it was trained on; empty where that is not known.
        thresholds: By name of each set, the probability of each value from which on an image is said to have it.
        confidence: Its temperatures, which are in the graph already, and from where labels are accepted.
    """

    tasks: Tasks
    preprocess: Preprocess
    thresholds: Mapping[str, list[float]] = field(default_factory=dict)
    confidence: Confidence = field(default_factory=Confidence)
    name: str = ""
    version: str = ""
    data: str = ""
    fmtl: str = __version__
    format: str = FORMAT

    def to_metadata(self) -> dict[str, str]:
        """Texts by key, as ONNX has them: those of lists and mappings are JSON."""
        content = {
            "tasks": self.tasks.to_json(),
            "preprocess": self.preprocess.to_json(),
            "thresholds": dict(self.thresholds),
            "confidence": self.confidence.to_json(),
        }
        texts = {key: json.dumps(value, ensure_ascii=False) for key, value in content.items()}
        return texts | {key: getattr(self, key) for key in _TEXTS}

    @classmethod
    def from_metadata(cls, texts: Mapping[str, str], where: str) -> "Description":
        """What ``to_metadata`` made.

        Raises:
            DataError: It is something else.
        """
        if texts.get("format") != FORMAT:
            raise DataError(f"not a file of fmtl export (of format {FORMAT})", where=where)
        try:
            parts = {key: json.loads(texts[key]) for key in _PARTS}
        except (KeyError, ValueError, RecursionError) as error:
            raise DataError(f"its metadata can't be read ({error})", where=where) from error
        tasks = Tasks.from_json(parts["tasks"], where=f"{where}, tasks")
        return cls(
            tasks,
            Preprocess.from_json(parts["preprocess"]),
            _thresholds(parts["thresholds"], tasks, where),
            Confidence.from_json(parts["confidence"], tasks, where=f"{where}, confidence"),
            **{key: texts.get(key, "") for key in _TEXTS},
        )


class ExportedModel(Labeller):
    """An exported file that labels photos.

    Args:
        content: The file's bytes.
        where: Its name, for messages.
        num_threads: Processors that one batch may take.

    Raises:
        DataError: It is no file of ``fmtl export``, or damaged.
    """

    def __init__(self, content: bytes, where: str, *, num_threads: int | None = None):
        self._session = _session(content, where, num_threads or machine.num_cpus())
        self.description = Description.from_metadata(self._session.get_modelmeta().custom_metadata_map, where)
        self.sha256 = sha256(content).hexdigest()
        self.tasks, self.preprocess = self.description.tasks, self.description.preprocess
        self.confidence, self.notes = self.description.confidence, Counter()
        self._thresholds = {name: np.array(v, np.float32) for name, v in self.description.thresholds.items()}
        outputs = {output.name: output.shape[1] for output in self._session.get_outputs()}
        if outputs != {task.slug: task.num_classes for task in self.tasks}:
            raise DataError("its outputs are not those of the tasks that it names", where=where)

    @property
    def thresholds(self) -> dict[str, np.ndarray]:
        return self._thresholds

    def probs(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """As of any labeller; RGB of any other size is fitted by the file itself, ``(N, H, W, 3)`` uint8."""
        found = self._session.run([task.slug for task in self.tasks], {IMAGE: pixels})
        return {task.name: part for task, part in zip(self.tasks, found, strict=True)}


def load(path: Path, *, num_threads: int | None = None) -> ExportedModel:
    """Read an exported file.

    Raises:
        DataError: It is not there, or none.
        UsageError: onnxruntime is not installed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"can't be read ({error.strerror})", where=str(path)) from error
    return ExportedModel(content, str(path), num_threads=num_threads)


def _session(content: bytes, where: str, num_threads: int) -> Any:
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as faults
    except ImportError as error:
        raise UsageError("model: an .onnx file needs onnxruntime; pip install 'fmtl[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.log_severity_level = 3  # errors
    refused = (faults.Fail, faults.InvalidProtobuf, faults.InvalidGraph, faults.NotImplemented, faults.InvalidArgument)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except refused as error:
        raise DataError(f"onnxruntime can't load it: {str(error)[:300]}", where=where) from error


def _thresholds(content: Any, tasks: Tasks, where: str) -> dict[str, list[float]]:
    sizes = {task.name: task.num_classes for task in tasks if task.is_set}
    is_right = isinstance(content, dict) and {name: len(values) for name, values in content.items()} == sizes
    if not is_right or not all(isinstance(value, float) for values in content.values() for value in values):
        raise DataError("thresholds: expected a number for each value of each set", where=where)
    return content
