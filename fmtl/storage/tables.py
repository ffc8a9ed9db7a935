"""Tables of text: cells changed one by one, safe CSV, Markdown, and columns on a terminal."""

import math
from collections.abc import Callable, Iterable
from functools import cache

import pandas as pd


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


def number_text(value: float, digits: int = 4) -> str:
    """A score as people read it; ``n/a`` where nothing was measured."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "n/a"


def to_markdown(table: pd.DataFrame) -> str:
    def line(cells: Iterable[object]) -> str:
        return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    return "\n".join([line(table.columns), line(["---"] * len(table.columns)), *map(line, table.to_numpy())])


def to_text(table: pd.DataFrame) -> str:
    """Left-aligned columns, two spaces apart."""
    cells = [[str(c) for c in table.columns], *[[str(c) for c in row] for row in table.to_numpy()]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)
