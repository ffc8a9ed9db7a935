import json

import pytest
import torch
from torch import nn

from fmtl.errors import EnvironmentFault
from fmtl.model import autotune
from fmtl.model.execution import Execution
from fmtl.model.network import MultiTaskNet
from fmtl.storage.cache import cache_dir

CPU = torch.device("cpu")
ANY = autotune.candidates("auto", None, False)


class SlowIn(nn.Module):
    """A backbone that is slow in one precision, by work that grows with the images."""

    def __init__(self, dtype):
        super().__init__()
        self.conv, self.slow, self.seen = nn.Conv2d(3, 4, 3), dtype, []

    def forward(self, images):
        out = self.conv(images)
        layout = "last" if images.is_contiguous(memory_format=torch.channels_last) else "first"
        self.seen.append((out.dtype, layout, len(images)))
        if out.dtype == self.slow:
            for _ in range(40):
                out = out + torch.randn_like(out).tanh().float().sum() * 0
        return out.mean((2, 3))


def net_of(backbone):
    torch.manual_seed(0)
    return MultiTaskNet(backbone, 4, {"a": 3})


@pytest.mark.parametrize(("slow", "fast"), [(torch.float32, "bf16"), (torch.bfloat16, "fp32")])
def test_the_slow_precision_is_not_chosen(slow, fast):
    net = net_of(SlowIn(slow))
    found = autotune.choose_execution(net, CPU, ANY, backbone=f"slow in {slow}", px=64, batch_size=16)
    assert found.precision == fast


def test_what_was_found_is_remembered_and_a_damaged_memory_is_probed_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = {"backbone": "b", "px": 32, "batch_size": 8}
    found = autotune.choose_execution(net_of(SlowIn(torch.float32)), CPU, ANY, **asked)
    assert found.precision == "bf16"
    other = net_of(SlowIn(torch.bfloat16))  # would be faster in fp32: only the memory says bf16
    assert autotune.choose_execution(other, CPU, ANY, **asked) == found
    assert autotune.choose_execution(other, CPU, ANY, **asked | {"px": 48}).precision == "fp32"
    for file in (cache_dir() / "probe").iterdir():
        assert json.loads(file.read_text())["of"]
        file.write_text("{")
    assert autotune.choose_execution(other, CPU, ANY, **asked).precision == "fp32"


def test_what_the_user_chose_is_not_probed():
    backbone = SlowIn(torch.float32)
    given = {"backbone": "x", "px": 32, "batch_size": 8}
    found = autotune.choose_execution(net_of(backbone), CPU, autotune.candidates("fp32", False, True), **given)
    assert found == Execution("fp32", channels_last=False, compile=True)
    assert backbone.seen == []
    found = autotune.choose_execution(
        net_of(SlowIn(torch.bfloat16)), CPU, autotune.candidates("bf16", None, False), **given
    )
    assert found.precision == "bf16"


def test_probing_leaves_the_network_and_the_random_numbers_as_they_were():
    net = net_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    before, drawn = {k: v.clone() for k, v in net.state_dict().items()}, torch.random.get_rng_state()
    autotune.choose_execution(net, CPU, ANY, backbone="y", px=32, batch_size=8)
    assert autotune.choose_batch_size(net, CPU, Execution(), px=32, num_images=400) >= 8
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("execution", [Execution(p, c) for p in ("fp32", "bf16") for c in (True, False)])
def test_a_network_runs_as_it_was_told_and_answers_in_fp32(execution):
    backbone = SlowIn(None)
    net = net_of(backbone).run_on(CPU, execution)
    logits = net.logits(torch.randn(2, 3, 16, 16))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[execution.precision]
    assert backbone.seen == [(dtype, "last" if execution.channels_last else "first", 2)]
    assert logits.dtype == torch.float32


def test_a_batch_is_doubled_while_that_is_worth_it_and_never_beyond_an_eighth_of_the_images(monkeypatch):
    net = net_of(SlowIn(None))
    rates = {8: 100, 16: 150, 32: 180, 64: 181, 128: 400}
    monkeypatch.setattr(autotune, "_rate", lambda step, size, device: rates[size])
    assert autotune.choose_batch_size(net, CPU, Execution(), px=32, num_images=10_000) == 32
    assert autotune.choose_batch_size(net, CPU, Execution(), px=32, num_images=130) == 16
    rates[16] = 0  # out of memory
    assert autotune.choose_batch_size(net, CPU, Execution(), px=32, num_images=10_000) == 8


class Small(nn.Module):
    """A backbone whose device holds so many images and no more; CUDA raises the same."""

    def __init__(self, holds):
        super().__init__()
        self.conv, self.holds = nn.Conv2d(3, 4, 3), holds

    def forward(self, images):
        if len(images) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.conv(images).mean((2, 3))


def test_where_a_batch_does_not_fit_a_smaller_one_decides_and_is_found():
    given = {"px": 16, "batch_size": 4096}
    found = autotune.choose_execution(net_of(Small(6)), CPU, ANY, backbone="holds 6", **given)
    assert found.precision in ("fp32", "bf16")
    assert autotune.choose_batch_size(net_of(Small(6)), CPU, found, px=16, num_images=400) == 4
    assert autotune.choose_batch_size(net_of(Small(20)), CPU, found, px=16, num_images=400) in (8, 16)
    with pytest.raises(EnvironmentFault, match="2 images of 16 px.*lower px"):
        autotune.choose_execution(net_of(Small(1)), CPU, ANY, backbone="holds 1", **given)


@pytest.mark.parametrize("first", [True, False])
def test_what_the_first_call_of_all_pays_is_not_counted_against_who_makes_it(monkeypatch, first):
    """As on a device that is set up by the first kernel that it is given."""
    is_cold, real = True, autotune._step

    def step(net, device, px):
        run = real(net, device, px)

        def once_cold(num_images):
            nonlocal is_cold
            seconds, is_cold = run(num_images) + 5 * is_cold, False
            return seconds

        return once_cold

    monkeypatch.setattr(autotune, "_step", step)
    ways = [Execution("fp32", channels_last=False), Execution("bf16", channels_last=False)]
    ways = ways if first else ways[::-1]
    found = autotune.fastest(net_of(SlowIn(torch.bfloat16)), CPU, ways, px=64, batch_size=16)
    assert ways[found].precision == "fp32"
