"""Intervals: arithmetic by hand, scores as scikit-learn has them, and that intervals hold what they say."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from fmtl.evaluation.statistics import Resamples, holm, lead, over_splits
from fmtl.training import metrics


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


def rows_of(groups, times):
    """Rows of a resample in which each group occurs so many times."""
    return np.repeat(np.arange(len(groups)), times[groups])


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_each_resample_are_scikit_learns_on_its_rows(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 25, 60)
    targets, predicted = rng.integers(0, 7, 60), rng.integers(-1, 7, 60)
    targets[rng.random(60) < 0.3] = -100
    drawn = Resamples(groups, num=20, seed=seed)
    accuracy, f1 = drawn.scores(targets, predicted)
    for b in range(21):
        rows = rows_of(np.unique(groups, return_inverse=True)[1], drawn._times[:, b].astype(int))
        rows = rows[targets[rows] >= 0]
        want, said = targets[rows], predicted[rows]
        classes = sorted({*want, *said} - {-1})
        assert accuracy[b] == pytest.approx(accuracy_score(want, said))
        assert f1[b] == pytest.approx(f1_score(want, said, labels=classes, average="macro", zero_division=0))


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_sets_are_those_of_the_metrics(seed):
    rng = np.random.default_rng(seed)
    targets, predicted = (rng.random((50, 4)) < 0.3).astype(int), (rng.random((50, 4)) < 0.3).astype(int)
    targets[rng.random(50) < 0.3] = -100
    drawn = Resamples(np.arange(50), num=20, seed=seed)
    accuracy, f1 = drawn.scores(targets, predicted)
    for b in range(21):
        rows = rows_of(np.arange(50), drawn._times[:, b].astype(int))
        want = metrics.set_metrics(predicted[rows], targets[rows])
        assert (accuracy[b], f1[b]) == pytest.approx((want["accuracy"], want["f1"]))


def test_a_task_that_nobody_knows_has_no_score():
    accuracy, f1 = Resamples(np.arange(5), num=3).scores(np.full(5, -100), np.zeros(5, int))
    assert np.isnan(accuracy).all() and np.isnan(f1).all()


def test_a_lead_by_hand():
    first, second = np.array([[0.8, 0.9, 0.7, 0.8, 0.8]]), np.array([[0.7, 0.7, 0.7, 0.9, 0.7]])
    found = lead(first, second)
    assert found.difference.mean == pytest.approx(0.1)
    assert found.better == pytest.approx((2 + 0.5) / 4)
    assert found.p == pytest.approx(min(1, 2 * (1 + 1 + 1) / 5))
    same = lead(first, first)
    assert (same.difference.low, same.difference.high, same.better, same.p) == (0, 0, 0.5, 1)


def test_seeds_that_differ_make_a_lead_less_sure():
    rng = np.random.default_rng(0)
    scores = 0.7 + rng.normal(0, 0.01, (1, 2001))
    second = np.repeat(scores - 0.01, 3, axis=0)
    steady, shaky = (np.concatenate([scores + d for d in spread]) for spread in ((0, 0, 0), (-0.03, 0, 0.03)))
    sure, unsure = lead(steady, second), lead(shaky, second)
    assert sure.difference.mean == pytest.approx(unsure.difference.mean) == pytest.approx(0.01)
    assert sure.difference.low > 0 > unsure.difference.low


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([]).size == 0


def drawn_photos(rng, num_groups, shares, hits):
    """Groups of one to four twins: what they are, and what two labellers say; twins are said to be the same."""
    target = rng.choice(len(shares), num_groups, p=shares)
    said = [np.where(rng.random(num_groups) < hit, target, rng.integers(0, len(shares), num_groups)) for hit in hits]
    groups = np.repeat(np.arange(num_groups), rng.choice([1, 1, 2, 4], num_groups))
    return groups, target[groups], [answers[groups] for answers in said]


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say_where_rows_alone_do_not():
    """2,000 drawn test splits with twins. The truth is that of 400,000 groups."""
    rng = np.random.default_rng(3)
    shares, hits = np.array([0.5, 0.3, 0.12, 0.05, 0.03]), (0.75, 0.7)
    _, target, said = drawn_photos(rng, 400_000, shares, hits)
    truth = [np.subtract(*[score(target, answers) for answers in said]) for score in (accuracy, macro_f1)]
    held = {(unit, metric): 0 for unit in ("groups", "rows") for metric in (0, 1)}
    for n in range(2000):
        groups, target, said = drawn_photos(rng, 250, shares, hits)
        for unit, of_unit in (("groups", groups), ("rows", np.arange(len(groups)))):
            drawn = Resamples(of_unit, num=400, seed=n)
            scores = [drawn.scores(target, answers) for answers in said]
            for metric in (0, 1):
                found = lead(*(score[metric][None] for score in scores)).difference
                held[unit, metric] += found.low <= truth[metric] <= found.high
    share = {key: count / 2000 for key, count in held.items()}
    assert 0.935 <= share["groups", 0] <= 0.965 and 0.90 <= share["groups", 1] <= 0.98, share
    assert share["rows", 0] < 0.9, share


def accuracy(targets, predicted):
    return (targets == predicted).mean()


def macro_f1(targets, predicted):
    return f1_score(targets, predicted, average="macro")


def test_of_few_seeds_the_interval_holds_the_true_mean():
    """Scores of three trainings around 0.6, no doubt of the photos: 95 in 100 intervals, where plain draws had 74."""
    rng, held = np.random.default_rng(3), 0
    for trial in range(400):
        scores = np.repeat(rng.normal(0.6, 0.05, 3)[:, None], 801, axis=1)
        found = lead(scores, np.full((1, 801), 0.6), seed=trial).difference
        held += found.low <= 0 <= found.high
    assert held / 400 > 0.88


def test_p_below_what_counting_can_tell_is_the_normal_tail():
    rng = np.random.default_rng(4)
    drawn = np.concatenate([[0.3], rng.normal(0.3, 0.05, 2000)])
    assert lead(drawn[None], np.zeros((1, 2001))).p == pytest.approx(2 * stats.norm.sf(6), rel=0.9)
    near = np.concatenate([[0.05], rng.normal(0.05, 0.05, 2000)])
    opposed = (near[1:] <= 0).sum()
    assert lead(near[None], np.zeros((1, 2001))).p == pytest.approx(2 * (opposed + 1) / 2001)
