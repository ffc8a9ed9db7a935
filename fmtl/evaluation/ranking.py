"""Runs to a ranked table, one ranking per dataset."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from fmtl import metric_names
from fmtl.evaluation.standings import over_trainings

LARGEST_REAL_METRIC = 1e300  # MLflow stores infinity as 1.797e308
AVERAGES = (*metric_names.averages("test"), metric_names.CHOSEN_BY)
HEAD = ("rank", "run_id", "run_name", "backbone", "mode", "data", "seeds", "run_ids")
DEVIATION = "/sd"  # after the name of a metric: its standard deviation over seeds


@dataclass(frozen=True)
class Entry:
    """One train run as the leaderboard needs it.

    Attributes:
        data: Digest of the dataset.
        unranked: Why it can't be ranked whatever its metrics, or None.
        end_ms: When it ended, milliseconds since 1970.
        recipe: What it has in common with runs that differ in their seed alone; empty if nobody can say.
    """

    run_id: str
    run_name: str
    backbone: str
    mode: str
    data: str
    metrics: Mapping[str, float]
    end_ms: int
    unranked: str | None = None
    recipe: Mapping[str, str] = field(default_factory=dict)
    seed: str = ""


@dataclass(frozen=True)
class Leaderboard:
    """Ranked groups, the group of the newest run first, and the runs left out with the reason.

    Attributes:
        table: A row per recipe: columns rank, run_id (of its best run), run_name, backbone, mode, data, seeds (how many
            runs it has), run_ids, then metrics, means over its runs.
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

    Runs that differ in their seed alone are one row, ranked by their mean. Ranks restart for each dataset, since scores
    on different photos can't be compared. Ties go to the run that ended first, then to the smaller run id.
    """
    reasons = {e.run_id: e.unranked or _why_not_finite(e.metrics.get(metric), metric) for e in entries}
    ranked = [e for e in entries if reasons[e.run_id] is None]
    newest = {data: max(e.end_ms for e in ranked if e.data == data) for data in {e.data for e in ranked}}
    sign = 1 if metric_names.is_loss(metric) else -1
    ranked.sort(key=lambda e: (sign * e.metrics[metric], e.end_ms, e.run_id))
    place = {e.run_id: n for n, e in enumerate(ranked)}
    in_time = sorted(ranked, key=lambda e: (e.end_ms, e.run_id))
    recipes = [sorted(runs, key=lambda e: place[e.run_id]) for runs in _recipes(in_time)]
    means = [(over_trainings([e.metrics[metric] for e in runs]).mean, runs) for runs in recipes]
    means.sort(key=lambda row: (-newest[row[1][0].data], row[1][0].data, sign * row[0], *_since(row[1])))
    there = {name for e in ranked for name in e.metrics}
    costs = [name for name in metric_names.COSTS if name in there]
    columns = list(dict.fromkeys([metric, *AVERAGES, *metric_names.test_f1s(there), *costs]))
    rows: list[dict[str, Any]] = []
    position = Counter[str]()
    for _, runs in means:
        position[runs[0].data] += 1
        rows.append({"rank": position[runs[0].data], **_identity(runs[0]), **_of_recipe(runs, columns)})
    spreads = [c + DEVIATION for c in columns if any(not math.isnan(row[c + DEVIATION]) for row in rows)]
    left_out = [{**_identity(e), "reason": reasons[e.run_id]} for e in entries if reasons[e.run_id]]
    return Leaderboard(
        table=pd.DataFrame(rows, columns=[*HEAD, *columns, *spreads]),
        unranked=pd.DataFrame(left_out, columns=[*HEAD[1:6], "reason"]),
        metric=metric,
    )


def _recipes(ranked: Iterable[Entry]) -> list[list[Entry]]:
    """Runs by recipe. Of two with one seed each stands by itself: they are no two draws.

    Args:
        ranked: In the order of time, so that nothing is chosen by its score.
    """
    found: dict[object, list[Entry]] = {}
    seen = Counter[object]()
    for e in ranked:
        recipe = (e.data, tuple(sorted(e.recipe.items()))) if e.recipe else e.run_id
        again = seen[recipe, e.seed]
        seen[recipe, e.seed] += 1
        found.setdefault((recipe, again), []).append(e)
    return list(found.values())


def _since(runs: Sequence[Entry]) -> tuple[int, str]:
    return min(e.end_ms for e in runs), runs[0].run_id


def _of_recipe(runs: Sequence[Entry], columns: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"seeds": len(runs), "run_ids": ",".join(e.run_id for e in runs)}
    for c in columns:
        score = over_trainings([e.metrics.get(c, math.nan) for e in runs])
        found |= {c: score.mean, c + DEVIATION: score.deviation}
    return found


def _identity(e: Entry) -> dict[str, str]:
    return {"run_id": e.run_id, "run_name": e.run_name, "backbone": e.backbone, "mode": e.mode, "data": e.data}


def _why_not_finite(value: float | None, metric: str) -> str | None:
    if value is None:
        return f"has no metric '{metric}'"
    if not math.isfinite(value) or abs(value) > LARGEST_REAL_METRIC:
        return f"'{metric}' is not a finite number"
    return None
