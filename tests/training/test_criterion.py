import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from fmtl.model.packing import Packing
from fmtl.tasks import IGNORE_INDEX
from fmtl.training.criterion import MultiTaskLoss, class_weights

NUM_CLASSES = {"a": 5, "b": 2, "c": 3}
PACKING = Packing(NUM_CLASSES)


def case(seed, num=20, missing=0.3):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(num, 10, generator=g, requires_grad=True)
    targets = torch.stack([torch.randint(k, (num,), generator=g) for k in NUM_CLASSES.values()], dim=1)
    targets[torch.rand(targets.shape, generator=g) < missing] = IGNORE_INDEX
    return logits, targets


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("smoothing", "weighted"), [(0.0, False), (0.1, False), (0.0, True)])
def test_loss_and_gradient_equal_plain_torch(seed, smoothing, weighted):
    logits, targets = case(seed)
    weights = {name: torch.rand(k) + 0.5 for name, k in NUM_CLASSES.items()} if weighted else {}
    loss = MultiTaskLoss(
        NUM_CLASSES, class_weights=weights, label_smoothing=smoothing, task_weights={"b": 2.0, "c": 0.5}
    )
    ours, _ = loss(logits, targets)
    plain = 0
    for t, (name, part) in enumerate(PACKING.split(logits).items()):
        found = F.cross_entropy(
            part, targets[:, t], weight=weights.get(name), ignore_index=IGNORE_INDEX, label_smoothing=smoothing
        )
        plain += found * {"b": 2.0, "c": 0.5}.get(name, 1.0)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(*(torch.autograd.grad(total, logits, retain_graph=True)[0] for total in (ours, plain)))


def test_with_weights_and_smoothing_a_row_counts_by_its_own_class():
    logits, targets = case(6, missing=0)
    weights = torch.tensor([1.0, 10.0, 1.0, 1.0, 0.5])
    loss = MultiTaskLoss(NUM_CLASSES, class_weights={"a": weights}, label_smoothing=0.1)
    found = loss(logits, targets)[1][0]
    rows = F.cross_entropy(logits[:, :5], targets[:, 0], label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(found, (rows * weights[targets[:, 0]]).sum() / weights[targets[:, 0]].sum())


def test_in_evaluation_it_is_the_plain_cross_entropy_whatever_is_trained_on():
    logits, targets = case(0)
    loss = MultiTaskLoss(
        NUM_CLASSES,
        class_weights={"a": torch.tensor([9.0, 1, 1, 1, 1])},
        task_weights={"b": 7.0},
        label_smoothing=0.3,
    )
    total, parts = loss.eval()(logits, targets)
    want = [F.cross_entropy(part, targets[:, t]) for t, part in enumerate(PACKING.split(logits).values())]
    torch.testing.assert_close(parts, torch.stack(want))
    torch.testing.assert_close(total, sum(want))


def test_a_task_without_targets_adds_nothing_and_gives_no_nan():
    logits, targets = case(1)
    targets[:, 1] = IGNORE_INDEX
    total, parts = MultiTaskLoss(NUM_CLASSES)(logits, targets)
    assert parts[1] == 0 and torch.isfinite(total)
    (gradient,) = torch.autograd.grad(total, logits)
    assert torch.isfinite(gradient).all() and (gradient[:, 5:7] == 0).all() and (gradient[:, :5] != 0).any()


@pytest.mark.parametrize("learn", [False, True])
def test_missing_targets_do_not_change_the_loss_of_the_rest(learn):
    logits, targets = case(2, missing=0)
    loss = MultiTaskLoss(NUM_CLASSES, learn_task_weights=learn)
    with_missing = targets.clone()
    with_missing[10:] = IGNORE_INDEX
    torch.testing.assert_close(loss(logits, with_missing)[0], loss(logits[:10], targets[:10])[0])


def test_shares_of_two_targets_give_the_share_of_their_losses():
    """What MixUp relies on."""
    logits, targets = case(3, missing=0)
    loss = MultiTaskLoss(NUM_CLASSES, label_smoothing=0.1)
    other = targets.roll(1, 0)
    mixed = 0.3 * PACKING.shares(targets) + 0.7 * PACKING.shares(other)
    want = 0.3 * loss(logits, targets)[1] + 0.7 * loss(logits, other)[1]
    torch.testing.assert_close(loss(logits, mixed)[1], want)


def test_a_criterion_sees_only_the_rows_that_have_the_label():
    logits, targets = case(4)
    seen = []

    def criterion(chosen, known):
        seen.append((chosen.shape, known.tolist()))
        return 2 * F.cross_entropy(chosen, known)

    plain, mine = MultiTaskLoss(NUM_CLASSES), MultiTaskLoss(NUM_CLASSES, criterions={"b": criterion})
    torch.testing.assert_close(mine(logits, targets)[1], plain(logits, targets)[1] * torch.tensor([1.0, 2.0, 1.0]))
    known = targets[:, 1][targets[:, 1] != IGNORE_INDEX]
    assert seen == [((len(known), 2), known.tolist())]
    targets[:, 1] = IGNORE_INDEX
    assert mine(logits, targets)[1][1] == 0


def test_learnt_task_weights_are_kendalls_and_lower_the_weight_of_an_uncertain_task():
    logits, targets = case(5)
    loss = MultiTaskLoss(NUM_CLASSES, learn_task_weights=True)
    with torch.no_grad():
        loss.log_variances.copy_(torch.tensor([0.0, 1.0, -1.0]))
    total, parts = loss(logits, targets)
    want = sum(part * np.exp(-s) + s / 2 for part, s in zip(parts.tolist(), (0.0, 1.0, -1.0), strict=True))
    assert total.item() == pytest.approx(want, rel=1e-5)
    total.backward()
    assert loss.log_variances.grad[0] == pytest.approx(0.5 - parts[0].item(), rel=1e-5)


def test_class_weights_are_scikit_learns_up_to_their_scale():
    targets = np.repeat([0, 1, 2], [50, 5, 20])
    want = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=targets), dtype=torch.float32)
    counts = torch.bincount(torch.from_numpy(targets))
    torch.testing.assert_close(class_weights(counts, 1.0), want)
    torch.testing.assert_close(class_weights(counts, 0.0), torch.ones(3))
    half = class_weights(counts, 0.5)
    assert ((half * counts).sum() / counts.sum()).item() == pytest.approx(1)
    assert torch.isfinite(class_weights(torch.tensor([3, 0]), 1.0)).all()


def test_a_criterions_own_weights_move_with_the_loss():
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))
    loss = MultiTaskLoss({"a": 2, "b": 3}, criterions={"a": criterion}).to(torch.float64)
    assert criterion.weight.dtype == torch.float64
    assert loss.criterions["a"] is criterion
