"""Which column of a table names its photos."""

import re
from collections.abc import Sequence

import pandas as pd

from fmtl.catalogue.names import ID_NAMES, IMAGE_SUFFIXES
from fmtl.catalogue.notes import Note
from fmtl.catalogue.photos.finding import ADDRESS, Finder
from fmtl.catalogue.table import require
from fmtl.errors import TABLE, DataError

_IMAGE_WORDS = re.compile(r"image|img|photo|pic|file|path", re.IGNORECASE)
_SMALL = re.compile(r"thumb|small|preview|icon|swatch|mini", re.IGNORECASE)
_ENOUGH = 0.5  # share of the cells whose photos are there
_HEAD = 100  # cells looked at


def image_column(
    frame: pd.DataFrame, named: str | None = None, *, finders: Sequence[Finder] = ()
) -> tuple[str, list[Note]]:
    """The column of image paths, and a note where several could be.

    It is the one named; of those whose cells end like image files one whose photos are there, originals before
    thumbnails; else one whose cells are found as photos all the same.

    Raises:
        DataError: The named one is missing, or none is found.
    """
    if named:
        require(frame, [named])
        return named, []
    heads = {c: cells.tolist() for c in frame if len(cells := frame[c].dropna().head(_HEAD))}
    likely = [c for c, cells in heads.items() if sum(map(_like_image, cells)) > len(cells) / 2]
    found = {c: _share_found(heads[c], finders) for c in likely}
    if not likely:
        by_name = sorted(heads, key=lambda c: (_IMAGE_WORDS.search(c) is None, c.casefold() not in ID_NAMES))
        found = {c: share for c in by_name if (share := _share_found(heads[c], finders)) > _ENOUGH}
        if not found:
            raise DataError(
                "no column holds image file names; name it with --image-col. Columns: " + ", ".join(frame.columns),
                where=TABLE,
            )
        likely = list(found)[:1]
    best = min(
        likely,
        key=lambda c: (found[c] <= _ENOUGH, _is_address(heads[c][0]), _SMALL.search(c) is not None, likely.index(c)),
    )
    if len(likely) == 1:
        return best, []
    others = ", ".join(f"'{c}'" for c in likely if c != best)
    return best, [Note(f"photos are taken from column '{best}', not from {others}; --image-col names another")]


def _like_image(cell: str) -> bool:
    return cell.partition("?")[0].lower().endswith(IMAGE_SUFFIXES)


def _is_address(cell: str) -> bool:
    return ADDRESS.match(cell) is not None


def _share_found(said: Sequence[str], finders: Sequence[Finder]) -> float:
    share = 0.0
    for finder in finders:
        share = max(share, finder.num_found(said) / len(said))
        if share > _ENOUGH:  # the next folder need not be looked through
            break
    return share
