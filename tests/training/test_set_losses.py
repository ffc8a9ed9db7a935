"""Sets beside single labels: losses, gradients, thresholds and scores."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from sklearn import metrics as sk

from fmtl.model import decisions
from fmtl.model.confidence import temperature
from fmtl.model.packing import Packing
from fmtl.tasks import IGNORE_INDEX
from fmtl.training import metrics
from fmtl.training.criterion import LossPlan, MultiTaskLoss, answer_counts, answer_weights, from_plan

NUM_CLASSES = {"a": 5, "s": 4, "b": 2, "t": 1}
SETS = ("s", "t")
PACKING = Packing(NUM_CLASSES, SETS)


def case(seed, num=30, missing=0.3):
    """Logits and targets by task, some unknown, and of sets some in part."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(num, sum(NUM_CLASSES.values()), generator=g, requires_grad=True)
    targets = {}
    for name, size in NUM_CLASSES.items():
        shape, most = ((num, size), 2) if name in SETS else ((num,), size)
        targets[name] = torch.randint(most, shape, generator=g)
        targets[name][torch.rand(num, generator=g) < missing] = IGNORE_INDEX
    targets["s"][3, 1] = IGNORE_INDEX
    return logits, targets


def plain_loss(logits, targets, *, weights=None, smoothing=0.0):
    """Task by task and value by value."""
    weights, losses = weights or {}, {}
    for name, part in PACKING.split(logits).items():
        if name not in SETS:
            losses[name] = F.cross_entropy(
                part, targets[name], weight=weights.get(name), ignore_index=IGNORE_INDEX, label_smoothing=smoothing
            )
            continue
        losses[name] = 0
        for k in range(part.shape[1]):
            known = targets[name][:, k] != IGNORE_INDEX
            has = targets[name][known, k].float()
            soft = (1 - smoothing) * has + smoothing / max(part.shape[1], 2)
            rows = F.binary_cross_entropy_with_logits(part[known, k], soft, reduction="none")
            mass = torch.where(has == 1, *weights[name][k]) if name in weights else torch.ones_like(has)
            losses[name] = losses[name] + (rows * mass).sum() / mass.sum()
    return losses


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("smoothing", "weighted"), [(0.0, False), (0.1, False), (0.0, True)])
def test_losses_and_gradients_of_sets_and_single_labels_equal_plain_torch(seed, smoothing, weighted):
    logits, targets = case(seed)
    weights = {"a": torch.rand(5) + 0.5, "s": torch.rand(4, 2) + 0.5} if weighted else {}
    loss = MultiTaskLoss(NUM_CLASSES, SETS, class_weights=weights, label_smoothing=smoothing, task_weights={"s": 2.0})
    ours, parts = loss(logits, PACKING.stack(targets))
    wanted = plain_loss(logits, targets, weights=weights, smoothing=smoothing)
    torch.testing.assert_close(parts, torch.stack(list(wanted.values())))
    plain = sum(value * (2.0 if name == "s" else 1.0) for name, value in wanted.items())
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(*(torch.autograd.grad(total, logits, retain_graph=True)[0] for total in (ours, plain)))


def test_with_weights_and_smoothing_an_answer_counts_by_its_own_weight():
    logits, targets = case(7)
    weights = {"s": torch.tensor([[9.0, 1.0]] * 4)}
    loss = MultiTaskLoss(NUM_CLASSES, SETS, class_weights=weights, label_smoothing=0.1)
    found = dict(zip(NUM_CLASSES, loss(logits, PACKING.stack(targets))[1], strict=True))
    torch.testing.assert_close(found["s"], plain_loss(logits, targets, weights=weights, smoothing=0.1)["s"])


def test_only_sets_make_a_loss_too_and_an_unknown_one_adds_nothing():
    packing = Packing({"s": 3}, ["s"])
    logits = torch.randn(6, 3, requires_grad=True)
    targets = torch.tensor([[1, 0, 1]] * 3 + [[IGNORE_INDEX] * 3] * 3)
    total, _ = MultiTaskLoss({"s": 3}, ["s"])(logits, targets)
    want = F.binary_cross_entropy_with_logits(logits[:3], targets[:3].float(), reduction="none").mean(dim=0).sum()
    torch.testing.assert_close(total, want)
    assert packing.likeliest(logits).shape == (6, 0)
    total.backward()
    assert (logits.grad[3:] == 0).all()


def test_mixed_shares_give_the_share_of_their_losses():
    """What MixUp relies on."""
    logits, targets = case(3, missing=0)
    targets["s"][3, 1] = 0
    stacked = PACKING.stack(targets)
    loss, other = MultiTaskLoss(NUM_CLASSES, SETS, label_smoothing=0.1), stacked.roll(1, 0)
    mixed = 0.3 * PACKING.shares(stacked) + 0.7 * PACKING.shares(other)
    want = 0.3 * loss(logits, stacked)[1] + 0.7 * loss(logits, other)[1]
    torch.testing.assert_close(loss(logits, mixed)[1], want)


