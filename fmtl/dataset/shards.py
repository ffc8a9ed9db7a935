"""Shards of a prepared dataset: which rows lie together, and how one shard's pixels are made.

Imported by worker processes, so that nothing heavy may be imported here.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
import simplejpeg

from fmtl.catalogue.photos.cells import Cell, read_cell
from fmtl.catalogue.photos.folder import ImageError, ImageFolder, signature
from fmtl.catalogue.reasons import Reason
from fmtl.dataset.pixels import images
from fmtl.storage import durable
from fmtl.storage.cache import recall

MEAN_ROWS, MAX_ROWS = 128, 512
POLICY = 2  # raise it with every change to this file or images.py that changes a pixel or a verdict
THUMBNAIL = (8, 9, 3)  # rows, columns, colours: what a 64-bit difference hash needs
PIXELS, LOOKS, RECORD = ".bin", ".looks", ".json"  # a shard's files: stored squares, thumbnails, and what became of it


class Source(NamedTuple):
    """One image to decode, as the table names it and the disk showed it.

    Attributes:
        path: Relative to the image folder.
        size: Bytes; -1 where it can't be read.
        mtime_ns: Time of its last change; -1 where it can't be read.
        checksum: md5, sha1 or sha256 in hex that its bytes must have, or nothing.
        cell: Where the bytes are a table's cell.
    """

    path: str
    size: int
    mtime_ns: int
    checksum: str = ""
    cell: Cell | None = None


class Result(NamedTuple):
    """What became of one image. ``reason`` is empty where it was kept.

    Attributes:
        sha256: Of the file's bytes; empty where it could not be read.
        reason: A ``Reason``, as one word.
        detail: What was found.
        format: See ``images.Facts``.
        mode: The same.
        notes: The same, joined by spaces; also ``wrong_suffix``.
        side: Longer side, pixels.
    """

    sha256: str = ""
    reason: str = ""
    detail: str = ""
    format: str = ""
    mode: str = ""
    notes: str = ""
    side: int = 0


@dataclass(frozen=True)
class Known:
    """An image that was decoded before: its result, and where its pixels lie.

    Attributes:
        shard: Path of the shard file.
        row: Row in it.
        same: Whether the source is known to be unchanged; else its hash decides.
    """

    result: Result
    shard: str
    row: int
    same: bool


@dataclass(frozen=True)
class Job:
    """One shard to make.

    Attributes:
        target: Its files are ``target`` and one of the suffixes; the record is written last.
        sources: The images in order.
        known: By position in ``sources``: earlier results to take over.
        crashed: By position: how the worker died of it.
        root: Image folder.
        follow_links: Whether links in it may lead out of it.
        image: ``px``, ``fit``, ``background``.
    """

    target: str
    sources: list[Source]
    known: dict[int, Known]
    crashed: dict[int, str]
    root: str
    image: dict[str, Any]
    follow_links: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Job":
        item = json.loads(text)
        item["sources"] = [source_of(*source) for source in item["sources"]]
        item["known"] = {int(i): Known(**{**k, "result": Result(*k["result"])}) for i, k in item["known"].items()}
        item["crashed"] = {int(i): text for i, text in item["crashed"].items()}
        return cls(**item)


@dataclass(frozen=True)
class Finished:
    """A shard that is whole.

    Attributes:
        file: Its stored squares.
        sha256: Of that file.
        results: One per image.
        thumbnails: Of the images that were kept, ``(n, 8, 9, 3)`` uint8.
    """

    file: Path
    sha256: str
    results: list[Result]
    thumbnails: np.ndarray


def source_of(path: str, size: int, mtime_ns: int, checksum: str, cell: Sequence | None) -> Source:
    """A source as JSON and tables keep it."""
    return Source(path, size, mtime_ns, checksum, Cell(*cell) if cell else None)


def decoding(px: int, fit: str, background: str) -> dict[str, Any]:
    """All that decides an image's pixels beside its bytes; pixels of another decoding can't be taken over."""
    versions = {"policy": POLICY, "Pillow": PIL.__version__, "simplejpeg": simplejpeg.__version__}
    if found := images.heif_version():  # with it, what was refused may be read
        versions["pillow-heif"] = found
    return {"px": px, "fit": fit, "background": background, "profiles": True, "versions": versions}


def bounds(paths: Sequence[str]) -> list[int]:
    """Where shards start and end among the images, decided by the paths themselves.

    A shard ends after a path whose checksum is a multiple of the mean length, or where it would grow too long.
    Rows that are inserted or removed therefore change the shards around them, and no others.
    """
    found = [0]
    for i, path in enumerate(paths, start=1):
        if zlib.crc32(path.encode()) % MEAN_ROWS == 0 or i - found[-1] == MAX_ROWS:
            found.append(i)
    if found[-1] < len(paths):
        found.append(len(paths))
    return found


def key(sources: Sequence[Source]) -> str:
    """Equal keys, equal shards: 32 hex digits over the sources."""
    return hashlib.sha256(json.dumps(list(sources)).encode()).hexdigest()[:32]


def make(job: Job, progress: Callable[[int], object] = lambda i: None) -> None:
    """Decode one shard and write its files.

    Args:
        progress: Called with the position of each image before it is touched.
    """
    target, looks = Path(job.target), bytearray()
    with durable.replacing(target.with_suffix(PIXELS), sync=False) as temporary, temporary.open("wb") as file:
        results, digest = decode(job, file.write, looks.extend, progress)
    with durable.replacing(target.with_suffix(LOOKS), sync=False) as temporary:
        temporary.write_bytes(looks)
    record = {"sha256": digest, "looks": hashlib.sha256(looks).hexdigest(), "results": results}
    with durable.replacing(target.with_suffix(RECORD), sync=False) as temporary:
        temporary.write_text(json.dumps(record), encoding="utf-8")


def decode(
    job: Job,
    keep: Callable[[memoryview], object],
    look: Callable[[memoryview], object] = lambda thumbnail: None,
    progress: Callable[[int], object] = lambda i: None,
) -> tuple[list[Result], str]:
    """A shard's results and the hash of its pixels.

    Args:
        keep: Called with the ``px * px * 3`` bytes of each image that is kept, which the next one overwrites.
        look: Called with its thumbnail.
    """
    px = job.image["px"]
    pixels = np.empty((px, px, 3), np.uint8)
    results, digest = [], hashlib.sha256()
    with images.quiet():
        for i, source in enumerate(job.sources):
            progress(i)
            result = _fill(pixels, job, i, source)
            results.append(result)
            if not result.reason:
                digest.update(pixels.data)
                keep(pixels.data)
                look(thumbnail(pixels).data)
    return results, digest.hexdigest()


def load(target: Path, *, verify: bool = True) -> Finished | None:
    """A finished shard; None if it is not whole.

    Args:
        verify: Compare its pixels with their hash.
    """
    return recall(lambda: _load(target, verify))


def _load(target: Path, verify: bool) -> Finished | None:
    file, looks = target.with_suffix(PIXELS), target.with_suffix(LOOKS).read_bytes()
    record = json.loads(target.with_suffix(RECORD).read_text(encoding="utf-8"))
    if hashlib.sha256(looks).hexdigest() != record["looks"] or (verify and durable.sha256(file) != record["sha256"]):
        return None
    results = [Result(*item) for item in record["results"]]
    return Finished(file, record["sha256"], results, np.frombuffer(looks, np.uint8).reshape(-1, *THUMBNAIL))


def _fill(out: np.ndarray, job: Job, i: int, source: Source) -> Result:
    """Put one image's pixels into ``out``, or say why not."""
    known = job.known.get(i)
    if known and known.same:
        return known.result if known.result.reason else _copy(out, known)
    content = None
    try:
        if i in job.crashed:
            raise ImageError(Reason.DECODER_CRASH, job.crashed[i])
        content = _read(job, source)
        digest = hashlib.sha256(content).hexdigest()
        if known and known.result.sha256 == digest and not source.checksum:
            return known.result if known.result.reason else _copy(out, known)
        _check(source.checksum, content, digest)
        how = {name: job.image[name] for name in ("fit", "background", "profiles")}
        facts = images.decode_into(out, content, **how)
    except ImageError as error:
        digest = hashlib.sha256(content).hexdigest() if content is not None else ""
        return Result(digest, error.reason, error.detail)
    notes = list(facts.notes)
    if not source.cell and not source.path.lower().endswith(images.SUFFIXES[facts.format]):
        notes.append("wrong_suffix")
    return Result(digest, "", "", facts.format, facts.mode, " ".join(notes), max(facts.width, facts.height))


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """``(px, px, 3)`` uint8 to its ``(8, 9, 3)`` uint8 block means, over 32 x 36 of the pixels."""
    rows, columns, _ = THUMBNAIL
    y, x = _samples(len(pixels))
    sums = pixels.take(y, 0).take(x, 1).reshape(rows, 4, columns * 4 * 3).sum(1, dtype=np.uint16)
    return (sums.reshape(rows, columns, 4, 3).sum(2, dtype=np.uint16) // 16).astype(np.uint8)


@cache
def _samples(px: int) -> tuple[np.ndarray, np.ndarray]:
    rows, columns, _ = THUMBNAIL
    return np.arange(4 * rows) * px // (4 * rows), np.arange(4 * columns) * px // (4 * columns)


def _copy(out: np.ndarray, known: Known) -> Result:
    with Path(known.shard).open("rb") as file:
        file.seek(known.row * out.nbytes)
        out.reshape(-1)[...] = np.frombuffer(file.read(out.nbytes), np.uint8)
    return known.result


def _check(checksum: str, content: bytes, sha256: str) -> None:
    if checksum:
        kind = {32: "md5", 40: "sha1", 64: "sha256"}.get(len(checksum))
        found = sha256 if kind == "sha256" else hashlib.new(kind, content).hexdigest() if kind else None
        if found != checksum.lower():
            told = f"{kind or 'checksum'} is {found or 'unknown'}, the table says {checksum}"
            raise ImageError(Reason.CHECKSUM, told)


def _read(job: Job, source: Source) -> bytes:
    if source.cell:
        return read_cell(source.cell)
    content, status = _folder(job.root, job.follow_links).read(source.path)
    if signature(status) != (source.size, source.mtime_ns):
        raise ImageError(Reason.CHANGED, f"'{source.path}' changed since this run began; run again")
    return content


@cache
def _folder(root: str, follow_links: bool) -> ImageFolder:
    return ImageFolder(root, follow_links=follow_links)
