"""The leaderboard as one table, as Markdown, and for a terminal."""

import math
from collections.abc import Mapping

import pandas as pd

from fmtl import metric_names
from fmtl.evaluation.answers import METRICS
from fmtl.evaluation.ranking import DEVIATION, HEAD, Leaderboard
from fmtl.evaluation.standings import EXACT, LEVEL, Compared, Standing
from fmtl.evaluation.statistics import RESAMPLES
from fmtl.reports import markdown
from fmtl.storage import tables
from fmtl.tasks import AVERAGE

LEAD = ("lead", "lead/low", "lead/high", "lead/better", "lead/p", "tied")
EXACT_MATCH = metric_names.score("test", None, EXACT)
Comparisons = Mapping[str, Compared | str]  # by digest of a dataset: where labellers stand, or why nobody can say


def whole_table(board: Leaderboard, compared: Comparisons) -> pd.DataFrame:
    """Ranked rows with what the comparison says of them; after those of a dataset, labellers that are no runs."""
    parts = []
    for data, rows in board.groups:
        found = compared.get(data)
        parts.append(rows.assign(**_columns(rows, found)) if isinstance(found, Compared) else rows)
        if isinstance(found, Compared):
            parts.append(_others(found, data))
    table = pd.concat(parts, ignore_index=True) if parts else board.table
    order = [*board.table.columns, *table.columns.difference(board.table.columns, sort=False)]
    return table[order].astype({"rank": "Int64", "seeds": "Int64"})


def _columns(rows: pd.DataFrame, found: Compared) -> dict[str, list]:
    standings = [found.standings.get(run_id) for run_id in rows["run_id"]]
    exact = [s.scores[AVERAGE, EXACT] if s else None for s in standings]
    columns: dict[str, list] = {EXACT_MATCH: [e.mean if e else math.nan for e in exact]}
    if (rows["seeds"] > 1).any():
        columns[EXACT_MATCH + DEVIATION] = [e.deviation if e else math.nan for e in exact]
    for task in found.photos.tasks:
        if not task.applies_to:
            columns[metric_names.score("test", task, "accuracy")] = [
                s.scores[task.name, "accuracy"].mean if s else math.nan for s in standings
            ]
    leads = [_lead(s) for s in standings]
    return columns | {name: [lead.get(name) for lead in leads] for name in LEAD}


def _lead(standing: Standing | None) -> dict[str, object]:
    if standing is None or standing.lead is None:
        return {}
    lead = standing.lead
    values = (lead.difference.mean, lead.difference.low, lead.difference.high, lead.better, standing.p)
    return dict(zip(LEAD, (*values, standing.is_tied), strict=True))


def _others(found: Compared, data: str) -> pd.DataFrame:
    rows = []
    for other in found.others:
        scores = other.standing.scores
        row: dict[str, object] = {"run_id": "", "run_name": other.standing.name, "data": data}
        row |= {metric_names.score("test", None, m): scores[AVERAGE, m].mean for m in (*METRICS, EXACT)}
        for task in found.photos.tasks:
            if not task.applies_to:
                row |= {metric_names.score("test", task, m): scores[task.name, m].mean for m in METRICS}
        row |= {"coverage": other.coverage, **{f"cost/{kind}": value for kind, value in other.costs.items()}}
        rows.append(row | _lead(other.standing))
    return pd.DataFrame(rows)


def in_words(found: Compared) -> str:
    """What the columns on the lead mean, in one line."""
    num_groups, num_rows = len(set(found.photos.groups.tolist())), len(found.standings) + len(found.others)
    called = "macro-F1" if found.metric == "f1" else found.metric
    return (
        f"lead: difference of the mean test {called} to {found.standings[found.first].name} ({found.first[:8]}) on the "
        f"same {len(found.photos)} photos, with its "
        f"95 % interval over {RESAMPLES} resamples of their {num_groups} groups of twins and products; = marks rows "
        f"that can't be told from it (p of {num_rows - 1} comparisons corrected by Holm's method, {LEVEL:g})"
    )


def to_markdown(board: Leaderboard, compared: Comparisons) -> str:
    """The tables as Markdown."""
    parts = [f"# Leaderboard by {markdown.code(board.metric)}"]
    whole = whole_table(board, compared)
    for data, _ in board.groups:
        rows, found = whole[whole["data"] == data], compared.get(data)
        parts += [f"\n## Dataset {markdown.text(data[:8])}\n", markdown.table(_short_form(rows, board.metric))]
        if isinstance(found, Compared):
            parts += ["\n" + markdown.text(in_words(found)), *(f"\n- {markdown.text(note)}" for note in found.notes)]
        elif found:
            parts.append(f"\nNot compared: {markdown.text(found)}.")
    if not board.unranked.empty:
        parts += ["\n## Not ranked\n", markdown.table(board.unranked[["run_name", "run_id", "reason"]])]
    return "\n".join(parts) + "\n"


def _short_form(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The columns that a terminal has room for."""
    shown = [metric_names.score("test", None, name) for name in ("f1", "accuracy")]
    chosen = ["rank", "run_name", "backbone", "mode", "seeds", metric, *shown]
    short = pd.DataFrame({c: [_cell(row, c) for row in rows.to_dict("records")] for c in dict.fromkeys(chosen)})
    if EXACT_MATCH in rows:
        if "coverage" in rows and rows["coverage"].notna().any():
            short["coverage"] = [_share(row) for row in rows["coverage"]]
        short["exact"] = [_cell(row, EXACT_MATCH) for row in rows.to_dict("records")]
        short["lead"] = [lead_text(row) for row in rows.to_dict("records")]
    return short.assign(run_id=rows["run_id"].to_numpy())


def _cell(row: Mapping[str, object], column: str) -> str:
    """A figure with its deviation over seeds."""
    value = row.get(column)
    if column not in {*HEAD}:
        spread = row.get(column + DEVIATION, math.nan)
        more = f" ±{spread:.4f}" if isinstance(spread, float) and math.isfinite(spread) else ""
        return f"{tables.number_text(float(str(value)))}{more}" if isinstance(value, float) else "n/a"
    return "" if value is None or pd.isna(value) else str(value)


def _share(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.2f}"


def lead_text(row: Mapping[str, object]) -> str:
    lead, low, high, _, _, tied = (row.get(name) for name in LEAD)
    if not isinstance(lead, float) or math.isnan(lead):
        return ""
    return f"{'= ' if tied else ''}{lead:+.3f} ({low:+.3f} to {high:+.3f})"


def to_text(board: Leaderboard, compared: Comparisons, *, top: int) -> str:
    """The tables for a terminal, ``top`` rows per dataset."""
    if board.table.empty and board.unranked.empty:
        return "no train runs found"
    parts = []
    whole = whole_table(board, compared)
    for data, ranked in board.groups:
        rows, found = whole[whole["data"] == data], compared.get(data)
        is_shown = rows["rank"].isna() | (rows["rank"] <= top)
        more = f"\n... and {len(ranked) - top} more" if len(ranked) > top else ""
        shown = tables.to_text(_short_form(rows[is_shown], board.metric))
        parts.append(f"dataset {data[:8]}, ranked by {board.metric}\n{shown}{more}")
        if isinstance(found, Compared):
            parts += [in_words(found), *(f"note: {note}" for note in found.notes)]
        elif found:
            parts.append(f"not compared: {found}")
    for row in board.unranked.head(top).itertuples():
        parts.append(f"not ranked: {row.run_name} {row.run_id}: {row.reason}")
    if len(board.unranked) > top:
        parts.append(f"... and {len(board.unranked) - top} more not ranked")
    return "\n".join(parts)
