"""Heads that are taken over from another network, by the names of their classes."""

import pytest
import torch

from fmtl.model import heads
from fmtl.model.backbones import build
from fmtl.tasks import make_tasks


def net_of(tasks, seed):
    torch.manual_seed(seed)
    return build("test_efficientnet", tasks.num_classes, weights="none", px=32).eval()


def test_classes_of_the_same_name_answer_as_before_in_whatever_order_they_come():
    old = make_tasks({"size": ["S", "M"], "colour": ["red", "blue", "green"], "gone": ["a", "b"]})
    new = make_tasks({"colour": ["green", "teal", "red"], "fit": ["slim", "wide"], "size": ["M", "S"]})
    source, net = net_of(old, 0), net_of(new, 1)
    net.backbone.load_state_dict(source.backbone.state_dict())
    images = torch.rand(4, 3, 32, 32)
    before = net(images)
    told = heads.take_over(net, new, source, old)
    was, found = source(images), net(images)
    for task in new:
        for column, name in enumerate(task.classes):
            theirs = {t.name: t.classes for t in old}.get(task.name, ())
            want = was[task.name][:, theirs.index(name)] if name in theirs else before[task.name][:, column]
            torch.testing.assert_close(found[task.name][:, column], want)
    assert told == [
        "colour: 2 of 3 classes taken over; new: teal; gone: blue",
        "fit: new",
        "size: 2 of 2 classes taken over",
        "gone: not learnt any more",
    ]


@pytest.mark.parametrize(("num", "shown"), [(8, "; new: 0, 1, 2, 3, 4, 5, 6, 7"), (11, "6, 7 and 3 more")])
def test_long_lists_are_cut(num, shown):
    old, new = make_tasks({"a": ["x", "y"]}), make_tasks({"a": ["x", *map(str, range(num))]})
    (told,) = heads.take_over(net_of(new, 1), new, net_of(old, 0), old)
    assert told.startswith(f"a: 1 of {num + 1} classes taken over") and told.endswith(shown + "; gone: y")
