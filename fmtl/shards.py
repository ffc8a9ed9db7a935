"""Shards of a prepared dataset: which rows lie together, and how one shard's pixels are made.

Imported by worker processes, so that nothing heavy may be imported here.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import simplejpeg

from fmtl import durable, images
from fmtl.images import ImageError, ImageFolder

MEAN_ROWS, MAX_ROWS = 128, 512
POLICY = 1  # raise it with every change to this file or images.py that changes a pixel or a verdict
CELLS_AT_ONCE = 16  # images read together from a Parquet file
THUMBNAIL = (8, 9)  # rows, columns: what a 64-bit difference hash needs
CRASH = "decoder_crash"


class Source(NamedTuple):
    """One image to decode, as the table names it and the disk showed it.

    Attributes:
        path: Relative to the image folder.
        size: Bytes; -1 where it can't be read.
        mtime_ns: Time of its last change; -1 where it can't be read.
        checksum: md5, sha1 or sha256 in hex that its bytes must have, or nothing.
        cell: (Parquet file, row group, row in it, column) where the bytes are a table's cell.
    """

    path: str
    size: int
    mtime_ns: int
    checksum: str = ""
    cell: tuple[str, int, int, str] | None = None


class Result(NamedTuple):
    """What became of one image. ``reason`` is empty where it was kept.

    Attributes:
        sha256: Of the file's bytes; empty where it could not be read.
        reason: One word for counting.
        detail: What was found.
        format: See ``images.Facts``.
        mode: The same.
        notes: The same, joined by spaces; also ``wrong_suffix``.
        side: Longer side, pixels.
        thumbnail: The stored square reduced to 8 rows of 9 RGB pixels, as hex.
    """

    sha256: str = ""
    reason: str = ""
    detail: str = ""
    format: str = ""
    mode: str = ""
    notes: str = ""
    side: int = 0
    thumbnail: str = ""


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
        target: Its files are ``target`` + ``.bin`` and, written last, ``.json``.
        sources: The images in order.
        known: By position in ``sources``: earlier results to take over.
        crashed: By position: how the worker died of it.
        root: Image folder.
        image: ``px``, ``fit``, ``background``.
    """

    target: str
    sources: list[Source]
    known: dict[int, Known]
    crashed: dict[int, str]
    root: str
    image: dict

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Job":
        item = json.loads(text)
        item["sources"] = [Source(*source) for source in item["sources"]]
        item["known"] = {int(i): Known(**{**k, "result": Result(*k["result"])}) for i, k in item["known"].items()}
        item["crashed"] = {int(i): text for i, text in item["crashed"].items()}
        return cls(**item)


def decoding(px: int, fit: str, background: str) -> dict:
    """All that decides an image's pixels beside its bytes; pixels of another decoding can't be taken over."""
    versions = {"policy": POLICY, "Pillow": PIL.__version__, "simplejpeg": simplejpeg.__version__}
    return {"px": px, "fit": fit, "background": background, "versions": versions}


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


def make(job: Job, progress: Callable[[int], None] = lambda i: None) -> None:
    """Decode one shard and write its files.

    Args:
        progress: Called with the position of each image before it is touched.
    """
    with durable.replacing(Path(job.target + ".bin"), sync=False) as temporary, temporary.open("wb") as file:
        results, digest = decode(job, file.write, progress)
    with durable.replacing(Path(job.target + ".json"), sync=False) as temporary:
        temporary.write_text(json.dumps({"sha256": digest, "results": results}))