def test_a_criterion_of_a_set_sees_the_rows_that_are_known_as_floats():
    logits, targets = case(4)
    seen = []

    def criterion(chosen, known):
        seen.append((chosen.shape, known.dtype))
        return F.binary_cross_entropy_with_logits(chosen, known)

    found = MultiTaskLoss(NUM_CLASSES, SETS, criterions={"s": criterion})(logits, PACKING.stack(targets))[1]
    known = (targets["s"] != IGNORE_INDEX).all(dim=1)
    want = F.binary_cross_entropy_with_logits(PACKING.split(logits)["s"][known], targets["s"][known].float())
    torch.testing.assert_close(found[1], want)
    assert seen == [((int(known.sum()), 4), torch.float32)]


def test_class_weights_of_a_set_weigh_having_a_value_against_not_having_it():
    targets = torch.tensor([[1, 1]] * 2 + [[0, 1]] * 7 + [[0, IGNORE_INDEX]])
    counts = answer_counts(targets)
    assert counts.tolist() == [[2, 8], [9, 0]]
    weights = answer_weights(counts, 0.5)
    assert weights[0, 0] / weights[0, 1] == pytest.approx((8 / 2) ** 0.5)
    assert (weights[0] * counts[0]).sum() / 10 == pytest.approx(1)
    loss = from_plan(LossPlan(class_weights=0.5, label_smoothing=0), {"s": 2}, ["s"], counts={"s": counts})
    torch.testing.assert_close(loss.answer_weights, weights)


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_sets_are_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    targets, predicted = rng.integers(0, 2, (2, 50, 6))
    targets[:, 5] = predicted[:, 5] = 0  # a value that is neither there nor said
    found = metrics.set_metrics(predicted, targets)
    options = {"average": "macro", "zero_division": np.nan}
    assert found == pytest.approx(
        {
            "accuracy": sk.accuracy_score(targets, predicted),
            "f1": sk.f1_score(targets, predicted, **options),
            "precision": np.nanmean(sk.precision_score(targets[:, :5], predicted[:, :5], average=None)),
            "recall": np.nanmean(sk.recall_score(targets[:, :5], predicted[:, :5], average=None)),
            "micro_f1": sk.f1_score(targets, predicted, average="micro"),
            "jaccard": np.mean([
                (a & b).sum() / (a | b).sum() if (a | b).any() else 1.0
                for a, b in zip(targets, predicted, strict=True)
            ]),
        }
    )  # fmt: skip
    np.testing.assert_array_equal(
        metrics.set_confusion(predicted, targets), sk.multilabel_confusion_matrix(targets, predicted)
    )
    table = metrics.per_class(metrics.set_confusion(predicted, targets))
    np.testing.assert_allclose(table["f1"][:5], sk.f1_score(targets[:, :5], predicted[:, :5], average=None))
    unknown = np.full((3, 6), IGNORE_INDEX)
    with_unknown = metrics.set_metrics(np.vstack([predicted, predicted[:3]]), np.vstack([targets, unknown]))
    assert with_unknown == pytest.approx(found)
    assert all(np.isnan(value) for value in metrics.set_metrics(predicted[:3], unknown).values())


@pytest.mark.parametrize("seed", range(5))
def test_a_threshold_has_the_highest_f1_that_any_has(seed):
    rng = np.random.default_rng(seed)
    targets = (rng.random((60, 3)) < [0.5, 0.4, 0.8]).astype(np.int64)
    probs = np.clip(rng.normal(targets * 0.3 + 0.3, 0.2), 0.001, 0.999).astype(np.float32).round(2)
    targets[rng.random(60) < 0.2] = IGNORE_INDEX
    known = targets[:, 0] != IGNORE_INDEX
    for k, threshold in enumerate(decisions.best_thresholds(probs, targets)):
        scores = [
            sk.f1_score(targets[known, k], probs[known, k] >= cut, zero_division=0) for cut in np.linspace(0, 1, 501)
        ]
        assert sk.f1_score(targets[known, k], probs[known, k] >= threshold) == pytest.approx(max(scores))


def test_rare_values_share_a_threshold_and_without_any_it_is_a_half():
    probs = np.tile(np.linspace(0, 0.9, 10, dtype=np.float32)[:, None], (1, 3))
    targets = np.zeros((10, 3), np.int64)
    assert decisions.best_thresholds(probs, targets).tolist() == [0.5, 0.5, 0.5]
    targets[4:, 0] = 1
    targets[9, 1] = 1
    probs[:, 1:] /= 2
    own, shared, same = decisions.best_thresholds(probs, targets)
    assert own == pytest.approx(0.35)
    assert shared == same == pytest.approx((0.4 + 0.45) / 2)  # 7 are said to have one, of which 6 do, of 7


def test_a_sets_temperature_is_where_its_cross_entropy_is_lowest():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (200, 4))
    targets = (rng.random((200, 4)) < 1 / (1 + np.exp(-logits / 2))).astype(np.int64)
    targets[:20] = IGNORE_INDEX

    def loss(scale):
        x = torch.from_numpy(logits[20:] * scale)
        return F.binary_cross_entropy_with_logits(x, torch.from_numpy(targets[20:]).double()).item() * 4

    found = temperature.fit_set((1 / (1 + np.exp(-logits))).astype(np.float32), targets)
    best = minimize_scalar(loss, bounds=(0.1, 10), method="bounded")
    assert found.temperature == pytest.approx(1 / best.x, rel=1e-2)
    assert found.loss == pytest.approx(best.fun, rel=1e-4)
