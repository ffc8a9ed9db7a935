"""The dataset that is there already, and what of it can be taken over."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fmtl.catalogue.photos.finding import Finder
from fmtl.catalogue.reasons import Reason
from fmtl.dataset import shards
from fmtl.dataset.freshness import scan
from fmtl.dataset.prepared import IMAGES, MANIFEST, TABLE, is_dataset, read_manifest, shard_names
from fmtl.dataset.shards import Finished, Known, Result, Source
from fmtl.errors import DataError
from fmtl.storage import durable
from fmtl.storage.cache import recall

TRANSIENT = (Reason.CHANGED, Reason.UNREADABLE, Reason.DECODER_CRASH)  # may be gone next time


@dataclass(frozen=True)
class KnownImage:
    """An image of the dataset: what it was made from, and what was made of it."""

    source: Source
    known: Known


@dataclass(frozen=True)
class Splits:
    """Which split each image was in, by the hash of its file and by its path."""

    by_hash: Mapping[str, str]
    by_path: Mapping[str, str]

    def of(self, table: pd.DataFrame) -> list[str | None]:
        """Of each row of a table of ``path`` and ``sha256``; None where the image is new."""
        return [
            self.by_hash.get(digest) or self.by_path.get(path)
            for digest, path in zip(table["sha256"], table["path"], strict=True)
        ]


class Previous:
    """A dataset where another is about to be prepared.

    Attributes:
        manifest: Empty where nothing is there, or its tables are damaged.
        damaged: Whether something is there that can't be read.
        has_pixels: Whether its pixels may be taken over: they were made in the same way.
        images_path: Where the images are that are to be prepared now, relative to the dataset's folder.
    """

    def __init__(self, folder: Path, decoding: Mapping[str, Any], *, take_pixels: bool):
        self.folder = folder
        self.manifest: dict[str, Any] = {}
        self.damaged = self.has_pixels = False
        self.images_path = ""
        if is_dataset(folder):
            manifest = recall(lambda: read_manifest(folder / MANIFEST), DataError)
            self.damaged = manifest is None or not self._whole(manifest, (TABLE, IMAGES))
            if manifest and not self.damaged:
                self.manifest = manifest
                self.has_pixels = (
                    take_pixels
                    and manifest["image"] == dict(decoding)
                    and self._whole(manifest, shard_names(manifest), size_only=True)
                )

    @property
    def same_folder(self) -> bool:
        """Whether its images came from the same folder; else only an image's hash tells that it is the same."""
        return bool(self.manifest) and self.manifest.get("source", {}).get("images_path") == self.images_path

    @property
    def same_images(self) -> bool:
        """``same_folder``, of the images that may be taken over."""
        return self.same_folder

    def _whole(self, manifest: Mapping[str, Any], names: Iterable[str], *, size_only: bool = False) -> bool:
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

    def splits(self, source: Mapping[str, Any]) -> Splits:
        """Of its images, as far as they come from the same source; empty where nothing is there.

        Of another table over the same photos, or the same table over photos elsewhere, equal files are the same images;
        equal paths alone say nothing.

        Args:
            source: Tables that are to be prepared now.
        """
        same_table = bool(self.manifest) and self.manifest.get("source", {}).get("table_path") == source["table_path"]
        if not (same_table or self.same_folder):
            return Splits({}, {})
        table = pd.read_parquet(self.folder / TABLE, columns=["path", "split"])
        kept = self.images[self.images["reason"] == ""]
        hashes = table["path"].map(dict(zip(kept["path"], kept["sha256"], strict=True)))
        return Splits(
            by_hash=dict(zip(hashes, table["split"], strict=True)),
            by_path=dict(zip(table["path"], table["split"], strict=True)) if same_table and self.same_folder else {},
        )

    @cached_property
    def images(self) -> pd.DataFrame:
        return pd.read_parquet(self.folder / IMAGES) if self.manifest else pd.DataFrame()

    @cached_property
    def sources(self) -> list[Source]:
        rows = zip(*(self.images[name].tolist() for name in Source._fields), strict=True)
        return [
            shards.source_of(path, size, mtime_ns, checksum, json.loads(cell) if cell else None)
            for path, size, mtime_ns, checksum, cell in rows
        ]

    @cached_property
    def results(self) -> list[Result]:
        return [Result(*row) for row in zip(*(self.images[f].tolist() for f in Result._fields), strict=True)]

    def unchanged(self, finder: Finder) -> bool:
        """Whether every file of the dataset and every image is as it was, and nothing is worth another try."""
        if not (self.has_pixels and self.same_folder):
            return False
        others = self.manifest["files"].keys() - set(shard_names(self.manifest))
        if not self._whole(self.manifest, others) or may_change(self.results):
            return False
        sources = self.sources
        now = scan(
            [source.path for source in sources],
            finder.folder,
            checksums=[source.checksum for source in sources],
            cells=[source.cell for source in sources],
        )
        absent = [source.path for source in sources if source.size < 0]
        return now == sources and not any(finder.find(path).path is not None for path in absent)

    def shards(self) -> dict[str, Finished]:
        """Shards that can be taken over whole, by key."""
        found: dict[str, Finished] = {}
        if not (self.has_pixels and self.same_folder):
            return found
        for number, rows in self.images.groupby("shard").indices.items():
            span = slice(rows[0], rows[-1] + 1)
            results = self.results[span]
            if not may_change(results):
                name = shard_names(self.manifest)[int(number)]
                sha256 = self.manifest["files"][name]["sha256"]
                looks = thumbnails_of(self.images["thumbnail"].iloc[span])
                found[shards.key(self.sources[span])] = Finished(self.folder / name, sha256, results, looks)
        return found

    def known(self) -> dict[str, KnownImage]:
        """Images that can be taken over one by one, by path."""
        found: dict[str, KnownImage] = {}
        if not self.has_pixels:
            return found
        for number, rows in self.images.groupby("shard").indices.items():
            file, row = str((self.folder / shard_names(self.manifest)[int(number)]).resolve()), 0
            for i in rows:
                source, result = self.sources[i], self.results[i]
                if result.reason not in (*TRANSIENT, Reason.CHECKSUM):
                    found[source.path] = KnownImage(source, Known(result, file, row, same=False))
                row += not result.reason
        return found


def may_change(results: Iterable[Result]) -> bool:
    """Whether another try may end otherwise though no source has changed."""
    return any(result.reason in TRANSIENT for result in results)


def thumbnails_of(column: Iterable[str]) -> np.ndarray:
    """The column ``thumbnail`` of ``images.parquet``, hex digits, as ``(n, 8, 9, 3)`` uint8 of the images kept."""
    return np.frombuffer(bytes.fromhex("".join(column)), np.uint8).reshape(-1, *shards.THUMBNAIL)
