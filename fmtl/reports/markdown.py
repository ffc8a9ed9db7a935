"""Strangers' words in a note of MLflow's pages: shown as themselves, neither as HTML nor as Markdown."""

import html
import re
from collections.abc import Iterable

import pandas as pd

from fmtl.errors import neutral
from fmtl.reports.words import one_line, shortened


def text(words: str, most: int | None = None) -> str:
    """One line; shortened where it has more than ``most`` characters."""
    line = neutral(one_line(words))
    line = html.escape(line if most is None else shortened(line, most), quote=False)
    line = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", line)
    # MLflow's pages make links of bare addresses, and mentions of names.
    return re.sub(r"://|@|www\.", lambda found: found[0][:-1] + f"&#{ord(found[0][-1])};", line)


def code(words: str) -> str:
    """As code, between more backticks than it has in a row."""
    line = neutral(one_line(words))
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if len(fence) > 1 else f"`{line}`"


def table(rows: pd.DataFrame) -> str:
    def line(cells: Iterable[object]) -> str:
        return "| " + " | ".join(text(str(cell)) for cell in cells) + " |"

    return "\n".join([line(rows.columns), "|---" * len(rows.columns) + "|", *map(line, rows.to_numpy())])
