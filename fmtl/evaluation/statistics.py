"""How sure a difference is, where it was measured on several splits of one dataset."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


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
