"""Where labellers stand: everything again with numpy, scipy and scikit-learn, from the same answers."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from fmtl.evaluation.answers import Photos, codes, said
from fmtl.evaluation.standings import Labeller, stand
from fmtl.tasks import IGNORE_INDEX, make_tasks

TASKS = make_tasks({"Colour": ["red", "green", "blue"], "Tags": ["new", "sale"]}, sets=["Tags"])


def drawn(seed=0, num=240, wrong=(0.2, 0.3, 0.45)):
    """Photos with twins, and the answers of one labeller for each share of wrong ones."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({"id": [str(n) for n in range(num)], "path": [f"{n}.jpg" for n in range(num)]})
    colours, tags = rng.integers(0, 3, num), rng.integers(0, 2, (num, 2))
    colours[rng.random(num) < 0.1] = IGNORE_INDEX
    photos = Photos(rows, rng.integers(0, num // 2, num), TASKS, {"Colour": colours, "Tags": tags})
    answers = []
    for share in wrong:
        is_wrong = rng.random(num) < share
        found = np.where(is_wrong, (colours + 1) % 3, colours)
        answers.append({"Colour": found.clip(0), "Tags": np.where(is_wrong[:, None], 1 - tags, tags)})
    return photos, answers


def score(photos, answers, rows, metric):
    """The mean over both tasks on some rows, which may occur several times."""
    known = rows[photos.targets["Colour"][rows] != IGNORE_INDEX]
    want, found = photos.targets["Colour"][known], answers["Colour"][known]
    tags, told = photos.targets["Tags"][rows], answers["Tags"][rows]
    if metric == "accuracy":
        return (accuracy_score(want, found) + accuracy_score(tags, told)) / 2
    return (f1_score(want, found, average="macro") + f1_score(tags, told, average="macro", zero_division=0)) / 2


@pytest.mark.parametrize("metric", ["f1", "accuracy"])
def test_scores_leads_and_intervals_are_those_of_plain_arithmetic(metric):
    photos, answers = drawn()
    standings = stand(photos, [Labeller(str(n), [given]) for n, given in enumerate(answers)], metric=metric)
    groups, of_row = np.unique(photos.groups, return_inverse=True)
    rng = np.random.default_rng(5)  # other draws than the code's: bounds agree but for chance
    differences = {1: [], 2: []}
    means = []
    everything = np.arange(len(photos))
    for _ in range(600):
        times = np.bincount(rng.integers(0, len(groups), len(groups)), minlength=len(groups))
        rows = np.repeat(everything, times[of_row])
        scores = [score(photos, given, rows, metric) for given in answers]
        means.append(scores[0])
        for n, found in differences.items():
            found.append(scores[n] - scores[0])
    for n, standing in enumerate(standings):
        assert standing.scores["avg", metric].mean == pytest.approx(score(photos, answers[n], everything, metric))
    assert standings[0].interval == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.012)
    for n, found in differences.items():
        lead = standings[n].lead
        want = score(photos, answers[n], everything, metric) - score(photos, answers[0], everything, metric)
        assert lead.difference.mean == pytest.approx(want)
        assert (lead.difference.low, lead.difference.high) == pytest.approx(
            np.percentile(found, [2.5, 97.5]), abs=0.015
        )
    p = [standings[1].lead.p, standings[2].lead.p]
    assert [standings[1].p, standings[2].p] == pytest.approx(by_holm(p))
    assert standings[0].lead is None and not standings[0].is_tied


def by_holm(p):
    """Step down, as the paper says it."""
    order, worst, found = np.argsort(p), 0.0, [0.0] * len(p)
    for rank, n in enumerate(order):
        worst = max(worst, min((len(p) - rank) * p[n], 1.0))
        found[n] = worst
    return found


def test_exact_match_asks_for_every_known_attribute():
    photos, (answers, *_) = drawn()
    colours, tags = photos.targets["Colour"], photos.targets["Tags"]
    right = [
        (colour == IGNORE_INDEX or colour == answers["Colour"][n]) and (tags[n] == answers["Tags"][n]).all()
        for n, colour in enumerate(colours)
    ]
    (standing,) = stand(photos, [Labeller("a", [answers])], metric="f1")
    assert standing.scores["avg", "exact"].mean == pytest.approx(np.mean(right))


def test_trainings_of_a_recipe_are_a_mean_with_a_deviation_and_three_make_the_doubt_wider():
    photos, answers = drawn(wrong=(0.1, 0.3, 0.5, 0.3))
    *seeds, other = answers
    recipe, alone = stand(photos, [Labeller("recipe", seeds), Labeller("alone", [other])], metric="accuracy")
    of_each = [score(photos, given, np.arange(len(photos)), "accuracy") for given in seeds]
    assert recipe.scores["avg", "accuracy"].mean == pytest.approx(np.mean(of_each))
    assert recipe.scores["avg", "accuracy"].deviation == pytest.approx(stats.tstd(of_each))
    assert np.isnan(alone.scores["avg", "accuracy"].deviation)
    _, against_one = stand(photos, [Labeller("one", [seeds[1]]), Labeller("alone", [other])], metric="accuracy")
    width, narrow = (s.lead.difference.high - s.lead.difference.low for s in (alone, against_one))
    assert width > 2 * narrow  # 0.1, 0.3 and 0.5 wrong are far apart


def test_equals_are_tied_and_the_far_are_not():
    photos, (good, _, poor) = drawn(wrong=(0.1, 0.1, 0.6))
    _, same, far = stand(photos, [Labeller("a", [good]), Labeller("b", [good]), Labeller("c", [poor])], metric="f1")
    assert same.is_tied and same.lead.better == 0.5 and same.p == 1
    assert not far.is_tied and far.lead.better == 0


def test_what_is_no_class_and_what_is_not_said_are_wrong():
    colour, tags = TASKS
    assert codes(colour, pd.Series(["blue", "teal", None]), blank=-7).tolist() == [2, -1, -7]
    assert codes(tags, pd.Series([("sale",), None, []]), blank=-1).tolist() == [[0, 1], [-1, -1], [0, 0]]
    table = pd.DataFrame({"id": ["1"], "path": ["1.jpg"], "Colour": [None], "Tags": [["new"]],
                          "Colour/target": ["red"], "Tags/target": [["new"]]})  # fmt: skip
    (standing,) = stand(Photos.of(table, TASKS), [Labeller("a", [said(table, TASKS)])], metric="accuracy")
    assert standing.scores["Colour", "accuracy"].mean == 0 and standing.scores["Tags", "accuracy"].mean == 1


def test_photos_are_the_same_only_with_the_same_labels_in_the_same_order():
    photos, _ = drawn()
    assert photos.are_those_of(drawn()[0])
    other = drawn()[0]
    other.targets["Colour"][0] = (other.targets["Colour"][0] + 1) % 3
    assert not photos.are_those_of(other)
    turned = Photos(photos.rows.iloc[::-1], photos.groups, TASKS, photos.targets)
    assert not photos.are_those_of(turned)


def test_of_a_hundred_poor_rows_none_is_tied_with_a_perfect_one():
    photos, (perfect, poor) = drawn(wrong=(0.0, 0.4))
    everyone = [Labeller("best", [perfect]), *(Labeller(str(n), [poor]) for n in range(100))]
    assert not any(standing.is_tied for standing in stand(photos, everyone, metric="accuracy")[1:])


def test_an_attribute_with_one_labelled_group_takes_nothing_from_the_others():
    photos, (good, poor) = drawn(wrong=(0.1, 0.3))
    tags = np.full_like(photos.targets["Tags"], IGNORE_INDEX)
    tags[0] = photos.targets["Tags"][0]
    sparse = Photos(photos.rows, photos.groups, TASKS, photos.targets | {"Tags": tags})
    first, second = stand(sparse, [Labeller("a", [good]), Labeller("b", [poor])], metric="accuracy")
    assert np.isfinite([*first.interval, second.lead.difference.low, second.lead.p]).all()
