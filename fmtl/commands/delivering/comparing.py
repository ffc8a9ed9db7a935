"""An exported file against the model that it is of, on the photos that the model was tested on. N images."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from fmtl.catalogue.photos.folder import ImageError
from fmtl.catalogue.reasons import Reason
from fmtl.commands.choosing.photos import photos_of, sees
from fmtl.dataset.pixels import images
from fmtl.dataset.prepared import PreparedDataset
from fmtl.evaluation.parity import Parity
from fmtl.model.labeller import Labeller, Photo, content_of

log = logging.getLogger(__name__)

Probs = Mapping[str, np.ndarray]  # (N, K) float32 by task name
LARGEST = 1e-4  # difference of probabilities
NOISE_TIMES = 4.0  # or so many times what float32 itself costs: both sides round, each at other places
LEAST_EQUAL = 0.99  # share of labels, where photos were decoded in another way
NOISE_PHOTOS = 64
STORED, SAME, WHOLE = "stored squares", "the same full-size RGB", "photos decoded in full by Pillow"


@dataclass(frozen=True)
class Compared:
    """What a comparison came to.

    Attributes:
        parities: Of the stored squares, and of the photos as far as they are still where they were.
        unread: Photos that are not.
        large: Photos of more pixels than are fitted at once: fmtl shrinks them first, which no file does.
        noise: Largest difference of probabilities between the model in float32 and in float64.
    """

    parities: Sequence[Parity]
    unread: int
    noise: float = 0.0
    large: int = 0

    @property
    def limit(self) -> float:
        """Largest difference of probabilities that float32 explains."""
        return max(LARGEST, NOISE_TIMES * self.noise)

    def why_not(self) -> str | None:
        """Why the file may not be used; or None."""
        if not any(parity.images for parity in self.parities if parity.compared != WHOLE):
            return "no test photo could be compared: they are not where they were, and were prepared otherwise"
        for parity in self.parities:
            if parity.compared != WHOLE and (parity.others or not parity.largest_difference <= self.limit):
                return f"expected equal labels, and no difference of probabilities above {self.limit:.1e} ({parity})"
        return None

    def warning(self) -> str | None:
        """What who feeds the file pixels of a decoder of their own should know; or None."""
        for parity in self.parities:
            if parity.compared == WHOLE and parity.share_equal < LEAST_EQUAL:
                return (
                    f"{1 - parity.share_equal:.1%} of labels are others where photos are decoded in full before they "
                    f"are given to the file: fmtl reads JPEGs at the scale that it needs, as fmtl-serve does"
                )
        return None

    def to_json(self) -> dict[str, Any]:
        return {
            "comparisons": [parity.to_json() for parity in self.parities],
            "photos_not_read": self.unread,
            "photos_too_large": self.large,
            "float32_noise": self.noise,
            "limit": self.limit,
        }


def compare(
    model: Labeller,
    exact: Callable[[np.ndarray], Probs],
    answer: Callable[[np.ndarray], Probs],
    dataset: PreparedDataset,
    batch_size: int,
) -> Compared:
    """
    Args:
        model: In float32.
        exact: What the model says of ``(N, S, S, 3)`` uint8 in float64.
        answer: What the file says of ``(N, H, W, 3)`` uint8.
        dataset: Its test photos are looked at.
    """
    rows = dataset.rows("test")
    names, photos = photos_of(dataset, rows)
    found = [_stored(model, answer, dataset, rows, names, batch_size)] if sees(model.preprocess, dataset) else []
    same, whole, unread, large = _photos(model, answer, names, photos)
    sample = photos[:: max(1, len(photos) // NOISE_PHOTOS)][:NOISE_PHOTOS]
    return Compared([*found, *(p for p in (same, whole) if p.images)], unread, _noise(model, exact, sample), large)


def _noise(model: Labeller, exact: Callable[[np.ndarray], Probs], photos: Sequence[Photo]) -> float:
    pixels = [pixels for _, pixels in model.decoded_batches(photos, len(photos)) if len(pixels)]
    if not pixels:
        return 0.0
    ours, theirs = model.probs(pixels[0]), exact(pixels[0])
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)


def _stored(
    model: Labeller,
    answer: Callable[[np.ndarray], Probs],
    dataset: PreparedDataset,
    rows: np.ndarray,
    names: Sequence[str],
    batch_size: int,
) -> Parity:
    parity = Parity(STORED)
    for at in tqdm(range(0, len(rows), batch_size), desc="compare stored", unit=" batches", disable=None):
        pixels = dataset.pixels(rows[at : at + batch_size])
        some = names[at : at + batch_size]
        parity.add(model.tasks, some, model.probs(pixels), answer(pixels), model.thresholds)
    return parity


def _photos(
    model: Labeller, answer: Callable[[np.ndarray], Probs], names: Sequence[str], photos: Sequence[Photo]
) -> tuple[Parity, Parity, int, int]:
    """One by one, since they have any size: the same pixels for both, and the engine with its own decoder."""
    same, whole, unread, large = Parity(SAME), Parity(WHOLE), 0, 0
    how = model.preprocess
    with images.quiet():
        for name, photo in zip(names, tqdm(photos, desc="compare photos", unit=" photos", disable=None), strict=True):
            try:
                content = content_of(photo)
                if isinstance(content, ImageError):
                    raise content
                rgb = images.full_size(content, background=how.background, profiles=how.profiles)
                square = images.fitted(rgb, px=how.stored_px, fit=how.fit, background=how.background)
                own = model.decode(content)
            except ImageError as error:
                log.debug("%s: %s", name, error)
                is_large = error.reason == Reason.TOO_LARGE
                large, unread = large + is_large, unread + (not is_large)
                continue
            theirs = answer(rgb[None])
            same.add(model.tasks, [name], model.probs(square[None]), theirs, model.thresholds)
            whole.add(model.tasks, [name], model.probs(own[None]), theirs, model.thresholds)
    return same, whole, unread, large
