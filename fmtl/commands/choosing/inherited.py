"""The start from a model of one's own: next season's training from this season's."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from fmtl.commands.choosing import models
from fmtl.errors import DataError, UsageError
from fmtl.model import heads
from fmtl.model.backbones import InputSpec
from fmtl.model.predictor import DESCRIPTION, Predictor
from fmtl.settings.train import TrainSettings
from fmtl.training.setup import Setup

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inherited:
    """A model whose backbone and heads a training begins with.

    Attributes:
        source: Its address, which names the same model for ever.
    """

    source: str
    model: Predictor

    @property
    def input_spec(self) -> InputSpec:
        how = self.model.preprocess
        return InputSpec(how.px, how.mean, how.std)

    def take_over(self, setup: Setup) -> None:
        """Put its weights into the network.

        Raises:
            DataError: They do not fit.
        """
        net, model = setup.net, self.model
        try:
            net.backbone.load_state_dict(model.net.backbone.state_dict())
        except RuntimeError as error:
            raise DataError(
                f"weights: {self.source} was trained on images of {model.preprocess.px} px, and its weights do not fit "
                f"at {setup.plan.network.px}; give px={model.preprocess.px} ({str(error).splitlines()[0]})"
            ) from error
        for line in heads.take_over(net, setup.tasks, model.net, model.tasks):
            log.info("%s", line)


def is_meant(weights: str) -> bool:
    """Whether a setting names a model, and not weights of a backbone."""
    return bool(
        weights.startswith("models:/")
        or re.fullmatch(r"[0-9a-f]{32}", weights)
        or (Path(weights) / DESCRIPTION).is_file()
    )


def settled(settings: TrainSettings) -> TrainSettings:
    """Where ``weights`` names a model: with an address that names it for ever, and its backbone.

    Raises:
        UsageError: Another backbone is asked for.
        DataError, EnvironmentFault: There is no such model.
    """
    if not is_meant(settings.weights):
        return settings
    source = models.lasting_address(settings.weights)
    backbone = models.load(source)[0].backbone
    if "backbone" in settings.model_fields_set and settings.backbone != backbone:
        raise UsageError(f"weights: {settings.weights} is a {backbone}, and backbone={settings.backbone} is asked for")
    return settings.model_copy(update={"weights": source, "backbone": backbone})


def find(settings: TrainSettings) -> tuple[Inherited | None, TrainSettings]:
    """The model that ``weights`` names, if it names one; and settings that build its network without any weights.

    Raises:
        UsageError, DataError, EnvironmentFault: As ``settled``.
    """
    settings = settled(settings)
    if not is_meant(settings.weights):
        return None, settings
    found = Inherited(settings.weights, models.load(settings.weights)[0])
    return found, settings.model_copy(update={"weights": "none"})
