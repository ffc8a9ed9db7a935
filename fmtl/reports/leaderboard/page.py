"""``leaderboard.html``: what a decision between models needs, in one file that loads nothing. N photos, K classes.

All of it is there without a script, for the first two labellers; the script sorts, and shows other two.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from fmtl import metric_names
from fmtl.errors import neutral
from fmtl.evaluation.answers import METRICS, Codes, Photos, right
from fmtl.evaluation.ranking import DEVIATION, HEAD, Leaderboard
from fmtl.evaluation.standings import Compared, Standing
from fmtl.reports import html
from fmtl.reports.leaderboard import charts
from fmtl.reports.leaderboard.charts import Point
from fmtl.reports.leaderboard.texts import EXACT_MATCH, Comparisons, in_words, lead_text, whole_table
from fmtl.storage import tables
from fmtl.tasks import AVERAGE, Task

MOST_PICKED = 12  # labellers that two can be chosen from
MOST_ANSWERS = 400_000  # that the page carries for them
MOST_CLASSES = 60  # in a confusion matrix: those with the most photos
MOST_PHOTOS = 60
MOST_SHOWN = 24  # of them, of one pair
SECONDS = "seconds"


@dataclass(frozen=True)
class Pictures:
    """What the page shows besides numbers, by digest of the dataset.

    Attributes:
        curves: Name of a run, epochs, and the mean macro-F1 on validation after each.
        photos: Data URI by row of the test photos.
    """

    curves: Mapping[str, Sequence[tuple[str, Sequence[float], Sequence[float]]]] = field(default_factory=dict)
    photos: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


def page(board: Leaderboard, compared: Comparisons, pictures: Pictures) -> str:
    whole = whole_table(board, compared)
    groups = []
    for number, (data, ranked) in enumerate(board.groups):
        found, rows = compared.get(data), whole[whole["data"] == data]
        group: dict[str, Any] = {"number": number, "data": data, "num_runs": int(ranked["seeds"].sum())}
        group |= _table(rows, board.metric, found)
        curves, unit = pictures.curves.get(data, ()), "macro-F1 on validation, mean over attributes"
        group["curves"] = charts.lines(curves, x_label="epoch", y_label=unit)
        group["curve_names"] = [name for name, _, _ in curves]
        if isinstance(found, Compared):
            photos = pictures.photos.get(data, {})
            group |= {"words": in_words(found), "notes": found.notes, "heat": _heat(found, rows)}
            group |= {"costs": _costs(found, rows), "pair": _pair(found, photos)}
        elif found:
            group |= {"notes": [f"not compared: {found}"]}
        groups.append(group)
    return html.render(
        "leaderboard.html",
        metric=board.metric,
        groups=groups,
        unranked=board.unranked.to_dict("records"),
        colours=charts.COLOURS,
    )


# -- the table --------------------------------------------------------------------------------------------------------


def _table(rows: pd.DataFrame, metric: str, found: Compared | str | None) -> dict[str, Any]:
    first = [metric, *(metric_names.score("test", None, name) for name in METRICS), EXACT_MATCH]
    rest = [
        c
        for c in rows
        if ("/" in c or c == "coverage") and c not in HEAD and not c.endswith(DEVIATION) and not c.startswith("lead/")
    ]
    columns = [c for c in dict.fromkeys([*first, *rest]) if c in rows and rows[c].notna().any()]
    leads = rows.reindex(columns=["lead/low", "lead/high"]).to_numpy(float)
    bounds = (float(np.nanmin(leads)), float(np.nanmax(leads))) if np.isfinite(leads).any() else (-1.0, 0.0)
    firsts = {found.first} if isinstance(found, Compared) else set()
    shown = []
    for n, row in enumerate(rows.to_dict("records"), 1):
        has_lead = isinstance(row.get("lead"), float) and math.isfinite(row["lead"])
        shown.append(
            {
                **row,
                "number": n,
                "rank": "" if pd.isna(row["rank"]) else int(row["rank"]),
                "seeds": "" if pd.isna(row["seeds"]) else int(row["seeds"]),
                **{name: row[name] if isinstance(row[name], str) else "" for name in ("backbone", "mode", "run_id")},
                "scores": [_figure(row, c) for c in columns],
                "lead_text": lead_text(row),
                "lead_value": row["lead"] if has_lead else 0.0 if row["run_id"] in firsts else "",
                "is_first": row["run_id"] in firsts if firsts else n == 1,
                "interval": charts.interval(row["lead/low"], row["lead"], row["lead/high"], bounds) if has_lead else "",
            }
        )
    return {"rows": shown, "columns": columns, "has_leads": isinstance(found, Compared)}


def _figure(row: Mapping[str, Any], column: str) -> dict[str, Any]:
    value, spread = row[column], row.get(column + DEVIATION, math.nan)
    digits = {"cost/parameters": 0, "cost/mb": 1, "cost/minutes": 1, "cost/images_per_second": 0}.get(column, 4)
    is_number = isinstance(value, float) and math.isfinite(value)
    text = (f"{value:,.{digits}f}" if column.startswith("cost/") else tables.number_text(value)) if is_number else ""
    spread_text = f"±{spread:.{digits}f}" if isinstance(spread, float) and math.isfinite(spread) else ""
    return {"text": text, "spread": spread_text, "value": value if is_number else ""}


# -- pictures of all --------------------------------------------------------------------------------------------------


def _heat(found: Compared, rows: pd.DataFrame) -> dict[str, Any]:
    """Macro-F1 of each labeller and attribute, shaded from the lowest to the highest of the attribute."""
    names = found.photos.tasks.attributes
    everyone = {**found.standings, **{other.standing.name: other.standing for other in found.others}}
    values = np.array([[s.scores[name, "f1"].mean for name in names] for s in everyone.values()])
    seen = np.isfinite(values).any(axis=0)
    low, high = np.zeros(len(names)), np.ones(len(names))
    low[seen], high[seen] = np.nanmin(values[:, seen], axis=0), np.nanmax(values[:, seen], axis=0)
    shades = (values - low) / np.where(high > low, high - low, 1)
    cells = [
        [
            {"text": tables.number_text(v, 3), "shade": f"{0.08 + 0.5 * s:.2f}" if math.isfinite(s) else "0"}
            for v, s in zip(of_row, of_shades, strict=True)
        ]
        for of_row, of_shades in zip(values.tolist(), shades.tolist(), strict=True)
    ]
    numbers = _numbers(rows)
    named = [(numbers[key], standing.name) for key, standing in everyone.items()]
    return {"names": names, "rows": [(*who, row) for who, row in zip(named, cells, strict=True)]}


def _costs(found: Compared, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Accuracy against the time to label, and against the time to train."""
    numbers = _numbers(rows)
    by_id = rows.set_index("run_id")
    labelling, training = [], []
    for run_id, standing in found.standings.items():
        row = by_id.loc[run_id]
        pace, minutes = (float(row.get(name, math.nan)) for name in ("cost/images_per_second", "cost/minutes"))
        labelling.append(_point(standing, found.metric, 1000 / pace if pace > 0 else math.nan, numbers[run_id]))
        training.append(_point(standing, found.metric, minutes, numbers[run_id]))
    for other in found.others:
        seconds = other.costs.get(SECONDS, math.nan)
        labelling.append(_point(other.standing, found.metric, seconds, numbers[other.standing.name]))
    label = f"test {'macro-F1' if found.metric == 'f1' else found.metric}, mean over attributes"
    made = [
        charts.scatter(labelling, x_label="seconds for 1,000 photos", y_label=label),
        charts.scatter(training, x_label="minutes of training", y_label=label),
    ]
    return [{"chart": chart} for chart in made if chart]


