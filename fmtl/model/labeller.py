"""From photos to labels, whatever computes the probabilities: a network, or an exported file. Nothing here needs torch.

N images, K classes.
"""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from fmtl import machine
from fmtl.catalogue.photos.cells import PhotoCell
from fmtl.catalogue.photos.folder import ImageError, PhotoFile
from fmtl.dataset.pixels import images
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.model import decisions
from fmtl.model.confidence import Confidence
from fmtl.tasks import Tasks

if TYPE_CHECKING:
    import pandas as pd

OK = "ok"
ACCEPTED = "accepted"  # ends the name of the column that says whether a model is sure enough of a label

Photo = PhotoFile | PhotoCell | bytes | ImageError  # where it lies, its content, or why there is none


class Labeller(ABC):
    """Labels photos as training-time evaluation would.

    Attributes:
        confidence: Its temperatures, and from which confidence labels are accepted.
        notes: How many photos so far were turned, converted, ...; see ``images.Facts``.
    """

    tasks: Tasks
    preprocess: Preprocess
    confidence: Confidence
    notes: Counter[str]

    @abstractmethod
    def probs(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Class probabilities ``(N, K)`` float32 by task name, of ``(N, stored_px, stored_px, 3)`` uint8."""

    @property
    @abstractmethod
    def thresholds(self) -> dict[str, np.ndarray]:
        """``(values,)`` by name of each set."""

    def decode(self, photo: Photo) -> np.ndarray:
        """``(stored_px, stored_px, 3)`` uint8; ImageError where it is none."""
        out = self._squares(1)[0]
        self._decode_into(out, photo)
        return out

    def predict(self, photos: Sequence[Photo], *, top_k: int = 1, batch_size: int = 32) -> "pd.DataFrame":
        """A row per photo, in order, as a predictions table without its ``image`` column.

        One that can't be decoded, or is an ImageError already, gets its reason as ``status`` and no labels.
        """
        import pandas as pd  # the light distribution does without

        parts = list(self.predict_batches(photos, top_k=top_k, batch_size=batch_size))
        return pd.concat(parts, ignore_index=True) if parts else _table(self.columns([], {}, top_k))

    def predict_batches(self, photos: Sequence[Photo], *, top_k: int, batch_size: int) -> "Iterator[pd.DataFrame]":
        """``predict``, one table per batch, in constant memory. Each photo is looked up and read once."""
        return map(_table, self.column_batches(photos, top_k=top_k, batch_size=batch_size))

    def column_batches(
        self, photos: Sequence[Photo], *, top_k: int, batch_size: int
    ) -> Iterator[dict[str, np.ndarray]]:
        """``columns`` of one batch after the other. Photos are decoded on all processors."""
        for status, pixels in self.decoded_batches(photos, batch_size):
            yield self.columns(status, self.probs(pixels) if len(pixels) else {}, top_k)

    def decoded_batches(self, photos: Sequence[Photo], batch_size: int) -> Iterator[tuple[list[str], np.ndarray]]:
        """Per batch, what became of each photo, and the pixels of those that could be decoded."""
        with images.quiet(), ThreadPoolExecutor(machine.num_cpus()) as threads:
            for start in range(0, len(photos), batch_size):
                # Cells are read in turn: several at once would read their row groups again and again.
                batch = [content_of(p) if isinstance(p, PhotoCell) else p for p in photos[start : start + batch_size]]
                out = self._squares(len(batch))
                status = []
                for told, notes in threads.map(self._status, out, batch):
                    status.append(told)
                    self.notes.update(notes)
                good = [n for n, told in enumerate(status) if told == OK]
                yield status, out if len(good) == len(out) else out[good]

    def columns(self, status: Sequence[str], probs: Mapping[str, np.ndarray], top_k: int) -> dict[str, np.ndarray]:
        """Columns of a predictions table: numbers float64, else objects; of photos that failed nan or None.

        Args:
            status: Of all photos, ``(rows,)``.
            probs: Of those whose status is ``OK``, ``(N, K)`` by task name.
        """
        good = [n for n, told in enumerate(status) if told == OK]
        columns = {"status": _objects(status)}
        if not good:
            probs = {task.name: np.empty((0, task.num_classes), np.float32) for task in self.tasks}
        accepted_from = {
            task.slug: of for task in self.tasks if (of := self.confidence.accepted_from.get(task.name)) is not None
        }
        for name, values in decisions.labels_of(self.tasks, probs, self.thresholds, top_k).items():
            is_number = name.endswith("confidence")
            column = np.full(len(status), np.nan if is_number else None, dtype=float if is_number else object)
            column[good] = values if is_number else _objects(values)
            columns[name] = column
            slug = name.removesuffix("/confidence")
            if is_number and slug in accepted_from:
                is_sure = [None if np.isnan(value) else bool(value >= accepted_from[slug]) for value in column]
                columns[f"{slug}/{ACCEPTED}"] = _objects(is_sure)
        return columns

    def _status(self, out: np.ndarray, photo: Photo) -> tuple[str, tuple[str, ...]]:
        """What became of a photo, and the notes on it."""
        try:
            return OK, self._decode_into(out, photo)
        except ImageError as error:
            return str(error.reason), ()

    def _decode_into(self, out: np.ndarray, photo: Photo) -> tuple[str, ...]:
        content = content_of(photo)
        if isinstance(content, ImageError):
            raise content
        p = self.preprocess
        facts = images.decode_into(out, content, fit=p.fit, background=p.background, profiles=p.profiles)
        return facts.notes

    def _squares(self, num: int) -> np.ndarray:
        return np.empty((num, self.preprocess.stored_px, self.preprocess.stored_px, 3), np.uint8)


def rows_of(columns: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """A dict per photo, of what JSON knows: null where there is nothing."""
    lists = {
        name: [None if math.isnan(value) else value for value in values.tolist()] if values.dtype == float
        else values.tolist()
        for name, values in columns.items()
    }  # fmt: skip
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def attribute_names(columns: Iterable[str], tasks: Tasks) -> dict[str, str]:
    """By column of a predictions table, the same with the attribute's own name in place of its slug."""
    names = {task.slug: task.name for task in tasks}
    parts = {column: column.partition("/") for column in columns}
    return {column: names.get(slug, slug) + slash + rest for column, (slug, slash, rest) in parts.items()}


def _table(columns: Mapping[str, np.ndarray]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame({name: pd.Series(values, dtype=values.dtype) for name, values in columns.items()})


def content_of(photo: Photo) -> bytes | ImageError:
    """The bytes of a photo, or why there are none."""
    if isinstance(photo, bytes | ImageError):
        return photo
    try:
        return photo.read()
    except ImageError as error:
        return error


def _objects(values: Sequence) -> np.ndarray:
    """An array whose items may be lists."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found
