"""The PT2 archive: what the ONNX file is, for programs that have torch and not us."""

import io
import zipfile

import torch
from torch.export import Dim

from fmtl.model.exported import KEYS, Description
from fmtl.model.exporting.answering import Whole
from fmtl.model.predictor import Predictor

_FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # of what a ZIP archive can date


def build(model: Predictor, description: Description) -> bytes:
    """An archive for ``torch.export.load``: ``(N, H, W, 3)`` uint8, H and W of 2 at least, to a dict by slug.

    Its metadata are extra files of it.
    """
    px = model.preprocess.stored_px
    example = torch.zeros(2, px + 9, px + 31, 3, dtype=torch.uint8)
    sizes = {dimension: Dim.DYNAMIC for dimension in range(3)}
    with torch.no_grad():
        program = torch.export.export(Whole(model), (example,), dynamic_shapes=(sizes,), strict=False)
    _without_code(program.graph_module)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=description.to_metadata())
    return _undated(buffer.getvalue())


def load(content: bytes) -> tuple[torch.nn.Module, dict[str, str]]:
    """The module and its metadata; of a file that one has made, since an archive may hold anything."""
    keys = dict.fromkeys(KEYS, "")
    program = torch.export.load(io.BytesIO(content), extra_files=keys)
    return program.module(), {key: value if isinstance(value, str) else value.decode() for key, value in keys.items()}


def _without_code(graph_module: torch.fx.GraphModule) -> None:
    """No word of where the code lay that it was traced from."""
    for node in graph_module.graph.nodes:
        for key in ("stack_trace", "source_fn_stack", "nn_module_stack", "torch_fn"):
            node.meta.pop(key, None)


def _undated(content: bytes) -> bytes:
    """The same archive, its entries in order and without dates, so that it is the same each time."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            new.writestr(zipfile.ZipInfo(entry.filename, _FIRST_DAY), old.read(entry))
    return out.getvalue()
