"""Tables of text: cells changed one by one, safe CSV, Markdown, and columns on a terminal."""

import math
import re
from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from fmtl.errors import EnvironmentFault, UsageError

_SHEET_ROWS = 1_048_576  # that a workbook can have
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # what it can't hold


def map_cells(frame: pd.DataFrame, change: Callable[[str], str | None]) -> pd.DataFrame:
    """Apply ``change`` to every cell but None. Columns stay objects: pandas' text type would turn None into nan."""
    changed = cache(change)  # the cells of a label column are few, again and again
    columns = {c: [None if cell is None else changed(cell) for cell in frame[c]] for c in frame}
    return pd.DataFrame(columns, index=frame.index, dtype=object)


def to_csv(table: pd.DataFrame, *, sep: str = ",") -> str:
    """CSV without the index. Text that a spreadsheet would run as a formula gets a leading apostrophe
    (OWASP ASVS 1.2.10); numbers stay numbers."""

    def safe(cell: object) -> object:
        return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell

    text = table.select_dtypes(exclude=["number", "bool"]).columns
    return table.assign(**{name: table[name].map(safe) for name in text}).to_csv(index=False, sep=sep)


def require_workbooks() -> None:
    """Raise EnvironmentFault where workbooks can't be written."""
    if find_spec("openpyxl") is None:
        raise EnvironmentFault("workbooks need openpyxl: pip install 'fmtl[xlsx]', or choose .csv")


def to_workbook(path: Path, sheet: str, chunks: Iterable[pd.DataFrame]) -> None:
    """One sheet of rows, some at a time. Text stays text, whatever it begins with.

    Raises:
        EnvironmentFault, UsageError: openpyxl is not installed; there are more rows than a sheet can have.
    """
    require_workbooks()
    import openpyxl  # an extra

    book = openpyxl.Workbook(write_only=True)
    page = book.create_sheet(sheet)
    num = 1
    for chunk in chunks:
        if num == 1:
            page.append([_cell(page, name) for name in chunk.columns])
        for row in chunk.astype(object).where(chunk.notna(), None).itertuples(index=False, name=None):
            page.append([_cell(page, value) for value in row])
        num += len(chunk)
        if num > _SHEET_ROWS:
            raise UsageError(f"{path.name}: more rows than a workbook can have; choose .csv or .parquet")
    book.save(path)


def for_workbook(text: str) -> str:
    """Text without the characters that a workbook can't hold."""
    return _UNPRINTABLE.sub("?", text)


def _cell(page: Any, value: object) -> object:
    """A workbook would take '=1+1' for a formula."""
    if not isinstance(value, str):
        return value
    from openpyxl.cell import WriteOnlyCell

    cell = WriteOnlyCell(page, value=for_workbook(value))
    cell.data_type = "s"
    return cell


def number_text(value: float, digits: int = 4) -> str:
    """A score as people read it; ``n/a`` where nothing was measured."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "n/a"


def to_text(table: pd.DataFrame) -> str:
    """Left-aligned columns, two spaces apart."""
    cells = [[str(c) for c in table.columns], *[[str(c) for c in row] for row in table.to_numpy()]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)
