"""The raw product table: every line read becomes one row of text or one reject, with its line number."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from fmtl.catalogue.names import ID_NAMES
from fmtl.catalogue.notes import Note
from fmtl.catalogue.reasons import Reason
from fmtl.errors import TABLE, DataError, did_you_mean, first_ten


@dataclass(frozen=True)
class Reject:
    """A row that was left out. ``line`` counts from 1, the header included (Parquet: the row number)."""

    line: int
    id: str
    reason: Reason | str
    detail: str


@dataclass
class Catalogue:
    """A product table as text.

    Attributes:
        frame: One row per readable line, cells stripped, None where blank; the index is the line number.
        rejects: The lines that could not become a row.
        notes: What was repaired or assumed, for the user to read.
        blanks: Per column, how often each spelling of a blank occurs.
        not_applicable: Per column, the cells that say that it does not apply, by line; ``frame`` is blank there.
        unusable: Columns that can't be text, and their Parquet type.
        image_cells: The column whose cells hold the images themselves; ``frame`` has their paths there.
        cells: By line, where such an image lies: Parquet file, row group, row in it.
    """

    frame: pd.DataFrame
    rejects: list[Reject] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    blanks: dict[str, dict[str, int]] = field(default_factory=dict)
    not_applicable: dict[str, pd.Series] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    image_cells: str | None = None
    cells: dict[int, tuple[str, int, int]] = field(default_factory=dict)

    @property
    def num_rows_read(self) -> int:
        return len(self.frame) + len(self.rejects)

    @property
    def written(self) -> pd.DataFrame:
        """``frame``, with the cells that say that a column does not apply."""
        frame = self.frame.copy()
        for column, cells in self.not_applicable.items():
            frame.loc[cells.index, column] = cells
        return frame

    def add(self, other: "Catalogue", name: str, *, split_col: str) -> None:
        """Let the rows of another table follow, as the test split.

        Args:
            name: Of the other table, for people.
            split_col: Column that says it; the rows that were here before are for training where it is not there yet.
        """
        if other.image_cells != self.image_cells:
            told = f"photos lie in column {other.image_cells!r}, and in {self.image_cells!r} of the first table"
            raise DataError(f"{told}; both tables must have them in one column, or name them", where=name)
        if self.image_cells is not None:  # names repeat from table to table
            other.frame[self.image_cells] = "test/" + other.frame[self.image_cells]
        after = max([*self.frame.index, *(reject.line for reject in self.rejects)], default=0)
        rows = other.frame.set_axis(other.frame.index + after).assign(**{split_col: "test"})
        first = self.frame if split_col in self.frame else self.frame.assign(**{split_col: "train"})
        columns = [*first, *(c for c in rows if c not in first)]
        both = pd.concat([first.reindex(columns=columns), rows.reindex(columns=columns)])
        self.frame = both.astype(object).where(both.notna(), None).rename_axis(index="line")
        self.rejects += [
            replace(r, line=r.line + after, detail=f"{name}, line {r.line}: {r.detail}") for r in other.rejects
        ]
        self.notes += [
            *other.notes,
            Note(f"the rows of {name} are the test split; their lines are counted from {after}"),
        ]
        for column, cells in other.not_applicable.items():
            parts = [self.not_applicable.get(column, cells[:0]), cells.set_axis(cells.index + after)]
            self.not_applicable[column] = pd.concat(parts)
        self.unusable |= other.unusable
        self.cells |= {line + after: cell for line, cell in other.cells.items()}
        for column, blanks in other.blanks.items():
            known = self.blanks.setdefault(column, {})
            for spelling, n in blanks.items():
                known[spelling] = known.get(spelling, 0) + n

    def ignore_image_cells(self) -> None:
        """The images lie elsewhere: the column of bytes is none that can be used."""
        if self.image_cells is not None:
            self.unusable[self.image_cells] = "binary"
            self.frame = self.frame.drop(columns=self.image_cells)
            self.image_cells, self.cells = None, {}


def checked_columns(columns: list[str], *, line: int = 1, where: str) -> list[str]:
    doubled = sorted({c for c in columns if columns.count(c) > 1})
    if doubled:
        raise DataError(f"line {line}: duplicate column names {doubled}; rename all but one of each", where=where)
    return columns


def id_position(columns: list[str], id_col: str | None) -> int:
    """Where the ids are; beyond the columns if nowhere."""
    wanted = (id_col.casefold(),) if id_col else ID_NAMES
    return next((at for at, column in enumerate(columns) if column.casefold() in wanted), len(columns))


def require(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise DataError where a column that was named is not there, with the nearest name."""
    problems = []
    for column in columns:
        if column not in frame:
            hint = did_you_mean(column, frame.columns, cutoff=0.5)
            if with_comma := next((c for c in frame if "," in c and c.startswith(column)), None):
                hint = f"a name with a comma stands in double quotes: '\"{with_comma}\"'."
            problems.append(
                f"column '{column}' is not in the table{hint and f'; {hint}'} Columns: {', '.join(frame.columns)}"
            )
    if problems:
        raise DataError("\n" + first_ten(problems), where=TABLE)
