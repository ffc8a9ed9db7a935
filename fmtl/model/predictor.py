"""Network, tasks and preprocessing as one thing on disk: images to labelled predictions.

A model folder holds ``model.json`` and ``weights.safetensors``: data only, no code. N images, K classes.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.errors import DataError
from fmtl.loading.prefetch import prefetched
from fmtl.loading.preprocess import as_images, prepare_for_network
from fmtl.model import backbones
from fmtl.model.confidence import Confidence
from fmtl.model.execution import Execution
from fmtl.model.labeller import Labeller, Photo
from fmtl.model.network import MultiTaskNet
from fmtl.storage import durable
from fmtl.storage.records import SEAL, checked, read_json, sealed
from fmtl.tasks import Tasks

FORMAT, VERSION = "fmtl-model", 2
DESCRIPTION, WEIGHTS = "model.json", "weights.safetensors"
_FIELDS = {
    "format": str, "version": int, "backbone": str, "tasks": list, "preprocess": dict, "execution": dict,
    "weights_sha256": str,
}  # fmt: skip
_OPTIONAL = {SEAL: str, "confidence": dict}
_EXECUTION = {"precision": str, "channels_last": bool, "compile": bool}
AHEAD = 3  # batches that are decoded while a GPU computes


def save(
    folder: Path,
    net: MultiTaskNet,
    *,
    backbone: str,
    tasks: Tasks,
    preprocess: Preprocess,
    confidence: Confidence | None = None,
) -> None:
    """Write a model folder.

    Args:
        confidence: With the temperatures that the network has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    durable.write_bytes(folder / WEIGHTS, safetensors.torch.save(state))
    description = {
        "format": FORMAT,
        "version": VERSION,
        "backbone": backbone,
        "tasks": tasks.to_json(),
        "preprocess": preprocess.to_json(),
        "execution": replace(net.execution, compile=False).to_json(),
        "weights_sha256": durable.sha256(folder / WEIGHTS),
    }
    if confidence is not None:
        description["confidence"] = confidence.to_json()
    durable.write_json(folder / DESCRIPTION, sealed(description))


@dataclass
class Predictor(Labeller):
    """A network that labels photos.

    Attributes:
        backbone: Its name, where it is known.
        confidence: Its network's temperatures, and from which confidence labels are accepted.
        notes: How many photos so far were turned, converted, ...; see ``images.Facts``.
    """

    net: MultiTaskNet
    tasks: Tasks
    preprocess: Preprocess
    device: torch.device
    backbone: str = ""
    confidence: Confidence = field(default_factory=Confidence)
    notes: Counter[str] = field(default_factory=Counter)

    @torch.no_grad()
    def probs(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Class probabilities ``(N, K)`` float32 by task name, of ``(N, stored_px, stored_px, 3)`` uint8."""
        logits = self.net(prepare_for_network(as_images(pixels).to(self.device), self.preprocess))
        return {name: found.cpu().numpy() for name, found in self.net.probs(logits).items()}

    @cached_property
    def thresholds(self) -> dict[str, np.ndarray]:
        """``(values,)`` by name of each set."""
        return {name: values.cpu().numpy() for name, values in self.net.thresholds_of.items()}

    def comparable(self, photos: Sequence[Photo]) -> pd.DataFrame:
        """What it says of photos, such that a little less or more of a probability changes it little: of sets, and of
        attributes that do not apply to every product, the probability of each class in place of what it says; nowhere
        whether a label is accepted."""
        table = replace(self, confidence=Confidence(), notes=Counter()).predict(photos)
        probs = self.probs(np.stack([self.decode(photo) for photo in photos]))
        for task in self.tasks:
            if task.is_set or task.name in self.tasks.applicability:
                table = table.drop(columns=[task.slug, f"{task.slug}/confidence"])
                table[[f"{task.slug}/{label}" for label in task.classes]] = probs[task.name].astype(float)
        return table

    def column_batches(
        self, photos: Sequence[Photo], *, top_k: int, batch_size: int
    ) -> Iterator[dict[str, np.ndarray]]:
        """As of any labeller; for a GPU the next photos are decoded while it computes."""
        batches = self.decoded_batches(photos, batch_size)
        for status, pixels in batches if self.device.type == "cpu" else prefetched(batches, AHEAD):
            yield self.columns(status, self.probs(pixels) if len(pixels) else {}, top_k)


def describe(folder: Path) -> dict:
    """What a model folder says of itself.

    Raises:
        DataError: It is none, or of another version.
    """
    if not (folder / DESCRIPTION).is_file():
        raise DataError(f"model {folder}: not a model of fmtl (it has no {DESCRIPTION})")
    description = read_json(folder / DESCRIPTION)
    known = isinstance(description, dict) and description.get("format") == FORMAT
    if not known or description.get("version") != VERSION:
        raise DataError(f"model {folder}: not a model of fmtl, or not of this version ({FORMAT} version {VERSION})")
    checked(description, _FIELDS, optional=_OPTIONAL, where=str(folder / DESCRIPTION))
    checked(description["execution"], _EXECUTION, where=f"{folder / DESCRIPTION}, execution")
    return description


def load(folder: Path, device: torch.device | None = None, precision: str | None = None) -> Predictor:
    """Read a model folder.

    Args:
        precision: One of ``Execution``; None for the one that the model was trained and tested in.

    Raises:
        DataError: It is none, of another version, or its files do not belong together.
    """
    description = describe(folder)
    weights = folder / WEIGHTS
    if not weights.is_file() or durable.sha256(weights) != description["weights_sha256"]:
        raise DataError(f"model {folder}: {WEIGHTS} is missing or not the one that {DESCRIPTION} names")
    tasks = Tasks.from_json(description["tasks"], where=str(folder / DESCRIPTION))
    preprocess = Preprocess.from_json(description["preprocess"])
    net = backbones.build(description["backbone"], tasks.num_classes, tasks.sets, weights="none", px=preprocess.px)
    try:
        net.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError) as error:
        raise DataError(f"model {folder}: {WEIGHTS} does not fit {description['backbone']}: {error}") from error
    device = device or torch.device("cpu")
    execution = Execution(**description["execution"])
    net.eval().run_on(device, replace(execution, precision=precision or execution.precision))
    confidence = Confidence()
    if "confidence" in description:
        where = f"{folder / DESCRIPTION}, confidence"
        confidence = Confidence.from_json(description["confidence"], tasks, where=where)
        net.temperatures = dict(confidence.temperatures)
    return Predictor(net, tasks, preprocess, device, description["backbone"], confidence)
