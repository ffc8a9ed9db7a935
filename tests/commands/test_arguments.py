"""Arguments in the kinds that notebooks have them."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.preprocessing import LabelEncoder
from torch import nn
from torchvision.transforms import Compose

from fmtl.commands.bringing import arguments
from fmtl.errors import UsageError

NUMBERS = {"colour": 3}


@pytest.mark.parametrize(
    "given",
    [{"colour": 3}, {"colour": np.int64(3)}, {"colour": 3.0}, pd.Series({"colour": 3}),
     pd.DataFrame({"colour": ["a", "b", "c", "a"]}).nunique()],
)  # fmt: skip
def test_numbers_of_classes(given):
    assert arguments.num_classes_of(given) == (NUMBERS, {})


def test_labels_may_stand_in_the_place_of_their_number():
    assert arguments.num_classes_of({"colour": ["a", "b", "c"]}) == (NUMBERS, {"colour": ["a", "b", "c"]})


@pytest.mark.parametrize(
    ("given", "told"),
    [({}, "got none"), (None, "got NoneType"), ([3], "got list"), ({0: 3}, "got 0"), ({"colour": "3"}, "got '3'"),
     ({"colour": 0}, "at least one"), ({"colour": 2.5}, "got 2.5")],
)  # fmt: skip
def test_wrong_numbers_of_classes_are_named(given, told):
    with pytest.raises(UsageError, match=f"num_classes_dict: .*{told}"):
        arguments.num_classes_of(given)


@pytest.mark.parametrize(
    "labels",
    [["red", "blue", "green"], np.array(["red", "blue", "green"]), pd.Series(["red", "blue", "green"]),
     {0: "red", 2: "green", 1: "blue"}, {"0": "red", "1": "blue", "2": "green"}, {"green": 2, "blue": 1, "red": 0}],
)  # fmt: skip
def test_labels_by_index_however_they_are_written(labels):
    assert arguments.labels_of({"colour": labels}, NUMBERS) == {"colour": ["red", "blue", "green"]}


def test_labels_of_an_encoder_and_numbers_where_there_are_none():
    encoder = LabelEncoder().fit(["red", "blue", "green"])
    assert arguments.labels_of({"colour": encoder}, NUMBERS) == {"colour": ["blue", "green", "red"]}
    assert arguments.labels_of(None, NUMBERS) == {"colour": ["0", "1", "2"]}


@pytest.mark.parametrize(
    ("given", "told"),
    [([["a", "b", "c"]], "got list"), ({"colour": {"a", "b", "c"}}, "got set"), ({"colour": "abc"}, "got str"),
     ({"colour": {0: "a", 1: "b", 5: "c"}}, "from 0 to 2"), ({"colour": {0: 1, 1: 2, 2: 0}}, "could be indices"),
     ({"size": ["a"]}, "'size' is not in num_classes_dict"), ({"colour": 3}, "expected a list")],
)  # fmt: skip
def test_labels_that_could_mean_something_else_are_named(given, told):
    with pytest.raises(UsageError, match=f"classes: .*{told}"):
        arguments.labels_of(given, NUMBERS)


def test_names_of_tasks():
    assert arguments.names_of(None, NUMBERS) == arguments.names_of("colour", NUMBERS) == ["colour"]
    assert arguments.names_of(pd.Index(["colour"]), NUMBERS) == ["colour"]
    for given, told in (([], "at least one"), (3, "expected a list"), (["colour", "colour"], "named twice")):
        with pytest.raises(UsageError, match=f"label_cols: .*{told}"):
            arguments.names_of(given, NUMBERS)


@pytest.mark.parametrize(
    "given",
    [nn.CrossEntropyLoss(), nn.CrossEntropyLoss, {"colour": nn.CrossEntropyLoss}, nn.functional.cross_entropy,
     nn.ModuleDict({"colour": nn.CrossEntropyLoss()}),
     {"colour": nn.CrossEntropyLoss(weight=torch.tensor(np.ones(3)))}],
)  # fmt: skip
def test_losses_for_one_or_for_all(given):
    found = arguments.criterions_of(given, ["colour"], NUMBERS)
    loss = found["colour"](torch.zeros(2, 3), torch.tensor([0, 1]))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(np.log(3))


def test_the_users_own_loss_is_left_as_it_is():
    own = nn.CrossEntropyLoss(weight=torch.tensor(np.ones(3)))
    arguments.criterions_of({"colour": own}, ["colour"], NUMBERS)
    assert own.weight.dtype == torch.float64
    assert arguments.criterions_of({"colour": None}, ["colour"], NUMBERS) == {}
    for given in ([nn.CrossEntropyLoss()], {"colour": "cross-entropy"}):
        with pytest.raises(UsageError, match="criterions"):
            arguments.criterions_of(given, ["colour"], NUMBERS)


def test_devices_and_preprocess():
    found = [arguments.device_of(given) for given in (None, 1, torch.device("cpu"), "cuda:0")]
    assert found == ["auto", "cuda:1", "cpu", "cuda:0"]
    with pytest.raises(UsageError, match="preprocess: expected a fmtl.*got Compose"):
        arguments.preprocess_of(Compose([]))
