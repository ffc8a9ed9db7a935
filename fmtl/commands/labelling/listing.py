"""The photos that somebody names for prediction: files, a folder, a list of paths, or a table as prepare takes it."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pandas as pd

from fmtl.catalogue.columns import photo_paths
from fmtl.catalogue.names import IMAGE_SUFFIXES
from fmtl.catalogue.notes import Note, warning
from fmtl.catalogue.photos.cells import Cell, PhotoCell
from fmtl.catalogue.photos.finding import Finder, best_finder, finders_of
from fmtl.catalogue.photos.folder import ImageError, ImageFolder, PhotoFile
from fmtl.catalogue.presets import PRESETS
from fmtl.catalogue.reading import photo_template, read_as
from fmtl.catalogue.reasons import Reason
from fmtl.catalogue.table import Catalogue
from fmtl.errors import DataError, UsageError, located
from fmtl.model.labeller import Photo
from fmtl.settings.schema import PredictSettings

TABLES = (
    ".csv", ".tsv", ".parquet", ".pq", ".xlsx", ".json", ".jsonl", ".ndjson", ".gz", ".zst", ".bz2",
)  # fmt: skip  # how their names end
LISTS = (".txt", ".lst")
OTHER_PHOTOS = (".hif", ".jxl", ".jp2", ".psd", ".svg")  # rows with a reason, not passed over
SHOWN = 5  # suffixes named


@dataclass(frozen=True)
class Listing:
    """Photos in the order in which they are labelled.

    Attributes:
        names: As they are written into the predictions.
        photos: Where each is, or why there is none.
        notes: What was guessed and passed over.
        look_around: Given the name of one that is missing, says where it was looked for.
        source, table: Where the table is that names them, if any, and what was read of it.
        lines: Of that table, one for each photo.
    """

    names: list[str]
    photos: Sequence[Photo]
    notes: list[Note] = field(default_factory=list)
    look_around: Callable[[str], str] | None = None
    source: Path | None = None
    table: Catalogue | None = None
    lines: Sequence[int] = ()

    def own_columns(self, taken: Sequence[str]) -> pd.DataFrame:
        """The table's columns, a row per photo; ``table/`` before a name that is taken.

        Raises:
            UsageError: There is no table.
        """
        if self.table is None:
            raise UsageError("keep_columns: expected a table, not photos alone")
        frame = self.table.written.reindex(self.lines)
        return frame.rename(columns={name: f"table/{name}" for name in frame if name in taken})


def list_photos(settings: PredictSettings) -> Listing:
    """What ``table`` or ``images`` names.

    Raises:
        DataError: Nothing is there.
    """
    if settings.table:
        return _of_table(Path(settings.table), settings, images=settings.images)
    named = settings.images or ""
    path = Path(named)
    if path.is_dir():
        return _of_folder(path, follow_links=settings.follow_links)
    if path.is_file():
        if path.suffix.lower() in TABLES:
            return _of_table(path, settings, images=None)
        if path.suffix.lower() in LISTS:
            return _of_list(path, settings)
        return Listing([_printable(str(path))], [PhotoFile.named(path)])
    files = sorted(glob.glob(named, recursive=True)) if glob.has_magic(named) else []  # noqa: PTH207
    files = files or [part.strip() for part in named.split(",")]
    missing = next((file for file in files if not Path(file).is_file()), None)
    if missing is not None:
        hint = (
            "; is the folder meant that it lies in?" if Path(missing).parent.is_dir() and glob.has_magic(named) else ""
        )
        raise DataError(f"{missing} is neither a file nor a folder{hint}", where="images")
    return Listing([_printable(file) for file in files], [PhotoFile.named(Path(file)) for file in files])


def _of_folder(path: Path, *, follow_links: bool) -> Listing:
    """Every file below a folder that may be a photo by its name; the others are counted."""
    folder = ImageFolder(path, follow_links=follow_links)
    found, others = [], Counter[str]()
    for below, name in folder.walk(into_links=True):
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
        if suffix in (*IMAGE_SUFFIXES, *OTHER_PHOTOS, ""):
            found.append(os.path.join(below, name))  # noqa: PTH118
        else:
            others[suffix] += 1
    if not found:
        raise DataError(f"no image file ({', '.join(IMAGE_SUFFIXES)}) below {path}", where="images")
    found.sort()
    notes = []
    if others:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(SHOWN))
        notes.append(Note(f"{others.total()} files are no photos by their names and were passed over: {kinds}"))
    if not follow_links and (num := sum(map(folder.leads_out, found))):
        notes.append(warning(f"{num} files are links that lead out of {path}; --follow-links true reads them"))
    return Listing([_printable(name) for name in found], [PhotoFile(folder, name) for name in found], notes)


def _of_list(path: Path, settings: PredictSettings) -> Listing:
    """A path on each line, found as those of a table."""
    content = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    names = [line.strip() for line in content.splitlines() if line.strip()]
    if not names:
        raise DataError("an empty file; expected the path of a photo on each line", where=str(path))
    return _found(finders_of(path, None, follow_links=settings.follow_links), names)


def _of_table(path: Path, settings: PredictSettings, *, images: str | None) -> Listing:
    """The photos that the rows of a table name; a line that can't be read is one with its reason."""
    preset = PRESETS.get(settings.preset) if settings.preset else None
    table = read_as(path, settings, preset)
    template = photo_template(table, settings, preset)
    if table.image_cells:
        column = table.image_cells
        names = [name or "" for name in table.frame[column]]
        cells = [PhotoCell(Cell(*table.cells[line], column)) for line in table.frame.index]
        return _with_rejects(Listing(names, cells, table.notes), path, table)
    finders = finders_of(path, images, follow_links=settings.follow_links)
    with located(str(path)):
        _, paths, notes = photo_paths(table.frame, settings.image_col, template, finders=finders)
    names = [name or "" for name in paths(table.frame)]
    listing = _found(finders, names)
    told = Listing(listing.names, listing.photos, [*table.notes, *notes, *listing.notes], listing.look_around)
    return _with_rejects(told, path, table)


def _with_rejects(listing: Listing, path: Path, table: Catalogue) -> Listing:
    """With the lines that can't be read where they stand in the table."""
    photos: dict[int, tuple[str, Photo]] = {
        line: (name, photo) for line, name, photo in zip(table.frame.index, listing.names, listing.photos, strict=True)
    }
    for reject in table.rejects:
        photos[reject.line] = ("", ImageError(cast(Reason, reject.reason), f"line {reject.line}: {reject.detail}"))
    notes = listing.notes
    if table.rejects:
        first = table.rejects[0]
        told = f"{len(table.rejects)} lines could not be read; the first: line {first.line}, {first.detail}"
        notes = [*notes, warning(told)]
    lines = sorted(photos)
    names, found = [photos[line][0] for line in lines], [photos[line][1] for line in lines]
    return Listing(names, found, notes, listing.look_around, source=path, table=table, lines=lines)


def _found(finders: Sequence[Finder], names: list[str]) -> Listing:
    """Where each named photo is, or why there is none."""
    finder = best_finder(finders, [name for name in names if name])
    found = finder.find_all(names)
    photos: list[Photo] = [PhotoFile(finder.folder, place) for place in found.paths]
    for n, why in found.problems.items():
        photos[n] = ImageError(*why)
    blank = ImageError(Reason.MISSING, "the cell is blank")
    photos = [photo if name else blank for name, photo in zip(names, photos, strict=True)]
    return Listing([_printable(name) for name in names], photos, found.notes(names), finder.look_around)


def _printable(name: str) -> str:
    """A file name that is not UTF-8 with its odd bytes written out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
