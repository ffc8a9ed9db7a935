"""All images of a catalogue to shards of pixels; what was decoded before is taken over."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from fmtl import durable, shards
from fmtl.dataset import IMAGES, MANIFEST, TABLE, VERSION, PixelStore, is_dataset, shard_name, shard_names
from fmtl.images import ImageError, ImageFolder, signature
from fmtl.shards import Job, Known, Result, Source
from fmtl.workers import make_shards, num_cpus

TRANSIENT = ("changed", "unreadable", shards.CRASH)  # reasons that may be gone next time
_KEY = "decoding.json"


@dataclass(frozen=True)
class Shard:
    """A finished shard: its file, the file's hash, and its range of images."""

    file: Path
    sha256: str
    start: int
    stop: int


@dataclass(frozen=True)
class Decoded:
    """What became of every image.

    Attributes:
        sources: In the order given.
        results: One per source.
        shards: In order; a shard's rows are its images that were kept.
        taken_over: Images that were not decoded again.
    """

    sources: list[Source]
    results: list[Result]
    shards: list[Shard]
    taken_over: int

    def pixels(self, px: int) -> PixelStore:
        return PixelStore([shard.file for shard in self.shards], px)

    def table(self) -> pd.DataFrame:
        """Content of ``images.parquet``: a row per source."""
        columns = dict(zip(Source._fields, zip(*self.sources, strict=True), strict=True))
        columns |= dict(zip(Result._fields, zip(*self.results, strict=True), strict=True))
        columns["cell"] = [json.dumps(cell) if cell else "" for cell in columns["cell"]]
        columns["shard"] = [number for number, shard in enumerate(self.shards) for _ in range(shard.start, shard.stop)]
        return pd.DataFrame(columns)


class Earlier:
    """The dataset that is there already, and what of it can be taken over.

    Attributes:
        manifest: Empty where nothing is there, or its tables are damaged.
        damaged: Whether something is there that can't be read.
        has_pixels: Whether its pixels may be taken over: they were made in the same way.
        same_folder: Whether its images came from the same folder; else only an image's hash tells that it is the same.
    """

    def __init__(self, folder: Path, decoding: Mapping, images_path: str, *, take_pixels: bool):
        self.folder = folder
        self.manifest: dict = {}
        self.damaged = self.has_pixels = self.same_folder = False
        if is_dataset(folder):
            manifest = json.loads((folder / MANIFEST).read_text())
            self.damaged = manifest["version"] != VERSION or not self._whole(manifest, (TABLE, IMAGES))
            if not self.damaged:
                self.manifest = manifest
                self.has_pixels = (
                    take_pixels
                    and manifest["image"] == dict(decoding)
                    and self._whole(manifest, shard_names(manifest), size_only=True)
                )
                self.same_folder = manifest["source"]["images_path"] == images_path

    def _whole(self, manifest: dict, names: Iterable[str], *, size_only: bool = False) -> bool:
        for name in names:
            path, item = self.folder / name, manifest["files"].get(name)
            if not item or not path.is_file() or path.stat().st_size != item["bytes"]:
                return False
            if not size_only and durable.sha256(path) != item["sha256"]:
                return False
        return True

    def sound(self, files: Iterable[str]) -> set[str]:
        """Of some shard files, those that have the hash which the manifest gives them."""
        hashes = {name: item["sha256"] for name, item in self.manifest["files"].items()} if self.manifest else {}
        return {file for file in files if durable.sha256(Path(file)) == hashes.get(Path(file).name)}

    def splits(self) -> tuple[dict[str, str], dict[str, str]]:
        """Split by file hash, and by path."""
        if not self.manifest:
            return {}, {}
        table = pd.read_parquet(self.folder / TABLE, columns=["path", "split"])
        by_path = dict(zip(table["path"], table["split"], strict=True))
        kept = self.images[self.images["reason"] == ""]
        return dict(zip(kept["sha256"], table["split"], strict=True)), by_path

    @cached_property
    def images(self) -> pd.DataFrame:
        return pd.read_parquet(self.folder / IMAGES) if self.manifest else pd.DataFrame()

    @cached_property
    def sources(self) -> list[Source]:
        rows = zip(*(self.images[name].tolist() for name in Source._fields), strict=True)
        return [Source(*row[:4], tuple(json.loads(row[4])) if row[4] else None) for row in rows]

    @cached_property
    def results(self) -> list[Result]:
        return [Result(*row) for row in zip(*(self.images[f].tolist() for f in Result._fields), strict=True)]

    def unchanged(self, folder: ImageFolder) -> bool:
        """Whether every file of the dataset and every image is as it was, and nothing is worth another try."""
        if not (self.has_pixels and self.same_folder):
            return False
        others = self.manifest["files"].keys() - set(shard_names(self.manifest))
        if not self._whole(self.manifest, others) or _may_change(self.results):
            return False
        return scan([s.path for s in self.sources], folder, checksums=[s.checksum for s in self.sources],
                    cells=[s.cell for s in self.sources]) == self.sources  # fmt: skip

    def shards(self) -> dict[str, tuple[Path, str, list[Result]]]:
        """Shards that can be taken over whole, by key."""
        found = {}
        if not (self.has_pixels and self.same_folder):
            return found
        for number, rows in self.images.groupby("shard").indices.items():
            start, stop = rows[0], rows[-1] + 1
            results = self.results[start:stop]
            if not _may_change(results):
                name = shard_name(number)
                entry = (self.folder / name, self.manifest["files"][name]["sha256"], results)
                found[shards.key(self.sources[start:stop])] = entry
        return found

    def known(self) -> dict[str, tuple[Source, Known]]:
        """Images that can be taken over one by one, by path."""
        found: dict[str, tuple[Source, Known]] = {}
        if not self.has_pixels:
            return found
        for number, rows in self.images.groupby("shard").indices.items():
            file, row = str((self.folder / shard_name(number)).resolve()), 0
            for i in rows:
                result = self.results[i]
                if result.reason not in (*TRANSIENT, "checksum"):
                    found[self.sources[i].path] = (self.sources[i], Known(result, file, row, same=False))
                row += not result.reason
        return found


