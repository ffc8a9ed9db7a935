import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fmtl.losses import masked_cross_entropy, task_losses, total_loss
from fmtl.tasks import IGNORE_INDEX


def case(seed, share_missing=0.3):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(24, 5, generator=g, requires_grad=True)
    targets = torch.randint(0, 5, (24,), generator=g)
    targets[torch.rand(24, generator=g) < share_missing] = IGNORE_INDEX
    return logits, targets


@pytest.mark.parametrize("seed", range(10))
def test_the_masked_loss_and_its_gradient_equal_plain_torch_on_the_labelled_rows(seed):
    logits, targets = case(seed)
    known = targets != IGNORE_INDEX
    ours = masked_cross_entropy(logits, targets)
    plain = F.cross_entropy(logits[known], targets[known])
    torch.testing.assert_close(ours, plain)
    (grad,) = torch.autograd.grad(ours, logits)
    (want,) = torch.autograd.grad(plain, logits)
    torch.testing.assert_close(grad, want)
    assert (grad[~known] == 0).all()


def test_missing_targets_do_not_change_the_loss():
    logits, targets = case(0)
    more_logits = torch.cat([logits, torch.randn(9, 5)])
    more_targets = torch.cat([targets, torch.full((9,), IGNORE_INDEX)])
    torch.testing.assert_close(masked_cross_entropy(more_logits, more_targets), masked_cross_entropy(logits, targets))


@pytest.mark.parametrize("criterions", [{}, {"a": nn.CrossEntropyLoss()}])
def test_a_task_without_targets_adds_nothing_and_gives_no_nan(criterions):
    logits, _ = case(1)
    none = torch.full((24,), IGNORE_INDEX)
    loss = total_loss(task_losses({"a": logits}, {"a": none}, criterions))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_a_criterion_sees_only_the_labelled_rows():
    logits, targets = case(2)
    seen = []

    def criterion(chosen, chosen_targets):
        seen.append(chosen_targets)
        return F.cross_entropy(chosen, chosen_targets, label_smoothing=0.1)

    losses = task_losses({"a": logits, "b": logits}, {"a": targets, "b": targets}, {"a": criterion})
    known = targets[targets != IGNORE_INDEX]
    assert (seen[0] == known).all()
    torch.testing.assert_close(losses["b"], F.cross_entropy(logits[targets != IGNORE_INDEX], known))
    torch.testing.assert_close(total_loss(losses), losses["a"] + losses["b"])
