"""The network of an exported file in 8 bits: smaller, on many processors faster, a little less right."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto
from onnxruntime import quantization
from onnxruntime.quantization import shape_inference

from fmtl.model.exporting.onnx_file import SQUARE
from fmtl.storage import durable

LAYERS = ("Conv", "Gemm", "MatMul")
BEGINS = ("Conv", "Gemm")  # the first of these is the network's, and what is before it makes its input


class _Photos(quantization.CalibrationDataReader):
    def __init__(self, batches: Iterator[np.ndarray]):
        self._batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {SQUARE: batch}


def quantized(answers: ModelProto, photos: Iterator[np.ndarray], num_left: int) -> ModelProto:
    """The graph of ``OnnxFile.answers`` with weights, each channel on a scale of its own, and what lies between
    layers in 8 bits.

    Args:
        photos: Batches ``(N, S, S, 3)`` uint8, from which it is seen how large what lies between layers gets.
        num_left: Of the layers with weights, the first so many stay in float32: what they get and give has a range
            of its own in each channel, for which one scale is coarse.
    """
    with durable.temporary_folder() as folder, _quiet():
        given, prepared, made = (folder / f"{name}.onnx" for name in ("given", "prepared", "made"))
        onnx.save(answers, given)
        shape_inference.quant_pre_process(str(given), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared), str(made), _Photos(photos), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=_left(prepared, num_left),
        )  # fmt: skip
        return onnx.load(made)


def _left(path: Path, num_left: int) -> list[str]:
    """Names of the nodes that make the network's input, and of its first layers."""
    nodes = list(onnx.load(path).graph.node)
    begins = next((i for i, node in enumerate(nodes) if node.op_type in BEGINS), 0)
    layers = [node for node in nodes[begins:] if node.op_type in LAYERS]
    return [node.name for node in (*nodes[:begins], *layers[:num_left])]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Its advice is for people who call it by hand; it logs by the root, which gets a handler by that."""
    root = logging.getLogger()
    before, handlers = root.level, list(root.handlers)
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(before)
        root.handlers[:] = handlers
