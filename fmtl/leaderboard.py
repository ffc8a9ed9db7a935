"""Runs to a ranked table, one ranking per dataset."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from fmtl import tables

LARGEST_REAL_METRIC = 1e300  # MLflow stores infinity as 1.797e308
AVERAGES = ("test/avg/accuracy", "test/avg/f1", "test/avg/precision", "test/avg/recall", "best/val/avg/f1")


@dataclass(frozen=True)
class Entry:
    """One train run as the leaderboard needs it.

    Attributes:
        data: Digest of the dataset.
        unranked: Why it can't be ranked whatever its metrics, or None.
        end_ms: When it ended, milliseconds since 1970.
    """

    run_id: str
    run_name: str
    backbone: str
    mode: str
    data: str
    metrics: Mapping[str, float]
    end_ms: int
    unranked: str | None = None


@dataclass(frozen=True)
class Leaderboard:
    """Ranked groups, the group of the newest run first, and the runs left out with the reason.

    Attributes:
        table: A row per ranked run; columns rank, run_id, run_name, backbone, mode, data, then metrics.
        unranked: A row per other run: run_id, run_name, backbone, mode, data, reason.
        metric: What it is ranked by.
    """

    table: pd.DataFrame
    unranked: pd.DataFrame
    metric: str

    @property
    def groups(self) -> list[tuple[str, pd.DataFrame]]:
        """(digest, its rows in rank order), the newest run's dataset first."""
        return [(str(data), rows) for data, rows in self.table.groupby("data", sort=False)]

    @property
    def best(self) -> pd.Series | None:
        """First of the newest run's group, or None where nothing is ranked."""
        return None if self.table.empty else self.table.iloc[0]


def rank(entries: Sequence[Entry], *, metric: str) -> Leaderboard:
    """Rank by a metric, highest first (a metric whose name ends in ``loss``: lowest first).

    Ranks restart for each dataset, since scores on different photos can't be compared. Ties go to the run
    that ended first, then to the smaller run id.
    """
    reasons = {e.run_id: e.unranked or _why_not_finite(e.metrics.get(metric), metric) for e in entries}
    ranked = [e for e in entries if reasons[e.run_id] is None]
    newest = {data: max(e.end_ms for e in ranked if e.data == data) for data in {e.data for e in ranked}}
    sign = 1 if metric.endswith("loss") else -1
    ranked.sort(key=lambda e: (-newest[e.data], e.data, sign * e.metrics[metric], e.end_ms, e.run_id))
    task_columns = sorted({k for e in ranked for k in e.metrics if k.startswith("test/") and k.endswith("/f1")})
    columns = list(dict.fromkeys([metric, *AVERAGES, *task_columns]))
    rows, position = [], {}
    for e in ranked:
        position[e.data] = position.get(e.data, 0) + 1
        scores = {c: e.metrics.get(c, math.nan) for c in columns}
        rows.append({"rank": position[e.data], **_identity(e), **scores})
    head = ["rank", "run_id", "run_name", "backbone", "mode", "data"]
    left_out = [{**_identity(e), "reason": reasons[e.run_id]} for e in entries if reasons[e.run_id]]
    return Leaderboard(
        table=pd.DataFrame(rows, columns=head + columns),
        unranked=pd.DataFrame(left_out, columns=[*head[1:], "reason"]),
        metric=metric,
    )


def _identity(e: Entry) -> dict[str, str]:
    return {"run_id": e.run_id, "run_name": e.run_name, "backbone": e.backbone, "mode": e.mode, "data": e.data}


def _why_not_finite(value: float | None, metric: str) -> str | None:
    if value is None:
        return f"has no metric '{metric}'"
    if not math.isfinite(value) or abs(value) > LARGEST_REAL_METRIC:
        return f"'{metric}' is not a finite number"
    return None


def to_markdown(board: Leaderboard) -> str:
    """The tables as Markdown."""
    parts = [f"# Leaderboard by `{board.metric}`"]
    for data, rows in board.groups:
        parts += [f"\n## Dataset {data[:8]}\n", tables.to_markdown(_short_form(rows, board.metric))]
    if not board.unranked.empty:
        parts += ["\n## Not ranked\n", tables.to_markdown(board.unranked[["run_name", "run_id", "reason"]])]
    return "\n".join(parts) + "\n"


def _short_form(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The columns that a terminal has room for."""
    chosen = ["rank", "run_name", "backbone", "mode", metric, "test/avg/f1", "test/avg/accuracy", "run_id"]
    short = rows[list(dict.fromkeys(chosen))].copy()
    for column in short.columns.intersection([metric, *AVERAGES]):
        short[column] = [score_text(value) for value in short[column]]
    return short


def score_text(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "n/a"


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
