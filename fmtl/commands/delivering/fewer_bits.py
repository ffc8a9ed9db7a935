"""An exported file in 8 bits: how much of it, and what that costs on the test photos. N images, K classes."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score

from fmtl.dataset.prepared import PreparedDataset
from fmtl.errors import DataError
from fmtl.evaluation.parity import Parity
from fmtl.model.exported import ExportedModel
from fmtl.model.exporting import quantizing
from fmtl.model.exporting.onnx_file import OnnxFile
from fmtl.model.labeller import Labeller
from fmtl.tasks import IGNORE_INDEX, Tasks

log = logging.getLogger(__name__)

CALIBRATED_ON = 256  # photos
LEFT = (0, 4, 8, 16, 32)  # first layers that stay in float32
MOST_LOST = 0.005  # mean accuracy on the validation photos
ROUNDS = 5


@dataclass(frozen=True)
class _Photos:
    """Stored squares of a split, spread over all of it where it is large, and their labels by task name."""

    dataset: PreparedDataset
    rows: np.ndarray
    batch_size: int

    @classmethod
    def of(cls, dataset: PreparedDataset, split: str, batch_size: int, most: int | None = None) -> "_Photos":
        rows = dataset.rows(split)
        if most is not None and len(rows) > most:
            rows = rows[np.linspace(0, len(rows) - 1, most).astype(int)]
        return cls(dataset, rows, batch_size)

    def batches(self) -> Iterator[np.ndarray]:
        for at in range(0, len(self.rows), self.batch_size):
            yield self.dataset.pixels(self.rows[at : at + self.batch_size])

    def probs(self, model: Labeller) -> dict[str, np.ndarray]:
        parts = [model.probs(pixels) for pixels in self.batches()]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def accuracies(self, tasks: Tasks, probs: Mapping[str, np.ndarray], thresholds: Mapping) -> dict[str, float]:
        return accuracies(tasks, probs, self.dataset.tasks.by_name(self.dataset.targets[self.rows]), thresholds)


def in_8_bits(
    file: OnnxFile, whole: ExportedModel, dataset: PreparedDataset, batch_size: int
) -> tuple[bytes, dict[str, Any]]:
    """The file with as many layers in 8 bits as cost ``MOST_LOST`` of val accuracy at most, and what it costs on test.

    Args:
        whole: The file in float32.
    """
    _check_labels(whole.tasks, dataset)
    val, test = (_Photos.of(dataset, split, batch_size) for split in ("val", "test"))
    calibrating = _Photos.of(dataset, "val", batch_size, CALIBRATED_ON)
    before = _mean(val.accuracies(whole.tasks, val.probs(whole), whole.thresholds))
    tried: list[tuple[float, int, bytes]] = []
    for num_left in LEFT:
        made = file.content(quantizing.quantized(file.answers, calibrating.batches(), num_left))
        found = ExportedModel(made, "the file of 8 bits")
        lost = before - _mean(val.accuracies(whole.tasks, val.probs(found), whole.thresholds))
        log.info("8 bits but for the first %d layers: %.4f of accuracy lost on val", num_left, lost)
        tried.append((lost, num_left, made))
        if lost <= MOST_LOST:
            break
    lost, num_left, made = tried[-1] if tried[-1][0] <= MOST_LOST else min(tried)
    if lost > MOST_LOST:
        log.warning("8 bits lose %.4f of accuracy on val, however many of the first layers are left out", lost)
    return made, {"layers_in_float32": num_left, **_costs(whole, ExportedModel(made, "the file"), test)}


def _check_labels(tasks: Tasks, dataset: PreparedDataset) -> None:
    """Raise DataError where scales can't be taken from a dataset's photos, or accuracies from its labels."""
    if not len(dataset.rows("val")):
        raise DataError("no photo in its val split, by which 8 bits are fitted", where=str(dataset.folder))
    own = {task.name: task for task in dataset.tasks}
    for task in tasks:
        if task.name not in own or own[task.name].classes != task.classes:
            raise DataError(
                f"'{task.name}': other classes than the model's; 8 bits are weighed on the dataset of its training",
                where=str(dataset.folder),
            )


def _costs(whole: ExportedModel, fewer: ExportedModel, photos: _Photos) -> dict[str, Any]:
    """``speed``: how many times as fast the other is, the median of rounds in turn."""
    tasks, thresholds = whole.tasks, whole.thresholds
    probs = {"float32": photos.probs(whole), "int8": photos.probs(fewer)}
    parity = Parity("float32 and 8 bits")
    names = photos.dataset.table["path"].iloc[photos.rows].tolist()
    parity.add(tasks, names, probs["float32"], probs["int8"], thresholds)
    pixels = next(photos.batches())
    ratios = [_seconds(whole, pixels) / _seconds(fewer, pixels) for _ in range(ROUNDS)]
    return {
        "accuracy": {which: photos.accuracies(tasks, found, thresholds) for which, found in probs.items()},
        "speed": float(np.median(ratios)),
        "speed_range": [min(ratios), max(ratios)],
        "against_float32": parity.to_json(),
    }


def told(costs: Mapping[str, Any]) -> Sequence[str]:
    """For people, a line per task."""
    before, after = costs["accuracy"]["float32"], costs["accuracy"]["int8"]
    return [
        *(f"{slug}: accuracy {before[slug]:.4f} in float32, {after[slug]:.4f} in 8 bits" for slug in before),
        f"8 bits, but for the first {costs['layers_in_float32']} layers: {costs['speed']:.2f} times as fast here",
    ]


def accuracies(
    tasks: Tasks, probs: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray], thresholds: Mapping
) -> dict[str, float]:
    """Share of known labels that are right, by slug; of a set of its values, each by itself."""
    found = {}
    for task in tasks:
        if task.name not in targets:
            continue
        want = targets[task.name]
        known = want != IGNORE_INDEX
        said = (probs[task.name] >= thresholds[task.name]) if task.is_set else probs[task.name].argmax(axis=1)
        if known.any():
            found[task.slug] = float(accuracy_score(want[known], said.astype(np.int64)[known]))
    return found


def _mean(by_task: Mapping[str, float]) -> float:
    return float(np.mean(list(by_task.values()))) if by_task else 0.0


def _seconds(model: Labeller, pixels: np.ndarray) -> float:
    model.probs(pixels)
    began = time.perf_counter()
    model.probs(pixels)
    return time.perf_counter() - began
