"""Parts of a dataset that several machines decode: what each one keeps, and all of them as one.

A part's folder holds ``part.json`` (the commit mark), the shards of its images, and ``images.parquet`` as a dataset has
it. It has no splits and no classes: those are for the whole.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fmtl.dataset.prepared import IMAGES, file_entry, shard_name
from fmtl.dataset.prepared import PART as MARK
from fmtl.dataset.reuse.previous import KnownImage, Previous
from fmtl.dataset.shards import Finished
from fmtl.errors import DataError, UsageError
from fmtl.storage import durable
from fmtl.storage.records import SEAL, checked, read_json, sealed

FORMAT, VERSION = "fmtl-part", 1
_FIELDS = {
    "format": str, "version": int, "part": str, "files": dict, "shards": list, "image": dict, "source": dict,
    "plan": dict, "places": dict, "rows": int, SEAL: str,
}  # fmt: skip


def is_of(key: str, part: tuple[int, int]) -> bool:
    """Whether a row belongs to a part, by its id; the same on every machine.

    Args:
        part: Number, from 1, and how many there are.
    """
    number, num = part
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8]) % num == number - 1


def as_numbers(text: str) -> tuple[int, int]:
    """``2/4`` as ``(2, 4)``."""
    number, _, num = text.partition("/")
    return int(number), int(num)


class Part(Previous):
    """The images of a part.

    Args:
        decoding: As ``Previous``.

    Raises:
        DataError: It is none, or a file was changed.
    """

    def __init__(self, folder: Path, decoding: Mapping[str, Any]):
        super().__init__(folder, decoding, take_pixels=False)  # it is no dataset
        self.manifest = read(folder)
        self.has_pixels = self.manifest["image"] == dict(decoding)
        if not self._whole(self.manifest, self.manifest["files"], size_only=False):
            raise DataError("a file is missing or was changed since; prepare that part again", where=str(folder))

    @property
    def root(self) -> Path:
        """Where its images were."""
        return (self.folder.resolve() / self.manifest["source"]["images_path"]).resolve()


class Joined(Previous):
    """The dataset that is there already, whose splits stay, and parts, whose images are taken over."""

    def __init__(self, folder: Path, decoding: Mapping[str, Any], parts: Sequence[Part]):
        super().__init__(folder, decoding, take_pixels=False)
        self._parts = parts

    @property
    def same_images(self) -> bool:
        root = (self.folder.resolve() / self.images_path).resolve()
        return all(part.root == root for part in self._parts)

    def shards(self) -> dict[str, Finished]:
        return {}

    def known(self) -> dict[str, KnownImage]:
        return {path: image for part in self._parts for path, image in part.known().items()}

    def sound(self, files: Iterable[str]) -> set[str]:
        """Each was compared with its hash when the part was opened."""
        return set(files)


def is_part(folder: Path) -> bool:
    return (folder / MARK).is_file()


def read(folder: Path) -> dict[str, Any]:
    """What a part says of itself.

    Raises:
        DataError: It is none, or of another version.
    """
    if not is_part(folder):
        raise DataError(f"no part of a dataset (no {MARK}); fmtl prepare --part makes one", where=str(folder))
    found = checked(read_json(folder / MARK), _FIELDS, where=str(folder / MARK))
    if (found["format"], found["version"]) != (FORMAT, VERSION):
        raise DataError(f"expected {FORMAT} version {VERSION}; prepare that part again", where=str(folder / MARK))
    return found


def write(
    folder: Path, *, part: str, images: pd.DataFrame, shards: Sequence[Finished], rows: int, **facts: Mapping[str, Any]
) -> None:
    """Write a part's files into a folder, the mark last.

    Args:
        images: Content of ``images.parquet``.
        rows: Of the table.
        facts: ``image``, ``source``, ``plan`` and ``places``.
    """
    for shard in shards:
        durable.link(shard.file, folder / shard_name(shard.sha256))
    images.to_parquet(folder / IMAGES, index=False)
    names = [shard_name(shard.sha256) for shard in shards]
    files = {name: file_entry(folder / name, shard.sha256) for name, shard in zip(names, shards, strict=True)}
    files[IMAGES] = file_entry(folder / IMAGES)
    said = {"format": FORMAT, "version": VERSION, "part": part, "files": files, "shards": names, "rows": rows}
    durable.write_json(folder / MARK, sealed(said | facts))


def check_all(folders: Sequence[Path]) -> dict[str, Any]:
    """What all parts say alike.

    Raises:
        UsageError: They are not all parts of one dataset, each once.
    """
    found = {folder: read(folder) for folder in folders}
    first_folder, first = next(iter(found.items()))
    num = as_numbers(first["part"])[1]
    there: dict[int, Path] = {}
    for folder, said in found.items():
        for what, names in (("plan", "settings"), ("image", "stored pixels"), ("tables", "tables")):
            same = _tables(said) == _tables(first) if what == "tables" else said[what] == first[what]
            if not same:
                raise UsageError(f"parts: {folder} and {first_folder} are of other {names}; prepare all parts alike")
        number, of = as_numbers(said["part"])
        if of != num or number in there:
            other = there.get(number, first_folder)
            raise UsageError(f"parts: {folder} is part {said['part']}, and {other} is {found[other]['part']}")
        there[number] = folder
    if absent := sorted(set(range(1, num + 1)) - set(there)):
        raise UsageError(f"parts: of {num} parts {', '.join(map(str, absent))} are missing")
    return first


def _tables(said: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in said["source"].items() if name.endswith("sha256")}
