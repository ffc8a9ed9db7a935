"""Intervals over splits: arithmetic by hand, and that they hold what they say where splits overlap."""

import numpy as np
import pytest
from scipy import stats

from fmtl.evaluation.statistics import over_splits


def test_by_hand():
    # Mean 2, variance ((-1)^2 + 0 + 1^2) / 2 = 1; 1/3 + 1/6 = 1/2; t of 2 degrees of freedom at 97.5 %: 4.302653.
    found = over_splits([1.0, 2.0, 3.0], test_share=1 / 6)
    assert found.mean == 2
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 * 0.5**0.5, 2 + 4.302653 * 0.5**0.5))
    assert str(over_splits([0.01, 0.02, 0.03], test_share=0)) == "+0.020 (-0.005 to +0.045)"


def test_of_independent_splits_it_is_students_own():
    drawn = np.random.default_rng(0).normal(0.3, 1, 12)
    found, want = over_splits(drawn, test_share=0), stats.ttest_1samp(drawn, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((want.low, want.high))


def test_one_split_says_nothing_of_its_spread():
    with pytest.raises(ValueError, match="2 splits at least, got 1"):
        over_splits([0.5], test_share=0.2)


def test_where_training_images_overlap_it_holds_the_truth_and_students_own_does_not():
    """The mean of random halves of one sample, again and again: the true mean is 0."""
    rng, held = np.random.default_rng(1), {0.0: 0, 1.0: 0}
    for _ in range(400):
        sample = rng.normal(size=200)
        means = [rng.permutation(sample)[:100].mean() for _ in range(10)]
        for test_share in held:
            found = over_splits(means, test_share=test_share)
            held[test_share] += found.low <= 0 <= found.high
    assert held[1.0] / 400 > 0.93 and held[0.0] / 400 < 0.75
