"""The leaderboard as a page, as Markdown, and for a terminal."""

import pandas as pd

from fmtl import metric_names
from fmtl.evaluation.ranking import AVERAGES, Leaderboard
from fmtl.reports import html, markdown
from fmtl.storage import tables


def leaderboard_page(board: Leaderboard) -> str:
    """The whole leaderboard, every metric of every ranked run."""
    columns = [c for c in board.table.columns if "/" in c]
    groups = [
        {
            "data": data,
            "rows": [
                {**row, "scores": {c: tables.number_text(row[c]) for c in columns}} for row in rows.to_dict("records")
            ],
        }
        for data, rows in board.groups
    ]
    return html.render(
        "leaderboard.html",
        metric=board.metric,
        columns=columns,
        groups=groups,
        unranked=board.unranked.to_dict("records"),
    )


def to_markdown(board: Leaderboard) -> str:
    """The tables as Markdown."""
    parts = [f"# Leaderboard by {markdown.code(board.metric)}"]
    for data, rows in board.groups:
        parts += [f"\n## Dataset {markdown.text(data[:8])}\n", markdown.table(_short_form(rows, board.metric))]
    if not board.unranked.empty:
        parts += ["\n## Not ranked\n", markdown.table(board.unranked[["run_name", "run_id", "reason"]])]
    return "\n".join(parts) + "\n"


def _short_form(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The columns that a terminal has room for."""
    shown = [metric_names.score("test", None, name) for name in ("f1", "accuracy")]
    chosen = ["rank", "run_name", "backbone", "mode", metric, *shown, "run_id"]
    short = rows[list(dict.fromkeys(chosen))].copy()
    for column in short.columns.intersection([metric, *AVERAGES]):
        short[column] = [tables.number_text(value) for value in short[column]]
    return short


def to_text(board: Leaderboard, *, top: int) -> str:
    """The tables for a terminal, ``top`` rows per dataset."""
    if board.table.empty and board.unranked.empty:
        return "no train runs found"
    parts = []
    for data, rows in board.groups:
        shown = _short_form(rows, board.metric).head(top)
        more = f"\n... and {len(rows) - top} more" if len(rows) > top else ""
        parts.append(f"dataset {data[:8]}, ranked by {board.metric}\n{tables.to_text(shown)}{more}")
    for row in board.unranked.head(top).itertuples():
        parts.append(f"not ranked: {row.run_name} {row.run_id}: {row.reason}")
    if len(board.unranked) > top:
        parts.append(f"... and {len(board.unranked) - top} more not ranked")
    return "\n".join(parts)
