"""What a notebook gets back: plain numbers, and the network that was trained."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fmtl.catalogue.photos.folder import PhotoFile
from fmtl.commands.bringing.brought import Brought
from fmtl.commands.publisher import CheckpointFiles
from fmtl.errors import DataError, UsageError
from fmtl.metric_names import SCORES, score
from fmtl.model.decisions import labels_of
from fmtl.model.labeller import attribute_names
from fmtl.model.network import MultiTaskNet
from fmtl.model.predictor import Predictor
from fmtl.tasks import AVERAGE
from fmtl.training.history import Row
from fmtl.training.metrics import Confusion, cells
from fmtl.training.run import TrainResult


class TrainedModel(dict[str, Any]):
    """The result of a training, a plain dict that ``json.dumps`` takes; ``result["predict"]`` is its one function."""

    def __init__(self, values: Mapping[str, Any], brought: Brought, net: MultiTaskNet | None):
        super().__init__(values)
        self._brought, self._net = brought, net

    def __missing__(self, key: str) -> Any:
        if key == "predict":
            return self.predict
        raise KeyError(key)

    def forget(self) -> None:
        """Let go of the network, and with it of its memory."""
        self._net = None

    @torch.no_grad()
    def predict(self, images: object, *, batch_size: int = 32) -> pd.DataFrame:
        """Label images with the weights of the best epoch: a row each, with every attribute and its ``/confidence``.

        Args:
            images: ``(N, 3, H, W)`` floats as the loaders give them, one such image, or batches of them (a loader);
                or, where the training knew ``preprocess``, paths of photos.

        Raises:
            DataError, UsageError: They are none of these, or the network was not kept.
        """
        if self._net is None:
            raise UsageError(
                "predict: the networks of an analysis are not kept; train the one you want, or use "
                "save_checkpoints=True and fmtl predict --model checkpoints/..._best.pt"
            )
        self._net.eval()
        if isinstance(images, str | Path):
            images = [images]
        if isinstance(images, Sequence) and images and all(isinstance(image, str | Path) for image in images):
            return self._of_photos([Path(path) for path in images], batch_size)
        parts = [self._of_batch(part) for batch in _batches(images) for part in batch.split(batch_size)]
        if not parts:
            raise DataError("predict: no image was given")
        return pd.concat(parts, ignore_index=True)

    def _of_batch(self, images: Tensor) -> pd.DataFrame:
        assert self._net is not None
        probs = self._net.probs(
            {name: part.float() for name, part in self._net(images.float().to(self._brought.device)).items()}
        )
        found, thresholds = (
            {name: values.cpu().numpy() for name, values in some.items()} for some in (probs, self._net.thresholds_of)
        )
        table = pd.DataFrame(labels_of(self._brought.tasks, found, thresholds))
        return table.rename(columns=attribute_names(table.columns, self._brought.tasks))

    def _of_photos(self, paths: Sequence[Path], batch_size: int) -> pd.DataFrame:
        preprocess = self._brought.preprocess
        if preprocess is None or self._net is None:
            raise UsageError("predict: paths of photos need the training's preprocess=; else give tensors")
        predictor = Predictor(self._net, self._brought.tasks, preprocess, self._brought.device)
        table = predictor.predict([PhotoFile.named(path) for path in paths], batch_size=batch_size)
        table.insert(0, "image", [str(path) for path in paths])
        return table.rename(columns=attribute_names(table.columns, self._brought.tasks))


def _batches(images: object) -> Iterable[Tensor]:
    """Tensors ``(N, 3, H, W)``."""
    if isinstance(images, Tensor | np.ndarray):
        found = torch.as_tensor(images)
        found = found.unsqueeze(0) if found.ndim == 3 else found
        if found.ndim != 4 or found.shape[1] != 3 or not found.is_floating_point():
            raise DataError(
                f"predict: expected images (N, 3, height, width) of floats, got {tuple(found.shape)} {found.dtype}"
            )
        return [found]
    if not isinstance(images, Iterable):
        raise DataError(f"predict: expected images, batches of them or paths, got {type(images).__name__}")
    return _first_parts(images)


def _first_parts(batches: Iterable) -> Iterable[Tensor]:
    for batch in batches:
        # A loader gives pairs; of a list of images each is a batch of one.
        images = batch[0] if isinstance(batch, Sequence) and len(batch) == 2 else batch
        if not isinstance(images, Tensor | np.ndarray):
            raise DataError(f"predict: expected batches of images, got {type(images).__name__}")
        yield from _batches(images)


def _lists(counts: Confusion) -> list | dict[str, list]:
    """K lists of K; of very many classes the cells that are not 0."""
    if isinstance(counts, np.ndarray):
        return counts.tolist()
    rows, columns, images = cells(counts)
    return {"target": rows.tolist(), "prediction": columns.tolist(), "images": images.tolist()}


def history_of(brought: Brought, rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Metrics of the epochs, under the attributes' own names."""
    names = {task.slug: task.name for task in brought.tasks}
    found = []
    for row in rows:
        renamed = {}
        for name, value in row.items():
            split, slash, rest = name.partition("/")
            slug, second, what = rest.partition("/")
            renamed[f"{split}{slash}{names.get(slug, slug)}{second}{what}" if second else name] = value
        found.append(renamed)
    return found


def result_of(
    brought: Brought, result: TrainResult, files: CheckpointFiles | None, run_id: str | None, net: MultiTaskNet
) -> TrainedModel:
    """See ``notebook.train_and_evaluate_model``."""
    best = result.best
    val = {task.name: {name: best[score("val", task, name)] for name in SCORES} for task in result.tasks}
    values = {
        "history": history_of(brought, result.history),
        "best_epoch": result.best_epoch,
        "val": {AVERAGE: {name: best[score("val", None, name)] for name in SCORES}} | val,
        "test": result.test.scores,
        "confusion": {name: _lists(counts) for name, counts in result.test.confusion.items()},
        "checkpoints": {which: str(files.path(which)) if files else None for which in ("best", "last")},
        "run_id": run_id,
    }
    return TrainedModel(values, brought, net)
