import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

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
    assert {name: accuracy for name, (accuracy, _) in scores.items()} == {
        "kind": pytest.approx(1 / 3),
        "colour": pytest.approx(2 / 3),
    }


def test_lookup_answers_with_the_class_most_frequent_beside_the_known_one():
    # kind bag -> blue, kind hat -> red; an unknown kind -> train's most frequent colour, which is blue (2 of 5).
    scores, _ = baselines.lookup(dataset(TRAIN, [(0, 0), (1, 2), (1, 0), (-100, 0)]))
    assert scores[0, 1] == pytest.approx(3 / 4)
    # colour blue -> bag, red -> hat; the row without a kind does not count.
    assert scores[1, 0] == pytest.approx(2 / 3)
    assert np.isnan(scores[0, 0]) and np.isnan(scores[1, 1])


def test_a_task_without_test_labels_has_no_score():
    assert np.isnan(baselines.majority(dataset(TRAIN, [(0, -100)]))["colour"]).all()


def test_beside_a_label_that_train_does_not_have_lookup_answers_trains_most_frequent_class():
    only_bags = [(0, 1), (0, 1), (0, 1), (0, 0)]
    scores, _ = baselines.lookup(dataset(only_bags, [(1, 1), (1, 1), (1, 0)]))
    assert scores[0, 1] == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    tasks = make_tasks({"kind": list("abcd"), "colours": list("xyz")}, ["colours"])
    single, sets = rng.integers(0, 4, (80, 1)), (rng.random((80, 3)) < 0.4).astype(np.int64)
    single[rng.random(80) < 0.2], sets[rng.random(80) < 0.2] = -100, -100
    table = pd.DataFrame(np.column_stack([single, sets]), columns=tasks.columns)
    table.insert(0, "split", "test")
    one, several = baselines.label_codes(PreparedDataset(None, {}, tasks, table))
    rows, answers = np.arange(80), rng.integers(0, 4, 80)
    known = single[:, 0] >= 0
    want = f1_score(single[known, 0], answers[known], average="macro", zero_division=0)
    assert one.scores(rows, answers) == pytest.approx((accuracy_score(single[known, 0], answers[known]), want))
    answers = rng.integers(1, several.num, 80)  # 0 is that of what is unknown
    known, said = sets[:, 0] >= 0, several.values[answers].astype(int)
    want = f1_score(sets[known], said[known], average="macro", zero_division=0)
    assert several.scores(rows, answers) == pytest.approx((accuracy_score(sets[known], said[known]), want))


def test_that_an_attribute_is_blank_does_not_answer_whether_it_applies():
    tasks = make_tasks({"heel": ["flat", "high"], "heel applies": ["no", "yes"], "kind": ["shirt", "shoe"]},
                       applies_to={"heel applies": "heel"})  # fmt: skip
    rows = [(split, *row) for split in ("train", "test") for row in [(-100, 0, 0)] * 7 + [(1, 1, 1)] * 2 + [(0, 1, 1)]]
    table = pd.DataFrame(rows, columns=["split", "heel", "heel_applies", "kind"])
    found = baselines.lookup(PreparedDataset(None, {}, tasks, table))
    assert np.isnan(found[:, 0, 1]).all()
    assert found[0, 2, 1] == 1
