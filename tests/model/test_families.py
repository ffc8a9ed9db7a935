"""Backbones of many timm families: built, trained a step, saved and loaded again, to the same features."""

import pytest
import timm
import torch

from fmtl.model import backbones
from fmtl.model.execution import Execution
from fmtl.tasks import make_tasks
from fmtl.training import checkpoints

FEW = ["levit_128s", "repvit_m0_9", "test_efficientnet", "test_vit"]
MANY = [
    "beit_base_patch16_224", "cait_xxs24_224", "coat_tiny", "convit_tiny", "convnext_atto", "convnextv2_atto",
    "cs3darknet_s", "cspresnet50", "deit3_small_patch16_224", "deit_tiny_distilled_patch16_224", "densenet121",
    "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "efficientvit_b0", "efficientvit_m0",
    "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "ghostnetv2_100", "hardcorenas_a", "hgnetv2_b0",
    "hiera_tiny_224", "inception_next_atto", "maxvit_tiny_tf_224", "mixer_s32_224", "mobilenetv3_small_050",
    "mobilenetv4_conv_small", "mobileone_s0", "mobilevitv2_050", "mvitv2_tiny", "nf_resnet26", "nfnet_f0",
    "poolformer_s12", "pvt_v2_b0", "regnetx_002", "repghostnet_050", "rexnetr_200", "starnet_s1",
    "swin_tiny_patch4_window7_224", "tiny_vit_5m_224", "twins_svt_small", "selecsls42", "xcit_nano_12_p16_224",
]  # fmt: skip
TASKS = make_tasks({"a": ["x", "y"], "b": ["x", "y", "z"]})


@pytest.mark.parametrize("name", [*FEW, *(pytest.param(name, marks=pytest.mark.slow) for name in MANY)])
def test_it_takes_published_weights_and_is_trained_saved_and_loaded_again(name, tmp_path):
    px = min(timm.models.get_pretrained_cfg(name).input_size[-1], 224)
    torch.manual_seed(0)
    published = timm.create_model(name).state_dict()  # with its classifier, as its weights are published
    torch.save(published, tmp_path / "published.pt")
    net = backbones.build(name, TASKS.num_classes, weights=str(tmp_path / "published.pt"), px=px)
    own = net.backbone.state_dict()
    assert all(torch.equal(value, published[key]) for key, value in own.items() if key in published)
    assert len(own.keys() & published.keys()) > 0.9 * len(own)
    net.run_on(torch.device("cpu"), Execution())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    images = torch.rand(2, 3, px, px)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    net.train().logits(images).square().mean().backward()
    optimizer.step()
    assert any(not torch.equal(v, before[k]) for k, v in net.backbone.state_dict(prefix="backbone.").items())

    path = tmp_path / "trained.pt"
    checkpoints.save(path, model=net.state_dict(), tasks=TASKS, settings={}, epoch=1, metrics={})
    again = backbones.build(name, TASKS.num_classes, weights=str(path), px=px)
    again.run_on(torch.device("cpu"), Execution())
    with torch.no_grad():
        torch.testing.assert_close(again.eval().features(images), net.eval().features(images))
