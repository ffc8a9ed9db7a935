import numpy as np
import pytest

from fmtl.dataset.splits.stratified import FREE, complete, only_outside_train, read_column, split_groups
from fmtl.errors import DataError
from fmtl.tasks import IGNORE_INDEX


def random_case(seed, num_rows=600):
    rng = np.random.default_rng(seed)
    skewed = np.minimum(rng.geometric(0.25, num_rows) - 1, 11)
    targets = np.stack([skewed, rng.integers(0, 4, num_rows), np.minimum(rng.zipf(1.6, num_rows) - 1, 30)], axis=1)
    targets[rng.random(targets.shape) < 0.1] = IGNORE_INDEX
    return targets, rng.integers(0, num_rows * 0.8, num_rows).tolist()


def share_error(targets, splits):
    """Mean absolute difference between the class shares of val and test and those of the whole."""
    errors = []
    for column in targets.T:
        known = column >= 0
        whole = np.bincount(column[known], minlength=31) / known.sum()
        for split in (1, 2):
            part = column[known & (splits == split)]
            errors.append(np.abs(np.bincount(part, minlength=31) / len(part) - whole).sum())
    return np.mean(errors)


@pytest.mark.parametrize("seed", range(5))
def test_no_group_crosses_splits_and_sizes_are_near_the_fractions(seed):
    targets, groups = random_case(seed)
    splits = split_groups(targets, groups, fractions=(0.65, 0.15, 0.2), seed=seed)
    for group in set(groups):
        assert len({s for s, g in zip(splits, groups, strict=True) if g == group}) == 1
    assert [np.mean(splits == s) for s in range(3)] == pytest.approx([0.65, 0.15, 0.2], abs=0.04)


def test_same_seed_same_split_and_another_seed_another():
    targets, groups = random_case(0)
    one, again, other = (split_groups(targets, groups, fractions=(0.7, 0.15, 0.15), seed=seed) for seed in (1, 1, 2))
    assert (one == again).all()
    assert (one != other).any()


def test_class_shares_are_closer_to_the_whole_than_a_random_split():
    ours, chance = [], []
    for seed in range(10):
        targets, groups = random_case(seed)
        splits = split_groups(targets, groups, fractions=(0.7, 0.15, 0.15), seed=seed)
        ours.append(share_error(targets, splits))
        chance.append(share_error(targets, np.random.default_rng(seed).permutation(splits)))
    assert np.mean(ours) < 0.75 * np.mean(chance)


def test_a_class_of_one_goes_to_train():
    targets = np.array([[0]] * 40 + [[1]])
    splits = split_groups(targets, list(range(41)), fractions=(0.6, 0.2, 0.2), seed=0)
    assert splits[40] == 0


def test_rows_without_any_label_are_assigned_too():
    targets = np.full((30, 2), IGNORE_INDEX)
    splits = split_groups(targets, list(range(30)), fractions=(0.6, 0.2, 0.2), seed=0)
    assert np.bincount(splits).tolist() == [18, 6, 6]


def test_what_is_fixed_stays_and_the_rest_makes_up_for_it():
    targets, groups = random_case(3)
    groups = np.arange(len(targets))
    fixed = np.full(len(targets), FREE)
    fixed[:60] = 2
    splits = split_groups(targets, groups.tolist(), fractions=(0.7, 0.15, 0.15), seed=0, fixed=fixed)
    assert (splits[:60] == 2).all()
    assert np.bincount(splits) / len(splits) == pytest.approx([0.7, 0.15, 0.15], abs=0.03)


def test_a_group_with_a_test_row_goes_to_test():
    fixed = np.array([0, 2, 1, FREE])
    splits = split_groups(np.zeros((4, 1), int), [7, 7, 7, 7], fractions=(0.7, 0.15, 0.15), seed=0, fixed=fixed)
    assert splits.tolist() == [2, 2, 2, 2]


def test_a_split_column_is_read_in_its_usual_spellings_and_its_faults_are_named():
    values = {2: "Train", 3: "validation", 4: "dev", 5: "TEST"}
    assert read_column(values, "part").tolist() == [0, 1, 1, 2]
    with pytest.raises(DataError, match=r"2 rows name no split:\n  - line 9, column 'part': 'tset'.*\n.*line 11.*''"):
        read_column({8: "test", 9: "tset", 11: None}, "part")


def test_a_missing_split_is_drawn_from_train_rows_only():
    targets, _ = random_case(1)
    own = np.where(np.arange(len(targets)) < 100, 2, 0)
    splits = complete(own, targets, list(range(len(targets))), fractions=(0.7, 0.15, 0.15), seed=0)
    assert ((splits == 2) == (own == 2)).all()
    assert (splits == 1).sum() / (own == 0).sum() == pytest.approx(0.15, abs=0.02)
    with pytest.raises(DataError, match="no row is in train"):
        complete(np.full(5, 2), targets[:5], list(range(5)), fractions=(0.7, 0.15, 0.15), seed=0)


def test_classes_that_train_does_not_have_are_found():
    targets = np.array([[0, 1], [1, IGNORE_INDEX], [2, 0], [0, 1]])
    assert only_outside_train(np.array([0, 2, 1, 2]), targets) == [(0, 1), (0, 2), (1, 0)]
