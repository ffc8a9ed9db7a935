"""Runs and other labellers on the same test photos: where each stands."""

from collections.abc import Mapping

import pandas as pd

from fmtl.commands.choosing import external
from fmtl.commands.choosing.tested import dataset_of, tested
from fmtl.evaluation import baselines
from fmtl.evaluation.answers import PHOTO, Codes, Photos, known, said
from fmtl.evaluation.standings import Compared, Labeller, Other, stand
from fmtl.tasks import Tasks
from fmtl.tracking.store import RunRecord

MOST_ROWS = 100  # of a leaderboard whose lead is looked into


def compare_rows(
    rows: pd.DataFrame, runs: Mapping[str, RunRecord], *, metric: str, files: Mapping[str, str]
) -> Compared | str:
    """Where the first rows of a ranking stand, on the test photos of the first; or why nobody can say.

    Args:
        rows: Of one dataset, in rank order.
        runs: By id.
        files: Of other labellers, by name.

    Raises:
        DataError: A file can't be read or is of other photos.
    """
    notes: list[str] = []
    photos, labellers, answers = _of_runs(rows.head(MOST_ROWS), runs, notes)
    if photos is None:
        return notes[0] if notes else "no run is ranked"
    if not any(known(photos.targets[name]).any() for name in photos.tasks.attributes):
        return "no test photo has a label"
    if len(rows) > MOST_ROWS:
        notes.append(f"the lead over rank {MOST_ROWS + 1} and below was not looked into")
    first = next(iter(labellers))
    brought = [external.read(name, place, photos) for name, place in files.items()]
    notes += [note for found in brought for note in found.notes]
    without = _without_a_look(runs[first], photos, notes)
    everyone = [*labellers.values(), *(Labeller(b.name, [b.answers]) for b in brought)]
    everyone += [Labeller(name, [codes]) for name, codes in without.items()]
    standings = stand(photos, everyone, metric=metric)
    of_runs = dict(zip(labellers, standings, strict=False))
    beyond = standings[len(labellers) :]
    others = [
        Other(standing, b.answers, _mean(b.coverage, photos), b.costs)
        for standing, b in zip(beyond, brought, strict=False)
    ]
    others += [Other(s, without[s.name]) for s in beyond[len(brought) :]]
    return Compared(metric, photos, first, of_runs, answers, others, notes)


def _of_runs(
    rows: pd.DataFrame, runs: Mapping[str, RunRecord], notes: list[str]
) -> tuple[Photos | None, dict[str, Labeller], dict[str, Codes]]:
    photos: Photos | None = None
    first: tuple[pd.DataFrame, Tasks] | None = None
    labellers: dict[str, Labeller] = {}
    best: dict[str, Codes] = {}
    for row in rows.itertuples():
        trainings: dict[str, Codes] = {}
        for run_id in row.run_ids.split(","):
            found = tested(runs[run_id])
            if isinstance(found, str):
                notes.append(f"{row.run_name} {run_id[:8]}: not compared: {found}")
                continue
            if first is None or photos is None:
                first, photos = found, Photos.of(*found)
            if _have_equal_labels(found, first) or Photos.of(*found).are_those_of(photos):
                trainings[run_id] = said(*found)
            else:
                notes.append(f"{row.run_name} {run_id[:8]}: not compared: its test photos or labels are not the same")
        if trainings:
            labellers[row.run_id] = Labeller(row.run_name, list(trainings.values()))
            best[row.run_id] = next(iter(trainings.values()))
    return photos, labellers, best


def _have_equal_labels(found: tuple[pd.DataFrame, Tasks], first: tuple[pd.DataFrame, Tasks]) -> bool:
    """Whether two tables have the same cells where they say which photos they are of and what is known of them; false
    also where they may have, in other words."""
    (table, tasks), (other, others) = found, first
    columns = [*PHOTO, *(f"{task.slug}/target" for task in tasks)]
    return tasks == others and table[columns].equals(other[columns])


def _without_a_look(run: RunRecord, photos: Photos, notes: list[str]) -> dict[str, Codes]:
    """What can be said of the test photos from the table alone."""
    dataset = dataset_of(run)
    if isinstance(dataset, str):
        notes.append(f"{baselines.MOST_FREQUENT}, {baselines.LOOK_UP}: {dataset}")
        return {}
    rows = dataset.table.iloc[dataset.rows("test")]
    if rows["path"].tolist() != photos.rows["path"].tolist() or dataset.tasks != photos.tasks:
        notes.append(f"{baselines.MOST_FREQUENT}, {baselines.LOOK_UP}: the dataset's test photos are not the same")
        return {}
    return dict(baselines.answers(dataset))


def _mean(coverage: Mapping[str, float], photos: Photos) -> float:
    known = [coverage[name] for name in photos.tasks.attributes if coverage[name] == coverage[name]]
    return sum(known) / len(known)
