import pytest
import timm
import torch
from torch import nn

from fmtl.evaluation import gradcam
from fmtl.model import backbones
from fmtl.model.execution import Execution
from fmtl.model.network import MultiTaskNet

PLACES = {"vit_b_32": 7, "deit_tiny_patch16_224": 14, "swin_t": 7, "resnet18": 3}  # per side, by their papers
CPU = torch.device("cpu")


class Channels(nn.Module):
    """Features are the means of the image's channels; the last spatial layer is the image itself."""

    def __init__(self):
        super().__init__()
        self.last = nn.ReLU()

    def forward(self, images):
        return self.last(images).mean((2, 3))


def net_of(weights):
    net = MultiTaskNet(Channels(), 3, {"a": 2, "b": 2})
    with torch.no_grad():
        net.heads.weight.copy_(torch.tensor(weights))
        net.heads.bias.zero_()
    return net


def test_a_map_is_the_weighted_sum_of_channels_without_what_speaks_against_it():
    net = net_of([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, -1.0]])
    images = torch.rand(2, 3, 5, 5)
    maps = gradcam.heat_maps(net, images, {"a": torch.tensor([0, 0]), "b": torch.tensor([0, 1])})
    expected = (images[:, 0] - images[:, 1]).relu()
    torch.testing.assert_close(maps["a"], expected / expected.amax((1, 2), keepdim=True))
    torch.testing.assert_close(maps["b"][0], images[0, 2] / images[0, 2].max())
    assert maps["b"][1].abs().sum() == 0  # nothing speaks for this class


@pytest.mark.parametrize(
    "backbone",
    ["resnet18", "efficientnet_b0", "convnext_atto", "vit_b_32", "swin_t", "tf_efficientnet_lite0",
     "deit_tiny_patch16_224", "densenet121", "mobilenet_v3_small"],
)  # fmt: skip
@pytest.mark.parametrize("frozen", [False, True])
def test_every_kind_of_backbone_has_maps_with_places(backbone, frozen):
    torch.manual_seed(0)
    px = 224 if backbone.startswith(("vit", "swin", "deit")) else 96
    net = backbones.build(backbone, {"a": 3, "b": 4}, weights="none", px=px).run_on(CPU, Execution("fp32"))
    net.freeze_backbone(frozen)
    images = torch.randn(2, 3, px, px)
    maps = gradcam.heat_maps(net, images, {"a": torch.tensor([0, 1]), "b": torch.tensor([3, 2])})
    for found in maps.values():
        assert found.ndim == 3 and len(found) == 2 and found.shape[1] == found.shape[2] >= 3
        assert found.shape[1] == PLACES.get(backbone, found.shape[1])
        assert found.isfinite().all() and found.min() >= 0 and found.max() <= 1
    assert sum(found.std() > 0 for found in maps.values()) >= 1
    assert all(p.grad is None for p in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


def test_the_keys_of_an_attention_are_no_places():
    """64 patches and 64 channels per head: keys (N, heads, 64, 64), the last that every patch has a part in."""
    vit = timm.models.VisionTransformer(
        img_size=128, patch_size=16, embed_dim=128, depth=1, num_heads=2, class_token=False, global_pool="map",
        num_classes=0,
    )  # fmt: skip
    net = MultiTaskNet(vit, 128, {"a": 2}).run_on(CPU, Execution("fp32"))
    found = gradcam.heat_maps(net, torch.randn(2, 3, 128, 128), {"a": torch.tensor([0, 1])})
    assert found["a"].shape == (2, 8, 8)


def test_a_network_that_only_looks_at_one_place_is_seen_to():
    """The heads read channel 0, which is bright in one corner alone."""
    images = torch.zeros(1, 3, 8, 8)
    images[0, 0, 0:2, 6:8] = 1.0
    net = net_of([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    found = gradcam.heat_maps(net, images, {"a": torch.tensor([0])})["a"][0]
    assert found[0:2, 6:8].min() == 1 and found.sum() == 4


def test_a_network_without_places_says_so():
    flat = MultiTaskNet(nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5)), 5, {"a": 2})
    with pytest.raises(gradcam.NoSpatialLayer):
        gradcam.heat_maps(flat, torch.randn(1, 3, 4, 4), {"a": torch.tensor([0])})
