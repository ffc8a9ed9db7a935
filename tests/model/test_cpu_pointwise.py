"""Strided convolutions of single pixels: torch's numbers, also where torch's own kernel would end the process."""

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn
from torch.nn import functional as F

from fmtl.model.cpu import pointwise


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "stride", "px"), [(nn.Conv2d, 2, 224), (nn.Conv2d, (2, 3), 61), (Conv2dSame, 2, 63)])
def test_its_numbers_are_those_of_a_convolution(kind, stride, px, bias):
    torch.manual_seed(0)
    images = torch.rand(2, 3, px, px).contiguous(memory_format=torch.channels_last).requires_grad_()
    module = kind(3, 48, 1, stride=stride, bias=bias)
    pointwise.make_safe(module)
    for _ in range(3):  # what is written beyond memory shows sooner or later
        found = module(images)
        found.square().sum().backward()
    plain = images.detach().double().contiguous().requires_grad_()
    weight = module.weight.detach().double().requires_grad_()
    want = F.conv2d(plain, weight, module.bias.detach().double() if bias else None, stride=stride)
    (3 * want.square().sum()).backward()
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(found.double(), want, **close)
    torch.testing.assert_close(images.grad.double(), plain.grad, **close)
    torch.testing.assert_close(module.weight.grad.double(), weight.grad, **close)


def test_other_convolutions_are_left_to_torch_and_these_are_given_back():
    modules = nn.ModuleList(
        [nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, 2), nn.Conv2d(16, 8, 1, 2), nn.Conv2d(3, 8, 1, 2, 1)]
    )
    pointwise.make_safe(modules)
    assert all("forward" not in vars(module) for module in modules)
    own = nn.Conv2d(3, 8, 1, 2)
    pointwise.make_safe(own)
    assert "forward" in vars(own)
    pointwise.make_safe(own, enabled=False)
    assert "forward" not in vars(own)
