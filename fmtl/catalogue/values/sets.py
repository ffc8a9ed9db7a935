"""Several values of one attribute: in one cell, or in a column for each value."""

import ast
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from fmtl.tasks import as_text

LIST = "[]"  # stands for the separator of a list as JSON or Python writes it
_SEPARATORS = ("|", ";", ",", "/")
_SEPARATED = 0.05  # share of cells with a separator that makes a column one of several values
_KNOWN_PARTS = 0.8  # share of the joined cells whose parts all occur elsewhere
_MOST = 0.95  # share of cells that are lists where a column is one of lists
_SAMPLE = 5000  # rows
_OPEN, _CLOSE = "[({", "])}"
YES = frozenset({"1", "1.0", "true", "t", "yes", "y", "x", "✓", "✔", "☑"})
NO = frozenset({"0", "0.0", "false", "f", "no", "n", "☐", "✗"})
_SPACED = re.compile(r"""(['"]) +(['"])""")  # between values as numpy writes them
_BRACKETS = re.compile(r"[\[\](){}]")
_NAME_PARTS = re.compile(r"(?<=[^\W_])[ _.:=/-]+(?=[^\W_])")


@dataclass(frozen=True)
class SetCells:
    """Where the values of a set are told: in cells, or in a column for each.

    Attributes:
        separator: Between the values of a cell, or ``LIST``; None where there are columns.
        columns: The value that each says yes or no to, by column.
    """

    separator: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def told(self) -> str:
        if self.columns:
            return "a column for each value"
        return "the commas of a list" if self.separator == LIST else repr(self.separator)


def separator_of(values: pd.Series) -> str | None:
    """What stands between several values of one cell: ``|``, ``;``, ``,``, ``/``, or ``LIST``; None if nothing.

    A bar always separates. The others do where nearly all parts occur elsewhere, too.
    """
    values = values.iloc[:: max(len(values) // _SAMPLE, 1)]
    counts = values.value_counts()
    unique = counts.index.tolist()
    if sum(counts[cell] for cell in unique if _listed(cell) is not None) >= _MOST * len(values):
        return LIST
    for separator in _SEPARATORS:
        joined = [cell for cell in unique if separator in cell and len(parts(cell, separator)) > 1]
        if sum(counts[cell] for cell in joined) < _SEPARATED * len(values):
            continue
        if separator == "|":
            return separator
        seen = Counter(part for cell in unique for part in set(parts(cell, separator)))
        known = sum(all(seen[part] > 1 for part in parts(cell, separator)) for cell in joined)
        if len(joined) > 1 and known >= _KNOWN_PARTS * len(joined):
            return separator
    return None


def separator_named(values: pd.Series) -> str:
    """That of a column which is a set because the user says so: of those that occur the first, in doubt a bar."""
    found = separator_of(values)
    return found or next((s for s in _SEPARATORS if values.str.contains(s, regex=False).any()), "|")


def parts(cell: str, separator: str) -> list[str]:
    """The values of a cell, in its order. A list is read as one whatever the separator is."""
    found = _listed(cell)
    if found is not None:
        return found
    return [cell] if separator == LIST else [part for part in (p.strip() for p in cell.split(separator)) if part]


def _listed(cell: str) -> list[str] | None:
    """The values of a list as JSON or Python writes it."""
    if len(cell) < 2 or cell[0] not in _OPEN or _CLOSE[_OPEN.index(cell[0])] != cell[-1]:
        return None
    cell = _SPACED.sub(r"\1, \2", cell)
    for reads in (json.loads, ast.literal_eval):
        try:
            found = reads(cell)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list | tuple | set | frozenset):
            return [str(item).strip() for item in found if item is not None and str(item).strip()]
    within = cell[1:-1]
    if cell[0] == "[" and not _BRACKETS.search(within):  # without quotes
        return [part.strip() for part in within.split(",") if part.strip()]
    return None


def joined(values: Sequence[str], separator: str) -> str:
    """Values in one cell, as a column of this separator has them."""
    return json.dumps(list(values), ensure_ascii=False) if separator == LIST else as_text(tuple(values), separator)


# -- a column for each value ------------------------------------------------------------------------------------------


def of_columns(frame: pd.DataFrame, columns: Sequence[str]) -> dict[str, SetCells]:
    """Sets that columns such as ``material_cotton`` and ``material_wool`` make up, by what their names begin with.

    Args:
        columns: Those that may be part of one.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for column in columns:
        if (cut := _NAME_PARTS.search(column)) and _answers(frame[column].dropna().unique()):
            groups[column[: cut.end()]].append(column)
    found = {}
    for members in groups.values():
        prefix = _common(members)
        name = re.sub(r"[\W_]+$", "", prefix)
        if len(members) > 1 and name and name not in frame:
            found[name] = SetCells(columns={column: column[len(prefix) :] for column in members})
    return found


def _common(names: Sequence[str]) -> str:
    """What all begin with, up to the end of a part."""
    cuts = [cut.end() for cut in _NAME_PARTS.finditer(names[0])]
    cuts = [end for end in cuts if all(name.startswith(names[0][:end]) for name in names)]
    return names[0][: cuts[-1]] if cuts else ""


def _answers(cells: Iterable[str]) -> bool:
    """Whether cells are yes and no, and some is yes."""
    spelled = {cell.casefold() for cell in cells}
    return spelled <= YES | NO and bool(spelled & YES)


def read(frame: pd.DataFrame, name: str, cells: SetCells) -> pd.Series:
    """The values of each row as a list; None where nothing is said."""
    found = _from_columns(frame, cells.columns) if cells.columns else from_cells(frame[name], cells.separator or LIST)
    return pd.Series(found, index=frame.index, dtype=object)


def without(cells: pd.Series, is_blank: Callable[[str], bool]) -> pd.Series:
    """Sets without the values that mean a blank; None where there was nothing else."""
    kept = [cell and ([value for value in cell if not is_blank(value)] or None) for cell in cells]
    return pd.Series(kept, index=cells.index, dtype=object)


def says_only(cell: Sequence[str] | None, means_it: Callable[[str], bool]) -> bool:
    """Whether a set has values, and all of them mean the same."""
    return bool(cell) and all(map(means_it, cell or ()))


def _from_columns(frame: pd.DataFrame, columns: Mapping[str, str]) -> list[list[str] | None]:
    """The values of each row; None where all of its cells are blank. A blank beside an answer is a no."""
    rows = zip(*(frame[column] for column in columns), strict=True)
    return [
        None
        if all(cell is None for cell in row)
        else [value for value, cell in zip(columns.values(), row, strict=True) if cell and cell.casefold() in YES]
        for row in rows
    ]


def from_cells(cells: Iterable[str | None], separator: str) -> list[list[str] | None]:
    """The values of each cell; None where it is blank. An empty list is a set without values."""
    return [None if cell is None else parts(cell, separator) for cell in cells]
