"""Where labellers of the same photos stand: their scores, and whether the lead of the first is real. B resamples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fmtl.evaluation.answers import METRICS, Codes, Photos, all_right, known
from fmtl.evaluation.statistics import Lead, Resamples, Scorer, holm, lead
from fmtl.tasks import AVERAGE

EXACT = "exact"  # the share of photos of which all attributes are right
LEVEL = 0.05  # a difference is called real below it, Holm's correction made


@dataclass(frozen=True)
class Labeller:
    """Who is compared.

    Attributes:
        trainings: What was said of the photos, by each training of a recipe; one of any other labeller.
    """

    name: str
    trainings: Sequence[Codes]


@dataclass(frozen=True)
class Score:
    """Mean over trainings, and their standard deviation (of a sample); nan of fewer than two."""

    mean: float
    deviation: float = math.nan


@dataclass(frozen=True)
class Standing:
    """Where one labeller stands.

    Attributes:
        scores: By name of a task or ``avg`` and ``accuracy`` or ``f1``; ``("avg", "exact")`` besides.
        interval: Bounds of the compared score, by resamples of the photos.
        lead: Over the labeller that the others are held against; None of that one itself.
        p: That of the lead, corrected for all that are compared at once.
    """

    name: str
    scores: Mapping[tuple[str, str], Score]
    interval: tuple[float, float]
    lead: Lead | None = None
    p: float = math.nan

    @property
    def is_tied(self) -> bool:
        """Whether it can't be told from the labeller that it is held against."""
        return self.lead is not None and not self.p < LEVEL


@dataclass(frozen=True)
class Other:
    """A labeller that is no run: somebody else's answers, or what can be said without a look.

    Attributes:
        coverage: Mean over attributes of the share of photos that it answered.
        costs: Price and seconds for 1,000 photos, as far as they are told.
    """

    standing: Standing
    answers: Codes = field(repr=False)
    coverage: float = 1.0
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Compared:
    """What the logged predictions say of some rows of a leaderboard.

    Attributes:
        metric: ``f1`` or ``accuracy``.
        first: Id of the run that the others are held against.
        standings: By id of a row's best run.
        answers: Of that run, likewise.
        notes: What could not be compared, and what was left out.
    """

    metric: str
    photos: Photos
    first: str
    standings: Mapping[str, Standing]
    answers: Mapping[str, Codes] = field(repr=False)
    others: Sequence[Other]
    notes: Sequence[str]


@dataclass(frozen=True)
class _Scored:
    """``drawn``: the compared score in the split and in each resample, ``(trainings, 1 + B)``."""

    scores: dict[tuple[str, str], Score]
    drawn: np.ndarray = field(repr=False)


def stand(photos: Photos, labellers: Sequence[Labeller], *, metric: str) -> list[Standing]:
    """Where each stands, the others held against the first.

    Differences are paired: all are scored on the same resamples of groups of twins. Where several are compared at
    once, their p are corrected by Holm's method.

    Args:
        photos: With a known label of an attribute at least.
        metric: What is compared: the mean over attributes of ``f1`` or ``accuracy``.
    """
    resamples = Resamples(photos.groups)
    scorers = {name: Scorer(resamples, photos.targets[name]) for name in photos.tasks.attributes}
    scored = [_score(photos, labeller, scorers, metric) for labeller in labellers]
    leads = [lead(other.drawn, scored[0].drawn) for other in scored[1:]]
    corrected = holm([found.p for found in leads])
    held = [(None, math.nan), *zip(leads, map(float, corrected), strict=True)]
    return [
        Standing(labeller.name, found.scores, _interval(found.drawn), over_first, p)
        for labeller, found, (over_first, p) in zip(labellers, scored, held, strict=True)
    ]


def _score(photos: Photos, labeller: Labeller, scorers: Mapping[str, Scorer], metric: str) -> _Scored:
    by_name: dict[tuple[str, str], list[float]] = {}
    drawn = []
    for answers in labeller.trainings:
        of_tasks = []
        for name, scorer in scorers.items():
            pair = dict(zip(METRICS, scorer.scores(answers[name]), strict=True))
            for kind, values in pair.items():
                by_name.setdefault((name, kind), []).append(float(values[0]))
            if known(photos.targets[name]).any():
                of_tasks.append(pair)
        for kind in METRICS:
            mean = _mean([pair[kind] for pair in of_tasks])
            by_name.setdefault((AVERAGE, kind), []).append(float(mean[0]))
            if kind == metric:
                drawn.append(mean)
        rows, is_right = all_right(photos, answers)
        by_name.setdefault((AVERAGE, EXACT), []).append(float(is_right.mean()) if len(rows) else math.nan)
    return _Scored({name: over_trainings(values) for name, values in by_name.items()}, np.stack(drawn))


def _mean(of_tasks: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over the tasks that a resample has labels of."""
    scores = np.stack(of_tasks)
    seen = np.isfinite(scores)
    total, num = np.where(seen, scores, 0).sum(axis=0), seen.sum(axis=0)
    return np.divide(total, num, out=np.full(len(total), np.nan), where=num > 0)


def over_trainings(values: Sequence[float]) -> Score:
    """Of the same figure of several trainings."""
    if len(values) == 1:
        return Score(values[0])
    deviation = float(np.std(values, ddof=1))
    return Score(float(np.mean(values)), deviation)


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    means = drawn[:, 1:].mean(axis=0)
    means = means[np.isfinite(means)]
    low, high = np.percentile(means, [2.5, 97.5]) if len(means) else (math.nan, math.nan)
    return float(low), float(high)