def _numbers(rows: pd.DataFrame) -> dict[str, int]:
    """What the table's first column calls a row, by id of its run or the name of a labeller that is none."""
    return {run_id or name: n for n, (run_id, name) in enumerate(zip(rows["run_id"], rows["run_name"], strict=True), 1)}


def _point(standing: Standing, metric: str, x: float, number: int) -> Point:
    return Point(standing.name, x, standing.scores[AVERAGE, metric].mean, *standing.interval, number=number)


# -- two of them ------------------------------------------------------------------------------------------------------


def _pair(found: Compared, pictures: Mapping[int, str]) -> dict[str, Any] | None:
    """The first two labellers beside each other, and what a script needs to show others."""
    picked = pickable(found)
    if len(picked) < 2:
        return None
    photos = found.photos
    names = [name for name, _ in picked]
    one, two = (codes for _, codes in picked[:2])
    tasks = [task for task in photos.tasks if not task.applies_to]
    most_different = max(tasks, key=lambda task: int((~right(one[task.name], two[task.name])).sum()))
    return {
        "names": names,
        "opened": most_different.name,
        "matrices": [
            _matrices(photos, task, one, two, names) | {"number": n} for n, task in enumerate(tasks) if not task.is_set
        ],
        "sets": [task.name for task in tasks if task.is_set],
        "photos": [
            {"src": src, "lines": lines, "path": str(photos.rows["path"].iloc[n])}
            for n, src in pictures.items()
            if (lines := _differences(photos, n, one, two))
        ][:MOST_SHOWN],
        "num_different": int(differ(photos, one, two).sum()),
        "num_photos": len(photos),
        "data": {
            "names": [neutral(name) for name in names],
            "photos": [[n, src, neutral(str(photos.rows["path"].iloc[n]))] for n, src in pictures.items()],
            "tasks": [_of_task(photos, task, [codes for _, codes in picked]) for task in tasks],
            "most": MOST_SHOWN,
        },
    }


