"""How sure a difference is: over several splits of one dataset, or between labellers of the same photos.

N photos, G groups of them, B resamples, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.sparse import csr_array

from fmtl.tasks import IGNORE_INDEX

RESAMPLES = 2000
ENOUGH_OPPOSED = 0.005  # of the resamples: of fewer their number is chance
ENOUGH_SEEDS = 3  # of a recipe: from so many on their spread is told, too


@dataclass(frozen=True)
class Interval:
    """A mean, and the bounds between which the true one lies with the confidence that was asked for."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def over_splits(differences: Sequence[float], *, test_share: float, confidence: float = 0.95) -> Interval:
    """Of the mean of paired differences over random splits into training and test.

    Splits of one dataset share most of their training images, so that their results are more alike than independent
    ones: the variance of the mean is not s^2 / J but s^2 (1 / J + test / train), Nadeau & Bengio 2003,
    doi:10.1023/A:1024068626366, section 3; with Student's t of J - 1 degrees of freedom.

    Args:
        differences: One per split, J of them; 2 at least, finite.
        test_share: Test images over training images.

    Raises:
        ValueError: There are fewer than 2.
    """
    if len(differences) < 2:
        raise ValueError(f"expected the differences of 2 splits at least, got {len(differences)}")
    mean, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    error = spread * math.sqrt(1 / len(differences) + test_share)
    half = float(stats.t.ppf((1 + confidence) / 2, len(differences) - 1)) * error
    return Interval(mean, mean - half, mean + half)


