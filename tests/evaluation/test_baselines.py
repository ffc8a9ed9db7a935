import numpy as np
import pandas as pd
import pytest

from fmtl.dataset.prepared import PreparedDataset
from fmtl.evaluation import baselines
from fmtl.tasks import make_tasks


def dataset(train, test):
    tasks = make_tasks({"kind": ["bag", "hat"], "colour": ["blue", "green", "red"]})
    rows = [("train", *row) for row in train] + [("test", *row) for row in test]
    return PreparedDataset(None, {}, tasks, pd.DataFrame(rows, columns=["split", "kind", "colour"]))


TRAIN = [(0, 0), (0, 0), (0, 1), (1, 2), (1, -100), (-100, 1)]


def test_majority_counts_known_test_labels_that_are_trains_most_frequent_class():
    scores = baselines.majority(dataset(TRAIN, [(0, 0), (1, 1), (1, -100), (-100, 0)]))
    assert scores == {"kind": pytest.approx(1 / 3), "colour": pytest.approx(2 / 3)}


def test_lookup_answers_with_the_class_most_frequent_beside_the_known_one():
    # kind bag -> blue, kind hat -> red; an unknown kind -> train's most frequent colour, which is blue (2 of 5).
    scores = baselines.lookup(dataset(TRAIN, [(0, 0), (1, 2), (1, 0), (-100, 0)]))
    assert scores[0, 1] == pytest.approx(3 / 4)
    # colour blue -> bag, red -> hat; the row without a kind does not count.
    assert scores[1, 0] == pytest.approx(2 / 3)
    assert np.isnan(scores[0, 0]) and np.isnan(scores[1, 1])


def test_a_task_without_test_labels_has_no_score():
    assert np.isnan(baselines.majority(dataset(TRAIN, [(0, -100)]))["colour"])


def test_beside_a_label_that_train_does_not_have_lookup_answers_trains_most_frequent_class():
    only_bags = [(0, 1), (0, 1), (0, 1), (0, 0)]
    scores = baselines.lookup(dataset(only_bags, [(1, 1), (1, 1), (1, 0)]))
    assert scores[0, 1] == pytest.approx(2 / 3)
