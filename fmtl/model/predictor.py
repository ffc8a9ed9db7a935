"""Network, tasks and preprocessing as one thing on disk: images to labelled predictions.

A model folder holds ``model.json`` and ``weights.safetensors``: data only, no code. N images, K classes.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fmtl import machine
from fmtl.catalogue.photos.cells import PhotoCell
from fmtl.catalogue.photos.folder import ImageError, PhotoFile
from fmtl.dataset.pixels import images
from fmtl.errors import DataError
from fmtl.loading.prefetch import prefetched
from fmtl.loading.preprocess import Preprocess, as_images, prepare_for_network
from fmtl.model import backbones, decisions
from fmtl.model.confidence import Confidence
from fmtl.model.execution import Execution
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
OK = "ok"
ACCEPTED = "accepted"  # ends the name of the column that says whether a model is sure enough of a label
AHEAD = 3  # batches that are decoded while a GPU computes

Photo = PhotoFile | PhotoCell | bytes | ImageError  # where it lies, its content, or why there is none


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
class Predictor:
    """Labels images as training-time evaluation would.

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

    def decode(self, photo: Photo) -> np.ndarray:
        """``(stored_px, stored_px, 3)`` uint8; ImageError where it is none."""
        out = self._squares(1)[0]
        self._decode_into(out, photo)
        return out

    def predict(self, photos: Sequence[Photo], *, top_k: int = 1, batch_size: int = 32) -> pd.DataFrame:
        """A row per photo, in order, as a predictions table without its ``image`` column.

        One that can't be decoded, or is an ImageError already, gets its reason as ``status`` and no labels.
        """
        parts = list(self.predict_batches(photos, top_k=top_k, batch_size=batch_size))
        return pd.concat(parts, ignore_index=True) if parts else self._table([], {}, top_k)

    def predict_batches(self, photos: Sequence[Photo], *, top_k: int, batch_size: int) -> Iterator[pd.DataFrame]:
        """``predict``, one table per batch, in constant memory. Each photo is looked up and read once.

        Photos are decoded on all processors, for a GPU while it computes.
        """
        batches = self.decoded_batches(photos, batch_size)
        for status, pixels in batches if self.device.type == "cpu" else prefetched(batches, AHEAD):
            yield self._table(status, self.probs(pixels) if len(pixels) else {}, top_k)

    def decoded_batches(self, photos: Sequence[Photo], batch_size: int) -> Iterator[tuple[list[str], np.ndarray]]:
        """Per batch, what became of each photo, and the pixels of those that could be decoded."""
        with images.quiet(), ThreadPoolExecutor(machine.num_cpus()) as threads:
            for start in range(0, len(photos), batch_size):
                # Cells are read in turn: several at once would read their row groups again and again.
                batch = [_content(p) if isinstance(p, PhotoCell) else p for p in photos[start : start + batch_size]]
                out = self._squares(len(batch))
                status = []
                for told, notes in threads.map(self._status, out, batch):
                    status.append(told)
                    self.notes.update(notes)
                good = [n for n, told in enumerate(status) if told == OK]
                yield status, out if len(good) == len(out) else out[good]

    def _status(self, out: np.ndarray, photo: Photo) -> tuple[str, tuple[str, ...]]:
        """What became of a photo, and the notes on it."""
        try:
            return OK, self._decode_into(out, photo)
        except ImageError as error:
            return str(error.reason), ()

    def _decode_into(self, out: np.ndarray, photo: Photo) -> tuple[str, ...]:
        content = _content(photo)
        if isinstance(content, ImageError):
            raise content
        p = self.preprocess
        facts = images.decode_into(out, content, fit=p.fit, background=p.background, profiles=p.profiles)
        return facts.notes

    def _squares(self, num: int) -> np.ndarray:
        return np.empty((num, self.preprocess.stored_px, self.preprocess.stored_px, 3), np.uint8)

    def _table(self, status: list[str], probs: Mapping[str, np.ndarray], top_k: int) -> pd.DataFrame:
        good = [n for n, told in enumerate(status) if told == OK]
        columns = {"status": pd.Series(status, dtype=object)}
        accepted = self.confidence.accepted_from
        if not good:
            probs = {task.name: np.empty((0, task.num_classes), np.float32) for task in self.tasks}
        accepted_from = {task.slug: of for task in self.tasks if (of := accepted.get(task.name)) is not None}
        for name, values in decisions.labels_of(self.tasks, probs, self.thresholds, top_k).items():
            is_number = name.endswith("confidence")
            column = np.full(len(status), np.nan if is_number else None, dtype=float if is_number else object)
            column[good] = values if is_number else _objects(values)
            columns[name] = pd.Series(column, dtype=column.dtype)
            slug = name.removesuffix("/confidence")
            if is_number and slug in accepted_from:
                is_sure = [None if np.isnan(value) else bool(value >= accepted_from[slug]) for value in column]
                columns[f"{slug}/{ACCEPTED}"] = pd.Series(is_sure, dtype=object)
        return pd.DataFrame(columns)


def _content(photo: Photo) -> bytes | ImageError:
    """The bytes of a photo, or why there are none."""
    if isinstance(photo, bytes | ImageError):
        return photo
    try:
        return photo.read()
    except ImageError as error:
        return error


def _objects(values: list) -> np.ndarray:
    """An array whose items may be lists."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def attribute_names(columns: Iterable[str], tasks: Tasks) -> dict[str, str]:
    """By column of a predictions table, the same with the attribute's own name in place of its slug."""
    names = {task.slug: task.name for task in tasks}
    parts = {column: column.partition("/") for column in columns}
    return {column: names.get(slug, slug) + slash + rest for column, (slug, slash, rest) in parts.items()}


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
