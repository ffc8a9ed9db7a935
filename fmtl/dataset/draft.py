"""A dataset in the making: how it is to be made, and its rows on the way from a table to what is written."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

import fmtl
from fmtl.catalogue.notes import Note
from fmtl.catalogue.table import Reject
from fmtl.catalogue.values.applicability import Applicability
from fmtl.dataset import shards
from fmtl.tasks import Tasks

PLACES = (
    "table",
    "test_table",
    "images",
    "out",
    "reuse",
    "workers",
    "part",
)  # what leaves a dataset's content as it is
Fractions = tuple[float, float, float]  # of train, val and test
SHOWN = 8  # names listed in a note


@dataclass(frozen=True, kw_only=True)
class PreparePlan:
    """What is prepared, and how; the fields are those of ``PrepareSettings``, which says what each means."""

    table: str
    test_table: str | None
    sheet: str | None
    images: str | None
    follow_links: bool
    image_col: str | None
    id_col: str | None
    image_template: str | None
    label_cols: tuple[str, ...]
    first_value: tuple[str, ...]
    set_cols: tuple[str, ...]
    sets: str
    preset: str | None
    missing: tuple[str, ...]
    not_applicable: tuple[str, ...]
    applies: Mapping[str, Mapping[str, Sequence[str]]]
    encoding: str | None
    quotes: bool
    casefold: bool
    rare: str
    min_class_images: int
    group_col: str | None
    group_near_duplicates: bool
    split_col: str | None
    checksum_col: str | None
    limit: int | None
    part: str | None
    out: str
    reuse: bool
    workers: int | None
    px: int
    fit: str
    background: str
    val_fraction: float
    test_fraction: float
    max_reject_fraction: float
    seed: int

    @property
    def fractions(self) -> Fractions:
        return 1 - self.val_fraction - self.test_fraction, self.val_fraction, self.test_fraction

    @property
    def decoding(self) -> dict[str, Any]:
        return shards.decoding(self.px, self.fit, self.background)

    def remembered(self) -> dict[str, Any]:
        """What the manifest says of it, as JSON has it."""
        kept = {name: value for name, value in asdict(self).items() if name not in PLACES}
        return json.loads(json.dumps(kept)) | {"fmtl": fmtl.__version__}


@dataclass(frozen=True)
class Draft:
    """A dataset in the making.

    Attributes:
        table: A row per product photo that is still in; the index is its line in the catalogue. It begins with ``id``
            and ``path``, and gains ``sha256`` of the file; ``identical``, ``near`` and ``together``, where equal
            numbers mean the same stored pixels, the same look, and one split; ``pinned``, whether it must be in train;
            and ``split``.
        labels: The same rows' labels, a column per attribute, None where blank; of sets tuples of their values.
        applicability: Where attributes apply, and what contradicts that.
        targets: The same as indices, ``(N, columns)`` int64 in the order of ``tasks``.
        rejects: The rows that were left out.
        notes: What the user should know.
    """

    table: pd.DataFrame
    labels: pd.DataFrame
    rejects: list[Reject]
    notes: list[Note]
    applicability: Applicability = field(default_factory=Applicability)
    tasks: Tasks = field(default_factory=Tasks)
    targets: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.int64))

    @property
    def lines(self) -> list[int]:
        return self.table.index.tolist()

    def with_columns(self, *notes: Note, **columns: Iterable) -> "Draft":
        return replace(self, table=self.table.assign(**columns), notes=[*self.notes, *notes])


def some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
