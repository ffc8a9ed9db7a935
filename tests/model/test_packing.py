import torch
import torch.nn.functional as F

from fmtl.model.packing import Packing
from fmtl.tasks import IGNORE_INDEX

PACKING = Packing({"a": 3, "b": 1, "c": 2})


def test_padding_puts_each_tasks_classes_first_and_minus_infinity_behind():
    logits = torch.randn(4, 6)
    padded = PACKING.pad(logits)
    assert padded.shape == (4, 3, 3)
    for t, part in enumerate(PACKING.split(logits).values()):
        size = part.shape[1]
        assert torch.equal(padded[:, t, :size], part)
        assert (padded[:, t, size:] == float("-inf")).all()


def test_the_gradient_of_padding_is_that_of_taking_the_parts():
    logits = torch.randn(4, 6, requires_grad=True)
    PACKING.pad(logits)[:, [0, 2], :2].sum().backward()
    assert torch.equal(logits.grad, torch.tensor([[1.0, 1, 0, 0, 1, 1]]).expand(4, 6))


def test_one_hot_is_torchs_and_zero_where_unknown():
    targets = PACKING.stack(
        {"c": torch.tensor([1, 0]), "a": torch.tensor([2, IGNORE_INDEX]), "b": torch.zeros(2).long()}
    )
    assert targets.tolist() == [[2, 0, 1], [IGNORE_INDEX, 0, 0]]
    hot, _ = PACKING.masses(PACKING.shares(targets))
    assert torch.equal(hot[0], F.one_hot(targets[0], 3).float())
    assert (hot[1, 0] == 0).all()


def test_it_adds_nothing_to_a_networks_state():
    assert PACKING.state_dict() == {}
