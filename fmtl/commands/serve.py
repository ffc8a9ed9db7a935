"""``serve``: a model behind HTTP."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from fmtl.commands.choosing import models
from fmtl.commands.delivering.source import Source, source_of
from fmtl.errors import UsageError
from fmtl.evaluation import gradcam
from fmtl.loading.preprocess import as_images, prepare_for_network
from fmtl.model.exported import SUFFIX
from fmtl.model.predictor import Predictor
from fmtl.serving import files, running
from fmtl.serving.limits import Limits
from fmtl.serving.served import Look, Served
from fmtl.settings.delivery import ServeSettings


def serve(settings: ServeSettings) -> None:
    """Run the whole command, until SIGTERM or Ctrl-C.

    Raises:
        DataError: The model is not there.
        EnvironmentFault: The address can't be listened on.
        UsageError: ``follow`` of a model that nothing takes the place of.
    """
    token = running.token_of(Path(settings.token_file) if settings.token_file else None)
    limits = Limits(settings.most_photos, settings.most_bytes, settings.most_pixels, settings.most_waiting)
    is_file = settings.model.endswith(SUFFIX)
    served, changed = files.followed(Path(settings.model)) if is_file else _followed_model(settings)
    following = running.Following(changed, settings.follow_seconds) if settings.follow else None
    running.serve(
        served, running.Place(settings.host, settings.port), limits, batch_size=settings.batch_size, token=token,
        following=following,
    )  # fmt: skip


def _followed_model(settings: ServeSettings) -> tuple[Served, Callable[[Served], Served | None]]:
    """The model, and what finds the one that its alias means later."""
    if settings.follow and not (settings.model.startswith("models:/") and "@" in settings.model):
        raise UsageError("follow: is for models:/NAME@ALIAS, whose alias moves, or for an .onnx file")
    source = source_of(settings.model)

    def changed(_: Served) -> Served | None:
        nonlocal source
        now = source_of(settings.model)
        if (now.address, now.version) == (source.address, source.version):
            return None
        found, source = _served(settings, now), now
        return found

    return running.apart(lambda: _served(settings, source)), changed


def _served(settings: ServeSettings, source: Source) -> Served:
    precision = None if settings.precision == "model" else settings.precision
    model, digest = models.load(source.address, device=settings.device, precision=precision)
    version = str(source.version) if source.version else None
    return Served(model, settings.model, digest, version=version, data=source.data, look=_look(model))


def _look(model: Predictor) -> Look | None:
    """Where the network looks for the likeliest class of each task that has one class per image."""
    single = {task.name: task.slug for task in model.tasks if not task.is_set and not task.applies_to}
    if not single:
        return None
    px = model.preprocess.stored_px
    nothing = np.zeros((px, px, 3), np.uint8)

    def look(square: np.ndarray) -> Mapping[str, np.ndarray]:
        images = prepare_for_network(as_images(square[None]).to(model.device), model.preprocess)
        with torch.no_grad():
            logits = model.net(images)
        chosen = {name: logits[name].argmax(dim=1) for name in single}
        maps = gradcam.heat_maps(model.net, images, chosen)
        return {single[name]: places[0].numpy() for name, places in maps.items()}

    try:
        look(nothing)
    except gradcam.NoSpatialLayer:
        return None
    return look
