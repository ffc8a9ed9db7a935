"""The leaderboard's files: one page, and its twins as Markdown and CSV."""

from pathlib import Path

from fmtl.evaluation.ranking import Leaderboard
from fmtl.reports import plots
from fmtl.reports.leaderboard.page import Pictures, page
from fmtl.reports.leaderboard.texts import Comparisons, to_markdown, to_text, whole_table
from fmtl.storage import durable, tables

__all__ = ["Comparisons", "Pictures", "to_markdown", "to_text", "write"]

MAX_BARS = 20


def write(folder: Path, board: Leaderboard, compared: Comparisons, pictures: Pictures) -> None:
    """Write them, and a picture of each ranking."""
    durable.write_text(folder / "leaderboard.csv", tables.to_csv(whole_table(board, compared)))
    durable.write_text(folder / "leaderboard.md", to_markdown(board, compared))
    durable.write_text(folder / "leaderboard.html", page(board, compared, pictures))
    for data, rows in board.groups:
        best = rows.head(MAX_BARS)
        figure = plots.ranking(
            best["run_name"].tolist(), best[board.metric].tolist(), title=f"Dataset {data[:8]}", unit=board.metric
        )
        plots.save(folder / "plots" / f"ranking-{data[:8]}.png", figure)
