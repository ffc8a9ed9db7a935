"""Which model labels: a registered one, a run's, a folder, or a checkpoint."""

import logging
import re
from pathlib import Path

import torch

from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.errors import DataError, UsageError
from fmtl.hardware import choose_device
from fmtl.model import backbones, exported, predictor
from fmtl.model.execution import Execution
from fmtl.model.labeller import Labeller
from fmtl.model.predictor import Predictor
from fmtl.storage import durable
from fmtl.tracking import logged_models, pyfunc, store
from fmtl.training import checkpoints

log = logging.getLogger(__name__)

_RUN_ID = re.compile(r"[0-9a-f]{32}")


def labeller(model: str, *, device: str = "cpu", precision: str | None = None) -> tuple[Labeller, str]:
    """As ``load``, or an exported file, which runs on the CPU in the precision that it was written in."""
    if model.endswith(exported.SUFFIX):
        found = exported.load(Path(model))
        return found, found.sha256
    return load(model, device=device, precision=precision)


def load(model: str, *, device: str = "cpu", precision: str | None = None) -> tuple[Predictor, str]:
    """What an address names, and the hash of all that it is.

    Args:
        precision: One of ``Execution``; None for the one that the model was trained and tested in.

    Raises:
        DataError: It is not there, or no model of fmtl.
    """
    chosen = choose_device(device)
    if model.endswith(".pt") and Path(model).is_file():
        return _of_checkpoint(Path(model), chosen, precision), durable.sha256(Path(model))
    folder = pyfunc.model_folder(uri_of(model))
    # The description has the hash of the weights.
    return predictor.load(folder, chosen, precision), durable.sha256(folder / predictor.DESCRIPTION)


def lasting_address(model: str) -> str:
    """One that goes on naming the same model: of a run, an alias or a version its id, of a folder the whole path.

    Raises:
        UsageError: It is one that changes with each new version.
        DataError, EnvironmentFault: There is no such model.
    """
    if Path(model).is_dir():
        return str(Path(model).resolve())
    uri = uri_of(model)
    if re.fullmatch(r"models:/[^/@]+/\D.*", uri):
        raise UsageError(f"weights: {uri} may be another model tomorrow; name an alias or the number of a version")
    return logged_models.lasting_address(uri) if uri.startswith("models:/") else uri


def uri_of(model: str) -> str:
    """The address of what a run's id names, too."""
    if not _RUN_ID.fullmatch(model):
        return model
    uri = store.get_run(model).model_uri
    if uri is None:
        raise DataError(f"run {model} logged no model; is it a completed train run?", where="model")
    return uri


def _of_checkpoint(path: Path, device: torch.device, precision: str | None) -> Predictor:
    content = checkpoints.load(path)
    settings, tasks = content.settings, content.tasks
    if lacking := [name for name in ("backbone", "px") if name not in settings]:
        raise DataError(f"{path}: its settings lack '{lacking[0]}', so that its network can't be built")
    backbone, px = settings["backbone"], settings["px"]
    if "image_size" in settings:
        raise DataError(f"{path}: it was trained on images of {settings['image_size']}, and photos become squares")
    if "preprocess" in settings:
        preprocess = Preprocess.from_json(settings["preprocess"])
    else:
        spec = backbones.input_spec(backbone)
        preprocess = Preprocess(px, "stretch", "#ffffff", px, spec.mean, spec.std)
        log.warning(
            "%s does not say how photos became input; assumed: stretched to %d px, normalised as for %s's weights "
            "(give preprocess= when training to have it written)", path, px, backbone,
        )  # fmt: skip
    net = backbones.build(backbone, tasks.num_classes, tasks.sets, weights="none", px=px)
    try:
        net.load_state_dict(content.model)
    except RuntimeError as error:
        raise DataError(f"{path}: its weights do not fit {backbone}: {error}") from error
    known = "bf16" if settings.get("precision") == "bf16" else "fp32"  # auto is neither
    way = Execution(precision or known, bool(settings.get("channels_last")))
    net.eval().run_on(device, way)
    return Predictor(net, tasks, preprocess, device, backbone)
