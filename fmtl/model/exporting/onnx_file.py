"""The ONNX file: uint8 RGB of any size in, probabilities by task out, and beside the graph what labels need.

The graph fits a photo into the stored square, unless it has that size already, in the one or other order of
directions (``fitting.Sides``), and then answers.
"""

from collections.abc import Mapping, Sequence

import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from torch import Tensor, nn

from fmtl.errors import UsageError
from fmtl.model.exported import IMAGE, Description
from fmtl.model.exporting.answering import Answers
from fmtl.model.exporting.fitting import Fit, Sides
from fmtl.model.predictor import Predictor

OPSET, IR = 20, 10  # what onnxruntime has since 1.18
# No attribute's slug has a slash, and whatever a network calls its own values gets one.
SQUARE, DOWN_FIRST, ANSWER = "fmtl/square", "fmtl/is_down_first", "fmtl/answer/"
MOST_BYTES = 2**31 - 2**20  # of a file of protocol buffers


class OnnxFile:
    """The parts of a model's file, traced once: what is before the network, and the network.

    Attributes:
        answers: The graph from the stored square to probabilities.
    """

    def __init__(self, model: Predictor, description: Description):
        px = model.preprocess.stored_px
        self._px, self._tasks, self._description = px, model.tasks, description
        photos = torch.zeros(2, px + 9, px + 31, 3, dtype=torch.uint8)  # of a shape that nothing else has
        self._fits = {
            first: _traced(Fit(model.preprocess, down_first=first), photos, (0, 1, 2), IMAGE, [SQUARE])
            for first in (False, True)
        }
        self._order = _traced(Sides(px, model.preprocess.fit), photos, (0, 1, 2), IMAGE, [DOWN_FIRST])
        squares = torch.zeros(2, px, px, 3, dtype=torch.uint8)
        self.answers = _traced(Answers(model), squares, (0,), SQUARE, [f"{ANSWER}{n}" for n in range(len(model.tasks))])

    def content(self, answers: ModelProto | None = None) -> bytes:
        """The whole file, the same each time.

        Args:
            answers: In place of the file's own.
        """
        slugs = {f"{ANSWER}{n}": task.slug for n, task in enumerate(self._tasks)}
        last = _prefixed((answers or self.answers).graph, "answers/", {SQUARE: SQUARE, **slugs})
        fit = helper.make_node(
            "If", ["fmtl/is_square"], [SQUARE], then_branch=_unchanged(), else_branch=self._fitting()
        )  # fmt: skip
        graph = helper.make_graph(
            [*_is_square(), fit, *last.node],
            "fmtl",
            [helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["N", "H", "W", 3])],
            [helper.make_tensor_value_info(t.slug, TensorProto.FLOAT, ["N", t.num_classes]) for t in self._tasks],
            initializer=[
                *last.initializer, helper.make_tensor("fmtl/stored_size", TensorProto.INT64, [2], [self._px, self._px])
            ],
        )  # fmt: skip
        whole = helper.make_model(
            graph, producer_name="fmtl", ir_version=IR, opset_imports=[helper.make_opsetid("", OPSET)]
        )
        helper.set_model_props(whole, self._description.to_metadata())
        onnx.checker.check_model(whole, full_check=True)
        return whole.SerializeToString(deterministic=True)

    def _fitting(self) -> GraphProto:
        """Which direction comes first, and the fit in that order."""
        order = _prefixed(self._order.graph, "order/")
        fit = helper.make_node(
            "If", [f"order/{DOWN_FIRST}"], ["fmtl/fitted"],
            then_branch=_branch(self._fits[True].graph, "down/"),
            else_branch=_branch(self._fits[False].graph, "across/"),
        )  # fmt: skip
        return helper.make_graph(
            [*order.node, fit], "fit", [], [_any_size("fmtl/fitted")], initializer=order.initializer
        )


def _traced(
    module: nn.Module, example: Tensor, dynamic: Sequence[int], inputs: str, outputs: Sequence[str]
) -> ModelProto:
    """A module as a graph, its values named after its input and outputs.

    Args:
        dynamic: The dimensions of the input that may have any size.
    """
    sizes = {dimension: torch.export.Dim.DYNAMIC for dimension in dynamic}
    with torch.no_grad():
        program = torch.onnx.export(
            module.eval(), (example,), dynamo=True, dynamic_shapes=(sizes,), opset_version=OPSET, verbose=False,
            input_names=[inputs], output_names=list(outputs),
        )  # fmt: skip
    assert program is not None
    made = program.model_proto
    if made.ByteSize() > MOST_BYTES:
        raise UsageError("format: the network is too large for one ONNX file (2 GiB); pt2 has no such limit")
    return made


def _unchanged() -> GraphProto:
    return helper.make_graph(
        [helper.make_node("Identity", [IMAGE], ["fmtl/unchanged"])], "fmtl/unchanged", [], [_any_size("fmtl/unchanged")]
    )


def _any_size(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.UINT8, None)


def _is_square() -> list[NodeProto]:
    """Whether the image has the stored size already."""
    return [
        helper.make_node("Shape", [IMAGE], ["fmtl/size"], start=1, end=3),
        helper.make_node("Equal", ["fmtl/size", "fmtl/stored_size"], ["fmtl/same"]),
        helper.make_node("Cast", ["fmtl/same"], ["fmtl/same_as_numbers"], to=TensorProto.INT32),
        helper.make_node("ReduceMin", ["fmtl/same_as_numbers"], ["fmtl/both_same"], keepdims=0),
        helper.make_node("Cast", ["fmtl/both_same"], ["fmtl/is_square"], to=TensorProto.BOOL),
    ]


def _branch(graph: GraphProto, prefix: str) -> GraphProto:
    found = _prefixed(graph, prefix)
    found.ClearField("input")  # it takes the image from around it
    found.ClearField("value_info")
    found.output[0].type.tensor_type.ClearField("shape")
    return found


def _prefixed(graph: GraphProto, prefix: str, called: Mapping[str, str] | None = None) -> GraphProto:
    """The graph with names that no other has, without notes on the code that it was made by.

    Args:
        called: Names of values that are to be called otherwise.
    """
    known = {"": "", IMAGE: IMAGE} | dict(called or {})
    made = GraphProto()
    made.CopyFrom(graph)
    made.name = prefix.strip("/")

    def renamed(names: Sequence[str]) -> list[str]:
        return [known.get(name, prefix + name) for name in names]

    for node in made.node:
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise UsageError(f"format: the network has a loop or a branch ({node.op_type}), which no file is made of")
        for field in (node.input, node.output):
            names = renamed(list(field))
            del field[:]
            field.extend(names)
        node.name = prefix + node.name
        node.doc_string = ""
        node.ClearField("metadata_props")
    for value in (*made.initializer, *made.output, *made.input):
        value.name = renamed([value.name])[0]
        value.doc_string = ""
        value.ClearField("metadata_props")
    made.ClearField("value_info")
    made.ClearField("metadata_props")
    return made
