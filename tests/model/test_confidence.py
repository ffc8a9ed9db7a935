"""Temperatures, and the confidence from which a label is accepted: on drawn logits whose truth is known."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import log_softmax, softmax

from fmtl.errors import DataError
from fmtl.model.confidence import NEVER, Confidence, acceptance, calibration, temperature
from fmtl.tasks import IGNORE_INDEX, make_tasks


def drawn(rng, num, size=6, scale=1.0, sharpness=2.0):
    """Logits that are ``scale`` times too large for the labels that are drawn from them."""
    logits = rng.normal(0, sharpness, (num, size))
    labels = np.array([rng.choice(size, p=p) for p in softmax(logits, axis=1)])
    return (logits * scale).astype(np.float32), labels


def test_an_overconfident_networks_temperature_is_found_and_kept():
    logits, labels = drawn(np.random.default_rng(0), 6000, scale=2.5)
    probs = softmax(logits, axis=1)
    found = temperature.cross_fitted(probs, labels, np.arange(6000))
    assert found == pytest.approx(2.5, rel=0.12)
    before, after = (
        calibration.calibration(p, labels)["ece"] for p in (probs, temperature.rescaled(probs, found, is_set=False))
    )
    assert before > 0.1 and after < 0.02


def test_what_does_not_help_on_other_photos_is_not_kept():
    rng, kept = np.random.default_rng(1), 0
    for _ in range(40):  # true already: a fitted one is chance, and mostly loses what it was not fitted on
        logits, labels = drawn(rng, 80)
        kept += temperature.cross_fitted(softmax(logits, axis=1), labels, np.arange(80)) != 1
    assert kept < 20
    assert temperature.cross_fitted(np.full((40, 3), 1 / 3), np.zeros(40, np.int64), np.arange(40)) == 1  # too few
    unknown = np.full(200, IGNORE_INDEX)
    assert temperature.cross_fitted(np.full((200, 3), 1 / 3), unknown, np.arange(200)) == 1


def test_images_that_are_all_told_right_do_not_make_it_certain_of_everything():
    probs = np.full((300, 2), 0.1)
    labels = np.arange(300) % 2
    probs[np.arange(300), labels] = 0.9
    assert temperature.cross_fitted(probs, labels, np.arange(300)) == 0.5


def test_rescaled_probabilities_are_those_of_divided_logits():
    logits, _ = drawn(np.random.default_rng(2), 50)
    found = temperature.rescaled(softmax(logits, axis=1), 1.7, is_set=False)
    np.testing.assert_allclose(found, softmax(logits / 1.7, axis=1), rtol=2e-4, atol=1e-6)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    found = temperature.rescaled(sigmoid(logits), 1.7, is_set=True)
    np.testing.assert_allclose(found, sigmoid(logits / 1.7), rtol=2e-4, atol=1e-6)
    np.testing.assert_array_equal(found.argmax(axis=1), logits.argmax(axis=1))


def test_loss_is_scikit_learns_cross_entropy():
    logits, labels = drawn(np.random.default_rng(3), 60)
    want = -log_softmax(logits.astype(float) / 1.3, axis=1)[np.arange(60), labels].mean()
    assert temperature.loss(softmax(logits, axis=1), labels, 1.3) == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("wanted", [0.8, 0.9, 0.95])
def test_of_what_is_accepted_the_wanted_share_is_right_on_other_photos(wanted):
    """Chosen on 2,000 photos, judged on 2,000 others, 60 times: the mean is the wanted one but for a hundredth."""
    rng, shares, refused = np.random.default_rng(4), [], 0
    for _ in range(60):
        logits, labels = drawn(rng, 4000, size=4)
        probs = softmax(logits, axis=1)
        sure, right = probs.max(axis=1), probs.argmax(axis=1) == labels
        of = acceptance.accepted_from(sure[:2000], right[:2000], wanted)
        accepted = sure[2000:] >= of
        shares.append(right[2000:][accepted].mean())
        test = stats.binomtest(int(right[2000:][accepted].sum()), int(accepted.sum()), wanted)
        refused += test.pvalue < 0.01
    assert np.mean(shares) == pytest.approx(wanted, abs=0.01)
    assert refused <= 15  # the choice has its own chance beside that of the judgement


def test_where_nothing_is_right_enough_nothing_is_accepted():
    rng = np.random.default_rng(5)
    assert acceptance.accepted_from(rng.random(500), rng.random(500) < 0.5, 0.95) == NEVER
    assert acceptance.accepted_from(np.ones(5), np.ones(5, bool), 0.95) == NEVER  # too few to say
    assert acceptance.accepted_from(np.full(50, 0.7), np.ones(50, bool), 0.95) == pytest.approx(0.7)


def test_an_attribute_that_does_not_apply_is_right_where_it_is_said_so():
    tasks = make_tasks({"Heel": ["flat", "high"], "Heel applies": ["no", "yes"]}, applies_to={"Heel applies": "Heel"})
    probs = {"Heel": np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]]),
             "Heel applies": np.array([[0.1, 0.9], [0.7, 0.3], [0.6, 0.4]])}  # fmt: skip
    targets = {"Heel": np.array([0, IGNORE_INDEX, 1]), "Heel applies": np.array([1, 0, 1])}
    confidence, right = acceptance.judged(tasks, probs, {}, targets)["Heel"]
    assert right.tolist() == [True, True, False]
    assert confidence == pytest.approx([0.81, 0.7, 0.6])


def test_what_was_written_is_read_and_nothing_else():
    tasks = make_tasks({"a": ["x", "y"], "b": ["x", "y"]})
    found = Confidence({"a": 1.5}, {"b": 0.7}, 0.9)
    assert Confidence.from_json(found.to_json(), tasks, where="m") == found
    for wrong in ([], {}, found.to_json() | {"temperatures": {"c": 1.0}}, found.to_json() | {"temperatures": {"a": -1}},
                  found.to_json() | {"accepted_from": {"a": "0.5"}}):  # fmt: skip
        with pytest.raises(DataError, match="m"):
            Confidence.from_json(wrong, tasks, where="m")