def pickable(found: Compared) -> list[tuple[str, Codes]]:
    """Name and answers of the labellers that two can be chosen from: runs first, two of them at least."""
    runs = [(found.standings[run_id].name, codes) for run_id, codes in found.answers.items()]
    names = [name for name, _ in runs]
    runs = [
        (f"{name} {run_id[:6]}" if names.count(name) > 1 else name, codes)
        for (name, codes), run_id in zip(runs, found.answers, strict=True)
    ]
    others = [(other.standing.name, other.answers) for other in found.others]
    most = max(2, min(MOST_PICKED, MOST_ANSWERS // max(len(found.photos) * len(found.photos.tasks), 1)))
    return [*runs[: max(most - len(others), 2)], *others][:most]


def differ(photos: Photos, one: Codes, two: Codes) -> np.ndarray:
    """Photos of which two labellers say different things, ``(N,)`` bool."""
    found = np.zeros(len(photos), bool)
    for name in photos.tasks.attributes:
        found |= ~right(one[name], two[name])
    return found


def _matrices(photos: Photos, task: Task, one: Codes, two: Codes, names: Sequence[str]) -> dict[str, Any]:
    classes, kept = _kept(photos, task)
    counts = [_counts(photos.targets[task.name], codes[task.name], kept) for codes in (one, two)]
    drawn = [charts.matrix(c, classes, name) for c, name in zip(counts, names, strict=False)]
    drawn.append(charts.matrix(counts[1] - counts[0], classes, "second less first"))
    more = task.num_classes - len(kept)
    return {"name": task.name, "drawn": drawn, "more": more}


def _kept(photos: Photos, task: Task) -> tuple[list[str], np.ndarray]:
    """Classes that are drawn: those with the most test photos, in their order."""
    targets = photos.targets[task.name]
    support = np.bincount(targets[targets >= 0], minlength=task.num_classes)
    kept = np.sort(np.argsort(-support, kind="stable")[: min(int((support > 0).sum()), MOST_CLASSES)])
    return [task.classes[k] for k in kept], kept


def _counts(targets: np.ndarray, codes: np.ndarray, kept: np.ndarray) -> np.ndarray:
    place = {int(k): n for n, k in enumerate(kept)}
    counts = np.zeros((len(kept), len(kept)), np.int64)
    for target, code in zip(targets.tolist(), codes.tolist(), strict=True):
        if target in place and code in place:
            counts[place[target], place[code]] += 1
    return counts


def _differences(photos: Photos, n: int, one: Codes, two: Codes) -> list[dict[str, str]]:
    """Of one photo, what two labellers say where they differ, and what it is."""
    found = []
    for task in photos.tasks:
        if task.applies_to:
            continue
        first, second, target = (codes[task.name][n] for codes in (one, two, photos.targets))
        if not np.array_equal(first, second):
            said = [_text(task, value) for value in (first, second, target)]
            found.append({"task": task.name, "one": said[0], "two": said[1], "is": said[2]})
    return found


def _text(task: Task, code: np.ndarray | np.int64) -> str:
    values = np.atleast_1d(code).tolist()
    if min(values) < 0:
        return "?"
    label = task.label(values)
    return neutral(task.text(values)) if label else "(none)"


def _of_task(photos: Photos, task: Task, answers: Sequence[Codes]) -> dict[str, Any]:
    """A task's labels and answers as a script reads them: of a class its index, of a set the text of all."""
    columns = [photos.targets[task.name], *(codes[task.name] for codes in answers)]
    if not task.is_set:
        _, kept = _kept(photos, task)
        return {
            "name": neutral(task.name), "classes": [neutral(label) for label in task.classes], "kept": kept.tolist(),
            "targets": columns[0].tolist(), "answers": [c.tolist() for c in columns[1:]],
        }  # fmt: skip
    texts = [[_text(task, row) for row in column] for column in columns]
    labels = sorted({text for column in texts for text in column})
    index = {text: n for n, text in enumerate(labels)}
    coded = [[index[text] for text in column] for column in texts]
    return {"name": neutral(task.name), "classes": labels, "kept": None, "targets": coded[0], "answers": coded[1:]}


def photos_to_show(found: Compared) -> list[int]:
    """Rows of photos on which labellers differ, those first on which the first two do, then those of other pairs."""
    picked = pickable(found)
    if len(picked) < 2:
        return []
    first = differ(found.photos, picked[0][1], picked[1][1])
    others = np.sum([differ(found.photos, picked[0][1], codes) for _, codes in picked[1:]], axis=0)
    order = np.lexsort((np.arange(len(first)), -others, ~first))
    chosen = [int(n) for n in order[:MOST_SHOWN] if first[n]]
    by_pair = sorted(np.flatnonzero(others).tolist(), key=lambda n: -int(others[n]))
    return list(dict.fromkeys([*chosen, *by_pair]))[:MOST_PHOTOS]
