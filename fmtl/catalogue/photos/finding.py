"""Finding the photos that a table means: its paths are seldom written as the image folder has them."""

import csv
import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from fmtl.catalogue.names import without_image_suffix
from fmtl.catalogue.notes import Note
from fmtl.catalogue.photos.folder import ImageFolder
from fmtl.catalogue.reasons import Reason
from fmtl.errors import DataError

FETCHED = "fetched.csv"  # beside photos that were downloaded: which address is which file
IMAGES = "images"  # the folder beside a table where photos are expected
_SEPARATORS = ("|", ";", ",", " ")
_SAMPLE = 200  # paths that an image folder or column is chosen by
ADDRESS = re.compile(r"(https?|ftp|s3|gs|data):", re.IGNORECASE)
_WHOLE = re.compile(r"(\d+)\.0+")


class Rule(StrEnum):
    """How a photo was found whose path is not simply one below the image folder."""

    ABSOLUTE = "are named by their full path"
    BESIDE_TABLE = "are named by their path from the table's folder"
    FROM_HERE = "are named by their path from the working folder"
    SLASH = "have a slash in front of their path"
    FOLDER_IN_FRONT = "have another folder in front of their path"
    CASE = "are written in another case or Unicode form"
    SUFFIX = "are written with another suffix or none"
    ENCODED = "are written as in an address (%20 for a space)"
    WHOLE_NUMBER = "are written as a decimal number"
    CLASS_FOLDER = "lie in the only folder that has a file of that name"
    FETCHED = "were downloaded from their address"


@dataclass(frozen=True)
class Place:
    """Where a photo is.

    Attributes:
        path: Below the image folder; None where it is not found.
        rule: How it was found; None where its path is what the table says.
        problem: Why none is one that is meant: reason and detail.
    """

    path: str | None
    rule: Rule | None = None
    problem: tuple[Reason, str] | None = None


@dataclass(frozen=True)
class Found:
    """Where photos are.

    Attributes:
        paths: Below the image folder; as the table says it where nothing was found.
        rules: By position, how a photo was found, where not by its path as it is.
        problems: By position, why none is one that is meant: reason and detail.
    """

    paths: list[str]
    rules: dict[int, Rule]
    problems: dict[int, tuple[Reason, str]]

    def notes(self, said: Sequence[str]) -> list[Note]:
        """What each rule found, with an example."""
        first = {rule: n for n, rule in reversed(self.rules.items())}
        return [
            Note(f"{count} photos {rule}: '{said[first[rule]]}' is {self.paths[first[rule]]}")
            for rule, count in Counter(self.rules.values()).most_common()
        ]