def decode(
    job: Job, keep: Callable[[memoryview], object], progress: Callable[[int], None] = lambda i: None
) -> tuple[list[Result], str]:
    """A shard's results and the hash of its pixels.

    Args:
        keep: Called with the ``px * px * 3`` bytes of each image that is kept, which the next one overwrites.
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
    return results, digest.hexdigest()


def load(target: Path, *, verify: bool = True) -> tuple[str, list[Result]] | None:
    """A finished shard's hash and results; None if it is not whole.

    Args:
        verify: Compare its pixels with the hash.
    """
    try:
        record = json.loads(target.with_suffix(".json").read_text())
        if verify and durable.sha256(target.with_suffix(".bin")) != record["sha256"]:
            return None
        return record["sha256"], [Result(*item) for item in record["results"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fill(out: np.ndarray, job: Job, i: int, source: Source) -> Result:
    """Put one image's pixels into ``out``, or say why not."""
    known = job.known.get(i)
    if known and known.same:
        return known.result if known.result.reason else _copy(out, known)
    content = None
    try:
        if i in job.crashed:
            raise ImageError(CRASH, job.crashed[i])
        content = _read(job.root, source)
        digest = hashlib.sha256(content).hexdigest()
        if known and known.result.sha256 == digest and not source.checksum:
            return known.result if known.result.reason else _copy(out, known)
        _check(source.checksum, content, digest)
        facts = images.decode_into(out, content, fit=job.image["fit"], background=job.image["background"])
    except ImageError as error:
        digest = hashlib.sha256(content).hexdigest() if content is not None else ""
        return Result(digest, error.reason, error.detail)
    notes = list(facts.notes)
    if not source.cell and not source.path.lower().endswith(images.SUFFIXES[facts.format]):
        notes.append("wrong_suffix")
    side = max(facts.width, facts.height)
    return Result(digest, "", "", facts.format, facts.mode, " ".join(notes), side, thumbnail(out).tobytes().hex())


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """``(px, px, 3)`` uint8 to its ``(8, 9, 3)`` uint8 block means, over 32 x 36 of the pixels."""
    rows, columns = THUMBNAIL
    y, x = _samples(len(pixels))
    sums = pixels.take(y, 0).take(x, 1).reshape(rows, 4, columns * 4 * 3).sum(1, dtype=np.uint16)
    return (sums.reshape(rows, columns, 4, 3).sum(2, dtype=np.uint16) // 16).astype(np.uint8)


@cache
def _samples(px: int) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.arange(4 * n) * px // (4 * n) for n in THUMBNAIL)


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
            raise ImageError("checksum", f"{kind or 'checksum'} is {found or 'unknown'}, the table says {checksum}")


def _read(root: str, source: Source) -> bytes:
    if source.cell:
        return _cell(*source.cell)
    content, status = _folder(root).read(source.path)
    if images.signature(status) != (source.size, source.mtime_ns):
        raise ImageError("changed", f"'{source.path}' changed since this run began; run again")
    return content


@cache
def _folder(root: str) -> ImageFolder:
    return ImageFolder(root)


def _cell(file: str, group: int, row: int, column: str) -> bytes:
    try:
        cell = _cells(file, group, column).read(row)
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        raise ImageError("damaged", f"{file}, row group {group}, row {row}: {error}") from error
    content = cell["bytes"] if isinstance(cell, dict) else cell
    if content is None:
        raise ImageError("missing", "the cell holds no image")
    return content


class _Cells:
    """The cells of one row group in increasing order, a few at a time: a whole group may be larger than memory."""

    def __init__(self, file: str, group: int, column: str):
        self._source = (file, group, column)
        self._rewind()

    def read(self, row: int) -> dict | bytes | None:
        if row < self._start:
            self._rewind()
        while row >= self._start + len(self._batch):
            self._start += len(self._batch)
            self._batch = next(self._batches).column(0)
        return self._batch[row - self._start].as_py()

    def _rewind(self) -> None:
        import pyarrow.parquet as pq  # only where images lie in tables

        file, group, column = self._source
        parquet = pq.ParquetFile(file, memory_map=True)
        self._start, self._batch = 0, ()
        self._batches = parquet.iter_batches(CELLS_AT_ONCE, row_groups=[group], columns=[column])


_cells = lru_cache(maxsize=1)(_Cells)
