import numpy as np
import pytest
import torch

from fmtl.errors import DataError
from fmtl.loading.checked import Checked
from fmtl.tasks import IGNORE_INDEX, make_tasks

TASKS = make_tasks({"colour": ["red", "green", "blue"], "size": ["small", "large"]})
IMAGES = torch.rand(4, 3, 8, 8)


def batch(**changes):
    targets = {"colour": torch.tensor([0, 1, 2, IGNORE_INDEX]), "size": torch.tensor([0, 1, 1, 0]), "more": None}
    return IMAGES, targets | changes


def test_a_batch_deep_in_the_loader_is_named_with_its_image():
    loader = Checked("val", [batch(), batch(), batch(size=torch.tensor([0, 1, -1, 0]))], TASKS)
    given = iter(loader)
    assert len(loader) == 3 and next(given) and next(given)
    with pytest.raises(DataError, match="val_loader, batch 3, image 3: size: target -1, expected 0 to 1, or -100"):
        next(given)


@pytest.mark.parametrize(
    "colours",
    [torch.tensor([0, 1, 2, 2], dtype=dtype) for dtype in (torch.int8, torch.int16, torch.int32, torch.uint8)]
    + [[0, 1, 2, 2], np.array([0, 1, 2, 2], np.int16)],
    ids=str,
)
@pytest.mark.parametrize("images", [IMAGES.double(), IMAGES.half(), IMAGES.numpy()], ids=["double", "half", "numpy"])
def test_every_kind_of_number_becomes_what_training_takes(colours, images):
    ((given, targets),) = Checked("train", [(images, batch(colour=colours)[1])], TASKS)
    assert given.dtype == torch.float32 and given.shape == IMAGES.shape
    assert list(targets) == ["colour", "size"]
    assert targets["colour"].dtype == torch.int64 and targets["colour"].tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([IMAGES], "expected a pair .images, dict of targets., got list of 1"),
        (([[0.0]], {}), "expected a tensor of images, got list"),
        ((IMAGES[0], {}), "expected images"),
        (batch(colour=[torch.tensor([0, 1, 2, 2])]), "colour: expected .4,. class indices, got list"),
        (batch(colour=["red", "red", "red", "red"]), "colour: expected .4,. class indices, got list"),
        (batch(colour=torch.zeros(4)), "colour: expected .4,. class indices, got .4,. torch.float32"),
        (batch(colour=torch.zeros(3, dtype=torch.int64)), "colour: expected .4,. class indices, got .3,."),
    ],
)
def test_what_can_t_be_trained_on_is_named(given, message):
    with pytest.raises(DataError, match=f"test_loader, batch 1: {message}"):
        list(Checked("test", [given], TASKS))


def test_a_loader_that_counts_epochs_is_told_them():
    class Counting(list):
        def set_epoch(self, epoch):
            self.epoch = epoch

    inner = Counting([batch()])
    Checked("train", inner, TASKS).set_epoch(5)
    Checked("train", [batch()], TASKS).set_epoch(5)
    assert inner.epoch == 5


@pytest.mark.parametrize(("task", "num_classes"), [("colour", 3), ("size", 2)])
def test_the_first_target_beyond_the_classes_is_refused_and_the_last_one_within_is_not(task, num_classes):
    wrong, right = (torch.full((4,), target) for target in (num_classes, num_classes - 1))
    with pytest.raises(DataError, match=f"image 1: {task}: target {num_classes}, expected 0 to {num_classes - 1}"):
        list(Checked("train", [batch(**{task: wrong})], TASKS))
    ((_, targets),) = Checked("train", [batch(**{task: right})], TASKS)
    assert targets[task].tolist() == [num_classes - 1] * 4


class Once:
    """A loader that is its own iterator."""

    def __init__(self, batches):
        self._batches = iter(batches)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._batches)


class OnceSized(Once):
    def __len__(self):
        return 2


def test_the_look_at_a_loader_that_is_its_own_iterator_costs_no_batch():
    loader = Checked("train", OnceSized([batch(), batch()]), TASKS)
    assert len(list(loader)) == 2
    with pytest.raises(DataError, match="train_loader: it gives no batch any more: it can be gone through only once"):
        list(loader)


def test_a_loader_without_a_length_is_counted_unless_that_would_use_it_up():
    class Stream:
        def __iter__(self):
            yield from [batch(), batch(), batch()]

    said = []
    assert len(Checked("train", Stream(), TASKS, said.append)) == 3
    assert said == ["train_loader: it has no length; counting its batches, which takes one pass"]
    with pytest.raises(DataError, match="val_loader: it has no length and can be gone through only once"):
        Checked("val", Once([batch()]), TASKS)


def test_what_is_odd_is_said_once_and_trained_on():
    class Wrong(list):
        def __len__(self):
            return 7

    empty = (IMAGES[:0], {name: torch.zeros(0, dtype=torch.int64) for name in ("colour", "size")})
    bright = (IMAGES * 255, batch()[1])
    said = []
    loader = Checked("train", Wrong([empty, bright, empty, batch()]), TASKS, said.append)
    assert loader.shape == (4, 3, 8, 8)
    assert [len(list(loader)) for _ in range(2)] == [2, 2]
    told = [line.removeprefix("warning: train_loader: ") for line in said]
    assert told[0].startswith(f"its pixels go up to {IMAGES.max().item() * 255:.0f}, and networks expect")
    assert told[1] == "a batch without an image is passed over"
    assert told[2].startswith("it says that it has 7 batches and gives 2;") and len(told) == 3


def test_a_batch_of_another_size_is_remembered_in_words():
    loader = Checked("val", [batch(), (torch.rand(4, 3, 9, 8), batch()[1])], TASKS)
    assert len(list(loader)) == 2
    assert loader.other_shape == "val_loader, batch 2: images of 9 x 8, the first were 8 x 8"