class Finder:
    """Finds photos below one folder.

    Args:
        folder: Nothing outside it is found.
        table: The table that names them.
    """

    def __init__(self, folder: ImageFolder, table: Path):
        self.folder = folder
        beside = table if table.is_dir() else table.parent
        self._bases = ((Rule.BESIDE_TABLE, str(beside.resolve())), (Rule.FROM_HERE, str(Path.cwd())))
        self._listings: dict[str, set[str]] = {}

    def find_all(self, said: Sequence[str]) -> Found:
        """Find each photo. A file that something else leads to is none that a path without its folder may mean."""
        found = Found(list(said), {}, {})
        claims: dict[str, set[str]] = {}  # file: what leads to it
        for n, name in enumerate(said):
            place = self.find(name)
            if place.problem:
                found.problems[n] = place.problem
            elif place.path is not None:
                claims.setdefault(posixpath.normpath(_slashed(place.path)), set()).add(_slashed(name))
                if place.rule:
                    found.paths[n], found.rules[n] = place.path, place.rule
        for n, rule in list(found.rules.items()):
            others = claims[posixpath.normpath(found.paths[n])] if rule is Rule.FOLDER_IN_FRONT else ()
            if len(others) > 1:
                told = (
                    f"'{said[n]}' is not there, and {found.paths[n]} is what {len(others)} different paths would mean"
                )
                found.problems[n], found.paths[n] = (Reason.SEVERAL_FIT, told), said[n]
                del found.rules[n]
        return found

    def num_found(self, said: Sequence[str]) -> int:
        """Of a sample of some paths, for how many there is a photo."""
        step = max(len(said) // _SAMPLE, 1)
        return sum(self.find(name).path is not None for name in said[::step])

    def find(self, said: str) -> Place:
        """Where a photo is, or why there is none."""
        if ADDRESS.match(said):
            return self._downloaded(said)
        name = _slashed(said)
        if self._is_there(name):
            return Place(said)
        readings = [] if "\0" in name else list(self._readings(name))
        for rule, path in readings:
            if self._is_there(path):
                return Place(path, rule)
        return self._nearest(said, readings)

    def _downloaded(self, address: str) -> Place:
        path = self._fetched.get(address)
        if path is not None and self._is_there(path):
            return Place(path, Rule.FETCHED)
        told = f"'{address[:200]}' is an address; fmtl fetch downloads the photos of a table"
        return Place(None, problem=(Reason.URL, told))

    def _nearest(self, said: str, readings: Sequence[tuple[Rule, str]]) -> Place:
        """The only file that is written almost so."""
        several: list[str] = []
        for rule, path in readings:
            for how, files in self._alike(path):
                if len(files) == 1:
                    return Place(files[0], rule if rule is Rule.FOLDER_IN_FRONT else how)
                several = several or files
        if parts := self._several_names(said):
            told = f"'{said}' names {len(parts)} photos; give each a row of its own (pandas: explode)"
            return Place(None, problem=(Reason.SEVERAL_FIT, told))
        if several:
            told = f"'{said}' is not there, and {len(several)} files could be meant: {', '.join(several[:3])}"
            return Place(None, problem=(Reason.SEVERAL_FIT, told))
        return Place(None)

    def _several_names(self, said: str) -> list[str]:
        """The names in a cell that has several, each of a photo that is there."""
        for separator in _SEPARATORS:
            parts = [part.strip() for part in said.split(separator)]
            if len(parts) > 1 and all(part and self._is_there(_slashed(part)) for part in parts):
                return parts
        return []

    def look_around(self, said: str) -> str:
        """One path that was tried, and what lies in the folder instead."""
        files = []
        for folder, name in self.folder.walk():
            files.append(posixpath.join(folder, name))
            if len(files) == 3:
                break
        there = f"it holds {', '.join(files)}" + (", ..." if len(files) == 3 else "") if files else "it holds no file"
        return f"'{said}' was looked for in {self.folder.root}; {there}. --images names the folder of the photos"

    def _readings(self, name: str) -> Iterator[tuple[Rule, str]]:
        """Paths below the folder that a name may mean."""
        is_absolute = re.match("/|[A-Za-z]:/", name) is not None
        for rule, base in ((Rule.ABSOLUTE, ""),) if is_absolute else self._bases:
            whole = os.path.normpath(name if is_absolute else f"{base}/{name}")
            if whole.startswith(self.folder.root + "/"):
                yield rule, os.path.relpath(whole, self.folder.root)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            return
        yield Rule.SLASH if is_absolute else Rule.CASE, "/".join(parts)
        for n in range(len(parts)):
            if n:
                yield Rule.FOLDER_IN_FRONT, "/".join(parts[n:])
            if n < len(parts) - 1 and self._names(parts[n]):
                break  # a folder that is there, and has no such file, is the one that is meant

    def _alike(self, path: str) -> Iterator[tuple[Rule, list[str]]]:
        """Files whose path is the same but for what people and programs change on the way."""
        by_path, by_name = self._index
        folder, name = posixpath.split(path)
        for rule, spelling in _spellings(name):
            if files := by_path.get(_folded(posixpath.join(folder, spelling))):
                is_whole = rule is Rule.CASE and _folded(posixpath.basename(files[0])) == _folded(name)
                yield Rule.SUFFIX if rule is Rule.CASE and not is_whole else rule, files
        if not folder:
            for _, spelling in _spellings(name):
                if files := by_name.get(_folded(spelling)):
                    yield Rule.CLASS_FOLDER, files

    def _is_there(self, path: str) -> bool:
        if path.startswith("/") or ".." in path.split("/"):
            return False
        folder, name = posixpath.split(posixpath.normpath(path))
        return name in self._names(folder)

    def _names(self, folder: str) -> set[str]:
        names = self._listings.get(folder)
        if names is None:
            names = self._listings[folder] = self.folder.names(folder)
        return names

    @cached_property
    def _index(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Files by their path and by their name, each folded, with and without an image's suffix."""
        by_path: dict[str, list[str]] = {}
        by_name: dict[str, list[str]] = {}
        for folder, name in self.folder.walk():
            path, stem = posixpath.join(folder, name), without_image_suffix(name)
            for spelling in dict.fromkeys((name, stem)):
                by_path.setdefault(_folded(posixpath.join(folder, spelling)), []).append(path)
                by_name.setdefault(_folded(spelling), []).append(path)
        return by_path, by_name

    @cached_property
    def _fetched(self) -> dict[str, str]:
        return read_fetched(Path(self.folder.root))


def read_fetched(folder: Path) -> dict[str, str]:
    """Path of each photo that was downloaded into a folder, by its address."""
    try:
        with (folder / FETCHED).open(encoding="utf-8", newline="") as file:
            return {row["url"]: row["path"] for row in csv.DictReader(file) if row["path"]}
    except (OSError, KeyError, ValueError, csv.Error):
        return {}


def image_roots(table: Path, images: str | None) -> list[Path]:
    """Folders that may be the image folder: the one named, else ``images`` beside the table and the table's own.

    Raises:
        DataError: The one named is no folder.
    """
    if images:
        if not Path(images).is_dir():
            raise DataError(f"{images} is not a folder", where="images")
        return [Path(images)]
    beside = table if table.is_dir() else table.parent
    return [folder for folder in (beside / IMAGES, beside) if folder.is_dir()]


def finders_of(table: Path, images: str | None, *, follow_links: bool) -> list[Finder]:
    """One per folder where the photos of a table may be: see ``image_roots``."""
    return [Finder(ImageFolder(root, follow_links=follow_links), table) for root in image_roots(table, images)]


def best_finder(finders: Sequence[Finder], said: Sequence[str]) -> Finder:
    """The one that finds most of some paths; the first where several find as many, or nearly all."""
    if len(finders) > 1 and finders[0].num_found(said) < len(said[:: max(len(said) // _SAMPLE, 1)]) / 2:
        return max(finders, key=lambda finder: finder.num_found(said))
    return finders[0]


def _spellings(name: str) -> Iterator[tuple[Rule, str]]:
    yield Rule.CASE, name
    stem = without_image_suffix(name)
    yield Rule.SUFFIX, stem
    if "%" in name:
        yield Rule.ENCODED, unquote(name)
    if whole := _WHOLE.fullmatch(stem):
        yield Rule.WHOLE_NUMBER, whole[1]


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _slashed(said: str) -> str:
    """With the slashes of this system: tables written on Windows have others."""
    return said.replace("\\", "/")
