"""Backbones by name: any classification model of torchvision, or else of timm, without its classifier."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torchvision
from torch import nn

from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.errors import UsageError, did_you_mean
from fmtl.model.network import MultiTaskNet
from fmtl.model.weights import pretrained


@dataclass(frozen=True)
class InputSpec:
    """What a backbone's weights were trained to see: side in pixels, mean and std per channel of [0, 1]."""

    px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, preprocess: Preprocess) -> "InputSpec":
        """What a network has been trained to see whose photos became input in this way."""
        return cls(preprocess.px, preprocess.mean, preprocess.std)


def input_spec(backbone: str) -> InputSpec:
    """Size and normalisation of the backbone's ImageNet weights; also used without weights.

    Raises:
        UsageError: Unknown name.
    """
    if _is_torchvision(backbone):
        preset = torchvision.models.get_model_weights(backbone).DEFAULT.transforms()
        return InputSpec(preset.crop_size[0], _three(preset.mean), _three(preset.std))
    config = _timm_config(backbone)
    return InputSpec(config.input_size[-1], _three(config.mean), _three(config.std))


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def build(
    backbone: str, num_classes: Mapping[str, int], sets: Collection[str] = (), *, weights: str, px: int
) -> MultiTaskNet:
    """Build a network for ``px`` x ``px`` images.

    Args:
        backbone: A torchvision classification model, or else a timm one.
        num_classes: K by task name.
        sets: Names of the tasks that are sets.
        weights: ``imagenet`` (downloaded or cached by torchvision or timm), ``none``, ``bundled``, or the path
            of a state dict that the backbone's own library saved (``.pt``, ``.pth``, ``.safetensors``) or of an
            fmtl checkpoint.
        px: Side of the input.

    Raises:
        UsageError: Unknown name, or the backbone can't take this size.
        DataError: The weights do not fit.
        EnvironmentFault: The weights can't be fetched; never replaced by random ones.
    """
    torchvisions = _is_torchvision(backbone)
    try:
        full: Any = _torchvision_model(backbone, px) if torchvisions else _timm_model(backbone, px)
    except (ValueError, AssertionError, RuntimeError) as error:
        raise _wrong_px(backbone, px, error) from error
    classifier = _last_linear(backbone, full) if torchvisions else ""
    state = {}
    if weights != "none":
        state = pretrained.fetch(full, backbone, weights, from_torchvision=torchvisions)
    with_classifier = set(full.state_dict())
    if torchvisions:
        full.set_submodule(classifier, nn.Identity())
        full.pretrained_cfg = {"classifier": classifier}  # timm's name for it; its layer decay asks
    else:
        full.reset_classifier(0)
    if weights != "none":
        removed = with_classifier - set(full.state_dict())
        pretrained.put_into(full, state, removed=removed, px=px, source=f"'{weights}'")
    return MultiTaskNet(full, _num_features(backbone, full, px), num_classes, sets)


@dataclass(frozen=True, kw_only=True)
class NetworkPlan:
    """Which network is trained.

    Attributes:
        backbone, weights, px: See ``build``.
        freeze: Train the heads only.
        grad_checkpointing: Less memory for a third more time.
        seed: Of the heads' weights, and of all that torch draws afterwards.
    """

    backbone: str
    weights: str
    px: int
    freeze: bool = False
    grad_checkpointing: bool = False
    seed: int = 0


def from_plan(plan: NetworkPlan, num_classes: Mapping[str, int], sets: Collection[str] = ()) -> MultiTaskNet:
    """``build``, with torch's generator seeded first: equal plans give equal heads, and the same training after."""
    torch.manual_seed(plan.seed)
    net = build(plan.backbone, num_classes, sets, weights=plan.weights, px=plan.px)
    if plan.grad_checkpointing:
        net.checkpoint_gradients()
    net.freeze_backbone(plan.freeze)
    return net


def _is_torchvision(backbone: str) -> bool:
    return backbone in torchvision.models.list_models(module=torchvision.models)


def _timm_config(backbone: str) -> timm.models.PretrainedCfg:
    try:
        config = timm.models.get_pretrained_cfg(backbone) if timm.is_model(backbone.split(".", 1)[0]) else None
    except RuntimeError:  # a known model, an unknown tag
        config = None
    if config is None:
        known = torchvision.models.list_models(module=torchvision.models) + timm.list_models()
        hint = did_you_mean(backbone, known, most=3, quote="")
        what = "neither a torchvision nor a timm classification model"
        raise UsageError(f"backbone: '{backbone}' is {what}{hint and f'; {hint}'}")
    return config


def _torchvision_model(backbone: str, px: int) -> nn.Module:
    options: dict[str, Any] = {}
    if backbone.startswith("vit_"):
        options["image_size"] = px
    elif backbone.startswith("maxvit"):
        options["input_size"] = (px, px)
    elif backbone in ("inception_v3", "googlenet"):
        options = {"init_weights": True, "aux_logits": False}
    return torchvision.models.get_model(backbone, weights=None, **options)


def _timm_model(backbone: str, px: int) -> Any:
    config = _timm_config(backbone)
    # Only models with position embeddings are built for one size.
    options: dict[str, Any] = {"img_size": px} if config.fixed_input_size and px != config.input_size[-1] else {}
    return timm.create_model(backbone, pretrained=False, **options)


def _last_linear(backbone: str, full: nn.Module) -> str:
    names = [name for name, module in full.named_modules() if isinstance(module, nn.Linear)]
    if not names or full.get_submodule(names[-1]).out_features != 1000:
        raise UsageError(f"backbone: '{backbone}' does not end in a linear classifier; choose another")
    return names[-1]


def _num_features(backbone: str, features: nn.Module, px: int) -> int:
    features.eval()
    try:
        with torch.no_grad():
            shape = features(torch.zeros(1, 3, px, px)).shape
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _wrong_px(backbone, px, error) from error
    if len(shape) != 2:
        raise UsageError(f"backbone: '{backbone}' gives features of shape {tuple(shape)}, expected (N, D)")
    return shape[1]


def _wrong_px(backbone: str, px: int, error: Exception) -> UsageError:
    return UsageError(
        f"px: {backbone} can't take {px}x{px} images ({error}); its own size is {input_spec(backbone).px}"
    )
