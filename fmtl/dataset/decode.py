"""All images of a catalogue to shards of pixels; what was decoded before is taken over."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from fmtl.catalogue.photos.folder import ImageFolder
from fmtl.dataset import shards
from fmtl.dataset.pixel_store import PixelStore
from fmtl.dataset.reuse.previous import Previous, may_change
from fmtl.dataset.shards import Finished, Job, Result, Source
from fmtl.dataset.workers import make_shards
from fmtl.machine import num_cpus
from fmtl.storage import durable
from fmtl.storage.cache import recall

log = logging.getLogger(__name__)

_KEY = "decoding.json"
Span = tuple[int, int]  # of images: the first, and the one after the last


@dataclass(frozen=True)
class Decoded:
    """What became of every image.

    Attributes:
        sources: The images, each once, in the order in which they first came.
        results: One per source.
        source_of: Number of the source of each row, ``(N,)`` int64.
        shards: By span, in order; a shard's rows are its images that were kept.
        taken_over: Images that were not decoded again.
    """

    sources: list[Source]
    results: list[Result]
    shards: dict[Span, Finished]
    taken_over: int
    source_of: np.ndarray

    @property
    def of_rows(self) -> list[Result]:
        """What became of the image of each row."""
        return [self.results[n] for n in self.source_of.tolist()]

    @property
    def kept_of(self) -> np.ndarray:
        """Number, among the images that were kept, of the image of each row that was, ``(rows kept,)`` int64."""
        kept = np.array([not result.reason for result in self.results])
        return (np.cumsum(kept) - 1)[self.source_of[kept[self.source_of]]]

    def pixels(self, px: int) -> PixelStore:
        return PixelStore([shard.file for shard in self.shards.values()], px)

    def thumbnails(self) -> np.ndarray:
        """Of the images that were kept, ``(N, 8, 9, 3)`` uint8."""
        nothing = np.empty((0, *shards.THUMBNAIL), np.uint8)  # a part of a dataset may have no image
        return np.concatenate([nothing, *(shard.thumbnails for shard in self.shards.values())])

    def table(self) -> pd.DataFrame:
        """Content of ``images.parquet``: a row per source; thumbnails as hex digits."""
        columns: dict[str, Any] = {name: [getattr(source, name) for source in self.sources] for name in Source._fields}
        columns |= {name: [getattr(result, name) for result in self.results] for name in Result._fields}
        columns["cell"] = [json.dumps(cell) if cell else "" for cell in columns["cell"]]
        looks = iter(self.thumbnails())
        columns["thumbnail"] = ["" if result.reason else next(looks).tobytes().hex() for result in self.results]
        columns["shard"] = [number for number, span in enumerate(self.shards) for _ in range(*span)]
        return pd.DataFrame(columns)


def decode_all(
    sources: list[Source],
    *,
    folder: ImageFolder,
    decoding: Mapping[str, Any],
    work: Path,
    previous: Previous,
    num_workers: int | None = None,
) -> Decoded:
    """Decode every image that was not decoded before; one that several rows share is decoded and kept once.

    Shards of the dataset before whose sources are all the same are taken as they are, and so are those that an
    interrupted run has finished. What is left becomes jobs; an image of a job that the dataset before has too is copied
    instead of decoded: at once where its file is known not to have changed, else after a look at its hash.

    Args:
        sources: One per row.
        folder: Where the images lie.
        decoding: See ``shards.decoding``.
        work: Folder of finished shards, kept from an interrupted run to the next and removed by the caller.
        previous: The dataset whose pixels can be taken over.
        num_workers: Processes; by default one per processor.

    Raises:
        EnvironmentFault: The disk is full or not writable; what is finished stays in ``work``.
    """
    numbers: dict[Source, int] = {}
    source_of = np.array([numbers.setdefault(source, len(numbers)) for source in sources], dtype=np.int64)
    sources = list(numbers)
    _open_work(work, {**decoding, "images": folder.root})
    spans = list(pairwise(shards.bounds([source.path for source in sources])))
    keys = {span: shards.key(sources[slice(*span)]) for span in spans}
    whole = previous.shards()
    finished = {span: found for span in spans if (found := whole.get(keys[span]) or _finished(work / keys[span]))}
    jobs = {
        span: Job(
            str(work / keys[span]), sources[slice(*span)], {}, {}, folder.root, dict(decoding), folder.follow_links
        )
        for span in spans
        if span not in finished
    }
    jobs = _with_known(jobs, previous)
    finished |= _make(jobs, num_workers or num_cpus())
    in_order = {span: finished[span] for span in spans}
    num_images = sum(len(job.sources) for job in jobs.values())
    copied = sum(image.same for job in jobs.values() for image in job.known.values())
    results = [result for shard in in_order.values() for result in shard.results]
    return Decoded(sources, results, in_order, len(sources) - num_images + copied, source_of)


def _make(jobs: dict[Span, Job], num_workers: int) -> dict[Span, Finished]:
    """Have every job done by worker processes, under a progress bar."""
    num_images = sum(len(job.sources) for job in jobs.values())
    log.debug("%d shards to make, of %d images", len(jobs), num_images)
    with tqdm(total=num_images, desc="decode", unit=" images", disable=None if num_images else True) as bar:
        make_shards(jobs.values(), num_workers=num_workers, progress=bar.update)
    finished = {}
    for span, job in jobs.items():
        made = shards.load(Path(job.target), verify=False)
        if made is None:
            raise RuntimeError(f"{job.target}: a worker said that it had made this shard, and it is not there")
        finished[span] = made
    return finished


def _with_known(jobs: dict[Span, Job], previous: Previous) -> dict[Span, Job]:
    """The jobs, told which of their images lie in a sound shard of the dataset before."""
    before = previous.known() if jobs else {}
    known = {
        span: {
            i: replace(found.known, same=previous.same_images and source == found.source)
            for i, source in enumerate(job.sources)
            if (found := before.get(source.path))
        }
        for span, job in jobs.items()
    }
    sound = previous.sound({image.shard for of_job in known.values() for image in of_job.values()})
    return {
        span: replace(job, known={i: image for i, image in known[span].items() if image.shard in sound})
        for span, job in jobs.items()
    }


def _open_work(work: Path, decoding: Mapping[str, Any]) -> None:
    """Keep finished shards of the same images and decoding, nothing else."""
    path = work / _KEY
    if recall(lambda: json.loads(path.read_text(encoding="utf-8"))) != dict(decoding):
        shutil.rmtree(work, ignore_errors=True)
        durable.write_json(path, dict(decoding))


def _finished(target: Path) -> Finished | None:
    found = shards.load(target)
    return None if found is None or may_change(found.results) else found