class Resamples:
    """A test split drawn again and again, whole groups of photos with replacement (the cluster bootstrap: Field &
    Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x). What is scored on the same resamples can be compared in pairs.

    Args:
        groups: ``(N,)``; equal where photos are twins or show one product, and so are no independent evidence.
    """

    def __init__(self, groups: Sequence | np.ndarray, *, num: int = RESAMPLES, seed: int = 0):
        _, self._groups = np.unique(np.asarray(groups), return_inverse=True)
        size = int(self._groups.max()) + 1
        drawn = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=num)
        drawn = np.concatenate([np.ones((1, size)), drawn])  # the split itself comes first
        # How often each group is in the split and in each resample, (G, 1 + B); float32 is exact for counts.
        self._times = np.ascontiguousarray(drawn.T, np.float32)

    @property
    def num_groups(self) -> int:
        return len(self._times)

    def means(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Mean of some photos' values in the split and in each resample, ``(1 + B,)``; nan where none is drawn.

        Args:
            values: One for each of ``rows``.
            rows: Which photos they are.
        """
        nothing = np.zeros(len(rows), np.int64)
        (total,), (count,) = (self.sums(weights, rows, nothing, 1) for weights in (values, np.ones(len(rows))))
        return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)

    def scores(self, targets: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See ``Scorer``."""
        return Scorer(self, targets).scores(predicted)

    def sums(self, weights: np.ndarray, rows: np.ndarray, columns: np.ndarray, width: int) -> np.ndarray:
        """Sums by column in the split and in each resample, ``(width, 1 + B)``.

        Args:
            weights, rows, columns: Of each entry.
        """
        cells = columns, self._groups[rows]
        table = csr_array((weights.astype(np.float32), cells), shape=(width, self.num_groups))
        return table @ self._times


class Scorer:
    """What many labellers say of one task, scored on the same resamples.

    Args:
        targets: ``(N,)`` class indices, or of a set ``(N, K)`` zeros and ones; ``IGNORE_INDEX`` is left out.
    """

    def __init__(self, resamples: Resamples, targets: np.ndarray):
        known = targets != IGNORE_INDEX
        self._resamples, self._is_set = resamples, targets.ndim == 2
        self._rows = np.flatnonzero(known.any(axis=1) if self._is_set else known)
        self._targets = targets[self._rows]
        nothing = np.zeros(len(self._rows), np.int64)
        (self._count,) = resamples.sums(np.ones(len(self._rows)), self._rows, nothing, 1)
        size = targets.shape[1] if self._is_set else int(self._targets.max(initial=-1)) + 1
        self._wanted = self._cells(self._targets, np.ones(self._targets.shape, bool), size)

    def scores(self, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy and macro-F1 in the split and in each resample, ``(1 + B,)`` each; as ``training.metrics`` has them.

        Args:
            predicted: As the targets. An index that is no class, such as -1, is wrong.
        """
        predicted = predicted[self._rows]
        is_right = predicted == self._targets
        size = max(len(self._wanted), 0 if self._is_set else int(predicted.max(initial=-1)) + 1)
        hits = self._cells(predicted, is_right, size)
        both = self._cells(predicted, np.ones(predicted.shape, bool), size)
        both[: len(self._wanted)] += self._wanted
        if self._is_set:
            accuracy = self._resamples.means(is_right.all(axis=1).astype(float), self._rows)
        else:
            empty = np.full(len(self._count), np.nan)
            accuracy = np.divide(hits.sum(axis=0), self._count, out=empty, where=self._count > 0)
        is_seen = both > 0
        f1 = 2 * np.divide(hits, both, out=np.zeros(both.shape), where=is_seen).sum(axis=0)
        macro = np.full(len(accuracy), 1.0 if self._is_set else np.nan)
        np.divide(f1, is_seen.sum(axis=0), out=macro, where=is_seen.any(axis=0))
        return accuracy, np.where(np.isnan(accuracy), np.nan, macro)

    def _cells(self, codes: np.ndarray, is_meant: np.ndarray, size: int) -> np.ndarray:
        """How often each class, or value of a set, is named among what is meant, ``(size, 1 + B)``."""
        if self._is_set:
            at, columns = np.nonzero((codes == 1) & is_meant)
        else:
            at = np.flatnonzero((codes >= 0) & is_meant)
            columns = codes[at]
        return self._resamples.sums(np.ones(len(at)), self._rows[at], columns, size)


@dataclass(frozen=True)
class Lead:
    """How far a labeller is ahead of another.

    Attributes:
        difference: Of their scores on the split, with bounds.
        better: Probability to be ahead, over the resamples; where both are equal, half of it counts.
        p: That a difference at least so large is chance (two-sided).
    """

    difference: Interval
    better: float
    p: float


def lead(first: np.ndarray, second: np.ndarray, *, confidence: float = 0.95, seed: int = 0) -> Lead:
    """Of one labeller over another, from scores on the same resamples; bounds are percentiles.

    Where a recipe has ``ENOUGH_SEEDS`` trainings, their seeds are drawn again, too: what another training of the same
    recipe would give is part of the doubt.

    Args:
        first, second: ``(S, 1 + B)``, scores of each training of a recipe as ``Resamples`` has them.
    """
    rng = np.random.default_rng(seed)
    drawn = _over_seeds(first, rng) - _over_seeds(second, rng)
    found, drawn = float(np.mean(first[:, 0]) - np.mean(second[:, 0])), drawn[np.isfinite(drawn)]
    low, high = np.percentile(drawn, [50 * (1 - confidence), 50 * (1 + confidence)])
    below, above = int((drawn < 0).sum()), int((drawn > 0).sum())
    equal = len(drawn) - below - above
    return Lead(Interval(found, float(low), float(high)), (above + equal / 2) / len(drawn), _chance(drawn))


def _chance(drawn: np.ndarray) -> float:
    """p of differences over resamples: by counting those of the other sign; where these are few, by the tail of the
    normal distribution, since counting can't tell a millionth from a two-thousandth."""
    opposed = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    counted = min(1.0, 2 * (opposed + 1) / (len(drawn) + 1))
    spread = float(drawn.std())
    if opposed >= ENOUGH_OPPOSED * len(drawn) or not spread:
        return counted
    return min(counted, float(2 * stats.norm.sf(abs(drawn.mean()) / spread)))


def _over_seeds(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mean over trainings in each resample, ``(B,)``."""
    num, drawn = scores.shape[0], scores[:, 1:]
    if num < ENOUGH_SEEDS:
        return drawn.mean(axis=0)
    mean = drawn.mean(axis=0)
    chosen = rng.integers(0, num, size=drawn.shape)
    drawn_again = np.take_along_axis(drawn - mean, chosen, axis=0).mean(axis=0)
    # A bootstrap of few values is too narrow: by (S - 1) / S in its variance, and by Student's t beside the normal.
    few = math.sqrt(num / (num - 1)) * stats.t.ppf(0.975, num - 1) / stats.norm.ppf(0.975)
    return mean + few * drawn_again


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Each p as it counts where several differences are looked at at once (Holm 1979): the chance to call any of them
    real that is not stays below the level that they are held against."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))).clip(max=1)
    found = np.empty(len(p))
    found[order] = adjusted
    return found
