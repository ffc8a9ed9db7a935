"""What a leaderboard shows besides numbers: how runs learnt, and the photos on which they differ."""

import io
from collections.abc import Mapping

import pandas as pd

from fmtl.commands.choosing.tested import dataset_of
from fmtl.errors import DataError
from fmtl.evaluation.ranking import Leaderboard
from fmtl.evaluation.standings import Compared
from fmtl.metric_names import EPOCH, score
from fmtl.reports import html
from fmtl.reports.leaderboard import Comparisons, Pictures
from fmtl.reports.leaderboard.page import photos_to_show
from fmtl.tracking import store
from fmtl.tracking.store import RunRecord

MOST_CURVES = 12
PHOTO_PX = 132
HISTORY = "plots/history.csv"  # of a run
SHOWN = score("val", None, "f1")

Curve = tuple[str, list[float], list[float]]


def of_board(board: Leaderboard, compared: Comparisons, runs: Mapping[str, RunRecord]) -> Pictures:
    """
    Args:
        runs: By id.
    """
    curves, photos = {}, {}
    for data, rows in board.groups:
        found = (_curve(n, runs[run_id]) for n, run_id in enumerate(rows["run_id"].head(MOST_CURVES), 1))
        curves[data] = [curve for curve in found if curve is not None]
        comparison = compared.get(data)
        if isinstance(comparison, Compared):
            photos[data] = _photos(comparison, runs)
    return Pictures(curves, photos)


def _curve(number: int, run: RunRecord) -> Curve | None:
    """
    Args:
        number: Of its row.
    """
    path = store.artifact(run, HISTORY)
    if path is None:
        return None
    try:
        table = pd.read_csv(io.BytesIO(path.read_bytes()))
        return f"{number} {run.name}", table[EPOCH].astype(float).tolist(), table[SHOWN].astype(float).tolist()
    except (KeyError, ValueError):  # of another version, or damaged: a line less
        return None


def _photos(found: Compared, runs: Mapping[str, RunRecord]) -> dict[int, str]:
    """Those that the page shows, by row of the test photos, where their dataset is still there."""
    dataset = dataset_of(runs[found.first])
    if isinstance(dataset, str):
        return {}
    rows, chosen = dataset.rows("test"), photos_to_show(found)
    if dataset.table["path"].iloc[rows].tolist() != found.photos.rows["path"].tolist():
        return {}
    try:
        pixels = dataset.pixels(rows[chosen]) if chosen else ()
    except DataError:
        return {}
    return {n: html.photo(image, PHOTO_PX) for n, image in zip(chosen, pixels, strict=True)}
