"""One training in 1, 2 and 4 processes: the same batches, the same losses, the same counts."""

import json
from pathlib import Path

import numpy as np
import pytest
from kit.launching import done, torchrun
from torch.utils.data import DistributedSampler

pytestmark = pytest.mark.slow

STEPS = Path(__file__).with_name("steps.py")
NEAR_TIE = 1e-5  # between a row's two highest probabilities


def steps(data, num, out, backbone, *more):
    done(torchrun(num, STEPS, data, backbone, out, *more))
    return json.loads(out.read_text())


def each_once(seen, rows):
    return sorted(row for of_rank in seen for row in of_rank) == sorted(rows)


@pytest.mark.parametrize(
    ("backbone", "more"),
    [
        ("test_vit", ()),  # no norm over a batch
        ("test_vit", ("accumulate=2", "class_weights=0.5", "label_smoothing=0.1", "task_weights=uncertainty")),
        ("test_efficientnet", ("sync_batchnorm=true",)),
    ],
)
def test_losses_and_counts_are_those_of_one_process(dataset, tmp_path, backbone, more):
    found = {num: steps(dataset.folder, num, tmp_path / f"{num}.json", backbone, *more) for num in (1, 2, 4)}
    one = found[1]
    assert len(one["losses"]) >= 5 and each_once(one["seen"], one["rows"])
    for num in (2, 4):
        many = found[num]
        assert len(many["seen"]) == num and each_once(many["seen"], one["rows"])
        assert many["losses"] == pytest.approx(one["losses"], rel=1e-4)
        assert many["train_loss"] == pytest.approx(one["train_loss"], rel=1e-4)
        assert many["val"]["loss"] == pytest.approx(one["val"]["loss"], rel=1e-4)
        assert many["val"]["targets"] == one["val"]["targets"]
        for name, counts in one["val"]["confusion"].items():
            top = np.sort(np.asarray(one["val"]["probs"][name]), axis=1)
            num_ties = int((top[:, -1] - top[:, -2] < NEAR_TIE).sum())
            moved = np.abs(np.asarray(counts) - np.asarray(many["val"]["confusion"][name])).sum()
            assert moved <= 2 * num_ties, name


def test_a_sampler_that_pads_is_noticed():
    rows = list(range(10))
    padded = [list(DistributedSampler(rows, num_replicas=4, rank=rank, shuffle=False)) for rank in range(4)]
    assert not each_once(padded, rows)
