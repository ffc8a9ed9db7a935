"""Evaluation where memory is short: in parts, to the same result."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.loading.batches import Batches
from fmtl.loading.sources import Photos
from fmtl.model import backbones
from fmtl.tasks import IGNORE_INDEX
from fmtl.training.criterion import MultiTaskLoss
from fmtl.training.evaluating import evaluate

PREPROCESS = Preprocess(64, "pad", "#ffffff", 32, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def net(dataset):
    torch.manual_seed(0)
    return backbones.build("test_efficientnet", dataset.tasks.num_classes, weights="none", px=32)


def short_of_memory(net, most):
    """As a device that has room for so many images."""
    whole, sizes = net.logits, []

    def logits(images):
        sizes.append(len(images))
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(images)

    net.logits = logits
    return sizes


def evaluated(net, dataset, loss=None):
    photos = Photos(dataset, preprocess=PREPROCESS)
    batches = Batches(photos, dataset.targets, dataset.rows("val"), tasks=dataset.tasks, batch_size=16)
    return evaluate(net, batches, loss=loss or MultiTaskLoss(net.num_classes), device=torch.device("cpu"))


def test_halves_come_to_the_same(net, dataset):
    want = evaluated(net, dataset)
    sizes = short_of_memory(net, 5)
    found = evaluated(net, dataset)
    assert sizes.count(16) == 1 and sizes.count(8) == 1 and 4 in sizes  # found out once
    assert found.loss == pytest.approx(want.loss, rel=1e-5)
    for name in net.num_classes:
        assert np.allclose(found.probs[name], want.probs[name], atol=1e-5)
        assert (found.targets[name] == want.targets[name]).all()


def test_the_refined_loss_is_what_one_temperature_per_task_leaves(net, dataset):
    for head in net.heads.parameters():
        head.data *= 30  # sure of itself, and wrong
    found = evaluated(net, dataset)
    want = 0.0
    for name, probs in found.probs.items():
        known = found.targets[name] != IGNORE_INDEX
        logits, targets = (
            torch.from_numpy(probs[known]).log().clamp(min=-87),
            torch.from_numpy(found.targets[name][known]),
        )
        losses = [cross_entropy(logits / t, targets).item() for t in np.geomspace(0.1, 10, 2000)]
        want += min(losses)
    assert found.refined_loss == pytest.approx(want, rel=1e-3) and found.refined_loss < 0.9 * found.loss


def test_a_criterion_of_ones_own_counts_as_it_is(net, dataset):
    name = next(iter(net.num_classes))
    loss = MultiTaskLoss(net.num_classes, criterions={name: lambda logits, targets: logits.square().mean() + 7})
    found, plain = evaluated(net, dataset, loss), evaluated(net, dataset)
    assert name not in found.temperatures
    rest = plain.refined_loss - plain.temperatures[name].loss
    assert found.refined_loss == pytest.approx(found.task_losses[name] + rest, rel=1e-5)


def test_where_one_image_is_too_much_it_is_said(net, dataset):
    short_of_memory(net, 0)
    with pytest.raises(torch.OutOfMemoryError):
        evaluated(net, dataset)
