"""Runs to a ranked table, one ranking per dataset."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from fmtl import metric_names

LARGEST_REAL_METRIC = 1e300  # MLflow stores infinity as 1.797e308
AVERAGES = (*metric_names.averages("test"), metric_names.CHOSEN_BY)


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
    sign = 1 if metric_names.is_loss(metric) else -1
    ranked.sort(key=lambda e: (-newest[e.data], e.data, sign * e.metrics[metric], e.end_ms, e.run_id))
    task_columns = metric_names.test_f1s(name for e in ranked for name in e.metrics)
    columns = list(dict.fromkeys([metric, *AVERAGES, *task_columns]))
    rows, position = [], dict[str, int]()
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
