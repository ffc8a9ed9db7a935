import copy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from fmtl.model import backbones
from fmtl.model.cpu import depthwise
from fmtl.model.execution import Execution

CPU = torch.device("cpu")


def gradients(conv, images, *, bf16=False):
    """The output and all gradients, of the images first."""
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = conv(images)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)  # a gradient of its own everywhere
    return out.detach(), *torch.autograd.grad(out, [images, *conv.parameters()], weights)


def fast(conv):
    copied = copy.deepcopy(conv)
    depthwise.speed_up(copied)
    assert "forward" in vars(copied)
    return copied


@pytest.mark.parametrize("kernel", [1, 2, 3, (5, 3), (3, 5), 4, 5, 7, 9, 11])
@pytest.mark.parametrize("stride", [1, 2, (1, 3)])
@pytest.mark.parametrize("size", [(4, 5), (16, 11)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_output_and_gradients_are_those_of_torch(kernel, stride, size, layout):
    torch.manual_seed(0)
    rows, columns = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    images = torch.randn(3, 24, *size, dtype=torch.float64).contiguous(memory_format=layout)
    for padding in {(rows // 2, columns // 2), (rows // 2 + 2, columns // 2 + 1), (0, 0)}:
        if rows > size[0] + 2 * padding[0] or columns > size[1] + 2 * padding[1]:
            continue
        conv = nn.Conv2d(24, 24, kernel, stride, padding, groups=24, bias=padding != (0, 0), dtype=torch.float64)
        for found, expected in zip(gradients(fast(conv), images), gradients(conv, images), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [15, 16])
def test_padding_like_tensorflow_s_is_kept(kernel, stride, size):
    torch.manual_seed(0)
    conv = Conv2dSame(16, 16, kernel, stride, groups=16)
    images = torch.randn(2, 16, size, size)
    for found, expected in zip(gradients(fast(conv), images), gradients(conv, images), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)])
def test_under_autocast_it_computes_in_bf16_as_torch_does(kernel, stride):
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 32, kernel, stride, kernel // 2, groups=32)
    images = torch.randn(4, 32, 20, 20)
    exact = gradients(conv, images)
    found, torchs = gradients(fast(conv), images, bf16=True), gradients(conv, images, bf16=True)
    for ours, theirs, true in zip(found, torchs, exact, strict=True):
        assert ours.dtype == theirs.dtype
        error = [float((value.float() - true).norm() / true.norm()) for value in (ours, theirs)]
        assert error[0] <= max(1.5 * error[1], 2**-8)


def test_only_what_is_asked_for_has_a_gradient():
    conv = fast(nn.Conv2d(8, 8, 5, padding=2, groups=8))
    conv.weight.requires_grad_(False)
    images = torch.randn(1, 8, 9, 9, requires_grad=True)
    conv(images).sum().backward()
    assert images.grad is not None and conv.bias.grad is not None and conv.weight.grad is None
    with torch.no_grad():
        assert not conv(images).requires_grad


def test_other_convolutions_are_left_alone():
    others = nn.ModuleList([
        nn.Conv2d(8, 8, 3), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(1, 1, 3),
        nn.Conv2d(8, 8, 3, groups=8, dilation=2), nn.Conv2d(8, 8, 3, groups=8, padding_mode="circular", padding=1),
        nn.Conv2d(8, 8, 3, groups=8, padding="same"),
    ])  # fmt: skip
    depthwise.speed_up(others)
    assert not any("forward" in vars(conv) for conv in others)


@pytest.mark.skipif(not depthwise.HERE, reason="another processor")
@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "convnext_atto"])
def test_a_network_has_the_same_gradients_with_and_without(backbone):
    torch.manual_seed(0)
    net = backbones.build(backbone, {"a": 3, "b": 5}, weights="none", px=64).eval()  # no dropout
    images = torch.randn(2, 3, 64, 64)

    def found():
        net.zero_grad()
        net.logits(images).square().sum().backward()
        return {name: p.grad.clone() for name, p in net.named_parameters()}

    net.run_on(CPU, Execution("fp32"))
    with_fast = found()
    copied = copy.deepcopy(net)
    depthwise.speed_up(net.backbone, enabled=False)
    assert not any("forward" in vars(module) for module in net.modules())
    for name, expected in found().items():
        torch.testing.assert_close(with_fast[name], expected, atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert copied.logits(images).abs().sum() > 0  # a copy reads weights of its own
