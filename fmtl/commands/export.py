"""``export``: a model to one file with its preprocessing inside, which says what the model says or is not made."""

import importlib.metadata
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fmtl.commands.choosing import models, tested
from fmtl.commands.delivering import comparing
from fmtl.commands.delivering.source import Source, source_of
from fmtl.dataset.prepared import PreparedDataset, open_dataset
from fmtl.errors import DataError, UsageError
from fmtl.model.exported import Description, ExportedModel
from fmtl.model.exporting.answering import Answers
from fmtl.model.predictor import Predictor
from fmtl.settings.delivery import ExportSettings
from fmtl.storage import durable
from fmtl.tracking import registry
from fmtl.tracking.recording import Run
from fmtl.tracking.run import open_run

log = logging.getLogger(__name__)

REPORT = "parity.json"


@dataclass(frozen=True)
class _Made:
    """An exported file before it is written.

    Attributes:
        answer: What it says of ``(N, H, W, 3)`` uint8; of one of fewer bits what the same in float32 says.
        costs: What fewer bits cost.
    """

    content: bytes
    answer: Callable[[np.ndarray], comparing.Probs]
    costs: dict[str, Any] | None = None


def export(settings: ExportSettings) -> Path:
    """Run the whole command; prints what was compared. Returns the file.

    Raises:
        DataError: The model or its photos are not there, or the file does not say what the model says.
        UsageError: What writes such files is not installed.
    """
    _require(settings.format)
    source = source_of(settings.model)
    model, _ = models.load(source.address, device="cpu", precision="fp32")
    dataset = _dataset(settings, source)
    suffix = f"-{settings.quantize}" * bool(settings.quantize) + f".{settings.format}"
    out = Path(settings.out or source.stem + suffix)
    durable.check_writable(out.parent)
    with open_run("export", name=f"export-{out.name}", experiment=settings.experiment) as run:
        run.log_params(settings.model_dump(mode="json", exclude={"experiment"}))
        run.set_tags({"fmtl.data": dataset.digest, "fmtl.model": source.address})
        description = _description(model, source, dataset)
        made = _made(model, description, dataset, settings)
        compared = comparing.compare(model, Answers(model).exact, made.answer, dataset, settings.batch_size)
        digest = sha256(made.content).hexdigest()
        report = {
            "file": out.name, "sha256": digest, "bytes": len(made.content), "model": source.address,
            "registered": f"{source.name}/{source.version}" if source.version else None, "data": dataset.digest,
            "split": "test", "versions": _versions(), **compared.to_json(),
        }  # fmt: skip
        if made.costs:
            report |= {"comparisons_are_of": "the same file in float32", "costs": made.costs}
        durable.write_json(run.folder / REPORT, report)
        for told in compared.parities:
            print(told)
        if reason := compared.why_not():
            raise DataError(f"the file does not say what the model says, and is not written: {reason}", where=out.name)
        durable.write_bytes(out, made.content)
        durable.write_json(out.with_name(f"{out.name}.{REPORT}"), report)
        _tell(run, source, settings, digest, report)
    print(f"exported: {out} ({len(made.content) / 1e6:.1f} MB)")
    if warning := compared.warning():
        log.warning("%s", warning)
    if compared.large:
        print(
            f"{compared.large} of the test photos have more pixels than are fitted at once and were compared as squares"
        )
    if compared.unread:
        print(f"{compared.unread} of the test photos can't be read at full size where they were")
    return out


def _require(format: str) -> None:
    try:
        if format == "onnx":
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"format: onnx needs {error.name}; pip install 'fmtl[onnx]'") from error


def _dataset(settings: ExportSettings, source: Source) -> PreparedDataset:
    """On whose test photos the file is compared: what was named, or what the model was trained on."""
    if settings.data:
        found: PreparedDataset | str = open_dataset(settings.data)
    elif source.run is None:
        found = "the run that trained it is not known"
    else:
        found = tested.dataset_of(source.run)
    if isinstance(found, str):
        raise DataError(f"{found}; --data DATASET says on which photos the file is to be compared", where="data")
    if not len(found.rows("test")):
        raise DataError("no photo in its test split, so that nothing can be compared", where=str(found.folder))
    return found


def _description(model: Predictor, source: Source, dataset: PreparedDataset) -> Description:
    return Description(
        model.tasks, model.preprocess, {name: [float(v) for v in values] for name, values in model.thresholds.items()},
        model.confidence, name=source.name or source.stem, version=str(source.version or ""),
        data=source.data or dataset.digest,
    )  # fmt: skip


def _made(model: Predictor, description: Description, dataset: PreparedDataset, settings: ExportSettings) -> _Made:
    if settings.format == "pt2":
        return _traced(model, description)
    from fmtl.model.exporting.onnx_file import OnnxFile

    file = OnnxFile(model, description)
    content = file.content()
    whole = ExportedModel(content, "the file")
    if not settings.quantize:
        return _Made(content, whole.probs)
    if not comparing.sees(model.preprocess, dataset):
        raise DataError(
            "its photos were prepared otherwise than those of the model, so that 8 bits can't be fitted to them",
            where=str(dataset.folder),
        )
    from fmtl.commands.delivering import fewer_bits

    fewer, costs = fewer_bits.in_8_bits(file, whole, dataset, settings.batch_size)
    print("\n".join(fewer_bits.told(costs)))
    return _Made(fewer, whole.probs, costs)


def _traced(model: Predictor, description: Description) -> _Made:
    from fmtl.model.exporting import pt2_file

    content = pt2_file.build(model, description)
    module, _ = pt2_file.load(content)

    @torch.no_grad()
    def answer(pixels: np.ndarray) -> comparing.Probs:
        found = module(torch.tensor(pixels))
        return {task.name: found[task.slug].numpy() for task in model.tasks}

    return _Made(content, answer)


def _versions() -> dict[str, str]:
    names = ("fmtl", "torch", "onnx", "onnxruntime", "pillow", "simplejpeg", "numpy")
    return {name: importlib.metadata.version(name) for name in names if _is_installed(name)}


def _is_installed(name: str) -> bool:
    return next(iter(importlib.metadata.distributions(name=name)), None) is not None


def _tell(run: Run, source: Source, settings: ExportSettings, digest: str, report: dict[str, Any]) -> None:
    """Say on the run, and on the registered version, what was exported and how it compared."""
    # Of one of 8 bits what it says itself, not what the same in float32 says.
    found = [report["costs"]["against_float32"]] if "costs" in report else report["comparisons"]
    same = [c["largest_difference"] for c in found if c["compared"] != comparing.WHOLE]
    run.log_metrics({"export/largest_difference": max(same, default=0.0), "export/bytes": report["bytes"]})
    if source.name and source.version:
        kind = f"fmtl.export.{settings.format}" + f".{settings.quantize}" * bool(settings.quantize)
        tags = {
            f"{kind}.sha256": digest,
            f"{kind}.run": run.id,
            f"{kind}.parity": json.dumps(
                [{k: c[k] for k in ("compared", "images", "share_equal", "largest_difference")}
                 for c in found]
            ),
        }  # fmt: skip
        registry.tag_version(source.name, source.version, tags)
