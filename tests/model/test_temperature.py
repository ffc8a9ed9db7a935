"""The best temperature, against a general search, and what it undoes."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from fmtl.model.confidence import temperature
from fmtl.tasks import IGNORE_INDEX


def drawn(seed, *, sure=1.0, num=400, classes=7):
    """Logits whose labels are drawn from them, so that 1 is about the best temperature; times how sure they are."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(num, classes))
    targets = (softmax(logits, axis=1).cumsum(axis=1) > rng.random((num, 1))).argmax(axis=1)
    return logits * sure, targets


def cross_entropy(logits, targets):
    return -log_softmax(logits, axis=1)[np.arange(len(targets)), targets].mean()


@pytest.mark.parametrize("sure", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_where_a_general_search_finds_it(seed, sure):
    logits, targets = drawn(seed, sure=sure)
    found = temperature.fit(softmax(logits, axis=1).astype(np.float32), targets)
    want = minimize_scalar(lambda t: cross_entropy(logits / t, targets), bounds=(0.1, 10), method="bounded")
    assert found.temperature == pytest.approx(want.x, rel=2e-3)
    assert found.loss == pytest.approx(want.fun, rel=1e-4)


def test_over_confidence_is_all_that_it_takes_away():
    logits, targets = drawn(0)
    calm = temperature.fit(softmax(logits, axis=1).astype(np.float32), targets)
    sure = temperature.fit(softmax(5 * logits, axis=1).astype(np.float32), targets)
    assert sure.temperature == pytest.approx(5 * calm.temperature, rel=2e-3)
    assert sure.loss == pytest.approx(calm.loss, rel=1e-3)
    assert cross_entropy(5 * logits, targets) > 2 * sure.loss


def test_blocks_come_to_the_same(monkeypatch):
    logits, targets = drawn(0)
    probs = softmax(logits, axis=1).astype(np.float32)
    whole = temperature.fit(probs, targets)
    monkeypatch.setattr(temperature, "BLOCK", 60)
    assert temperature.fit(probs, targets).temperature == pytest.approx(whole.temperature, rel=1e-5)


def test_rows_without_a_label_do_not_count():
    logits, targets = drawn(0)
    probs = softmax(logits, axis=1).astype(np.float32)
    half = np.where(np.arange(len(targets)) < 200, targets, IGNORE_INDEX)
    assert temperature.fit(probs, half) == temperature.fit(probs[:200], targets[:200])
    assert math.isnan(temperature.fit(probs, np.full_like(targets, IGNORE_INDEX)).loss)


def test_where_all_or_none_are_right_it_stays_within_its_bounds():
    probs = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]], np.float32)
    right = temperature.fit(probs, np.arange(3))
    assert right.temperature == pytest.approx(temperature.LEAST, rel=0.01)
    wrong = temperature.fit(probs, np.array([2, 0, 1]))
    assert wrong.temperature == pytest.approx(temperature.MOST, rel=0.01)
    certain = np.array([[1, 0], [0, 1]], np.float32)
    assert temperature.fit(certain, np.array([1, 1])).loss < 6  # finite, though a probability is 0