def scan(
    paths: Sequence[str],
    folder: ImageFolder,
    *,
    checksums: Sequence[str] | None = None,
    cells: Sequence[tuple | None] | None = None,
) -> list[Source]:
    """What the disk shows of each image, without opening it."""
    checksums, cells = checksums or [""] * len(paths), cells or [None] * len(paths)
    changed = {file: Path(file).stat().st_mtime_ns for file in {cell[0] for cell in cells if cell}}
    found = []
    for path, checksum, cell in zip(paths, checksums, cells, strict=True):
        if cell:
            found.append(Source(path, 0, changed[cell[0]], checksum, cell))
            continue
        try:
            size, mtime_ns = signature(folder.find(path)[1])
        except ImageError:
            size, mtime_ns = -1, -1
        found.append(Source(path, size, mtime_ns, checksum))
    return found


def decode_all(
    sources: list[Source],
    *,
    root: Path,
    decoding: Mapping,
    work: Path,
    earlier: Earlier,
    num_workers: int | None = None,
) -> Decoded:
    """Decode every image that was not decoded before.

    Args:
        root: Image folder.
        decoding: See ``shards.decoding``.
        work: Folder of finished shards, kept from an interrupted run to the next and removed by the caller.
        earlier: The dataset whose pixels can be taken over.
        num_workers: Processes; by default one per processor.

    Raises:
        EnvironmentFault: The disk is full or not writable; what is finished stays in ``work``.
    """
    _open_work(work, {**decoding, "images": str(root.resolve())})
    whole, known = earlier.shards(), None
    finished: dict[tuple[int, int], tuple[Path, str, list[Result]]] = {}
    jobs: dict[tuple[int, int], Job] = {}
    for span in pairwise(shards.bounds([source.path for source in sources])):
        chunk = sources[slice(*span)]
        key = shards.key(chunk)
        found = whole.get(key) or _finished(work / key)
        if found:
            finished[span] = found
            continue
        known = earlier.known() if known is None else known
        taken = {
            i: replace(known[source.path][1], same=earlier.same_folder and source == known[source.path][0])
            for i, source in enumerate(chunk)
            if source.path in known
        }
        jobs[span] = Job(str(work / key), chunk, taken, {}, str(root), dict(decoding))
    sound = earlier.sound({image.shard for job in jobs.values() for image in job.known.values()})
    for span, job in jobs.items():
        jobs[span] = replace(job, known={i: image for i, image in job.known.items() if image.shard in sound})
    num_images = sum(len(job.sources) for job in jobs.values())
    with tqdm(total=num_images, desc="decode", unit=" images", disable=None if num_images else True) as bar:
        make_shards(jobs.values(), num_workers=num_workers or num_cpus(), progress=bar.update)
    for span, job in jobs.items():
        finished[span] = (Path(job.target + ".bin"), *shards.load(Path(job.target), verify=False))
    same = sum(image.same for job in jobs.values() for image in job.known.values())
    made = [Shard(file, sha256, *span) for span, (file, sha256, _) in sorted(finished.items())]
    results = [result for _, (_, _, part) in sorted(finished.items()) for result in part]
    return Decoded(sources, results, made, len(sources) - num_images + same)


def changed_sources(folder: Path, root: Path) -> list[str]:
    """Paths of images whose content is no longer that of the dataset in ``folder``; those that are gone have none."""
    before = pd.read_parquet(folder / IMAGES, columns=["path", "size", "mtime_ns", "sha256", "cell"])
    before = before[before["cell"] == ""]
    files = ImageFolder(root)
    now = scan(before["path"].tolist(), files)
    changed = []
    for source, size, mtime_ns, sha256 in zip(now, before["size"], before["mtime_ns"], before["sha256"], strict=True):
        if source.size >= 0 and (source.size, source.mtime_ns) != (size, mtime_ns):
            try:
                content, _ = files.read(source.path)
            except ImageError:
                continue
            if hashlib.sha256(content).hexdigest() != sha256:
                changed.append(source.path)
    return changed


def _open_work(work: Path, decoding: Mapping) -> None:
    """Keep finished shards of the same images and decoding, nothing else."""
    path = work / _KEY
    try:
        usable = json.loads(path.read_text()) == dict(decoding)
    except (OSError, ValueError):
        usable = False
    if not usable:
        shutil.rmtree(work, ignore_errors=True)
        durable.write_json(path, dict(decoding))


def _finished(target: Path) -> tuple[Path, str, list[Result]] | None:
    found = shards.load(target)
    if found is None or _may_change(found[1]):
        return None
    return target.with_suffix(".bin"), *found


def _may_change(results: Iterable[Result]) -> bool:
    """Whether another try may end otherwise though no source has changed."""
    return any(result.reason in TRANSIENT for result in results)
