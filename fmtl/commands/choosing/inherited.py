"""The start from a model of one's own: next season's training from this season's."""

from dataclasses import dataclass

from fmtl.commands.choosing import models
from fmtl.errors import DataError, UsageError
from fmtl.model import heads, predictor
from fmtl.model.backbones import InputSpec
from fmtl.model.network import MultiTaskNet
from fmtl.model.predictor import Predictor
from fmtl.settings.train import TrainSettings, is_model_address
from fmtl.tasks import Tasks
from fmtl.tracking import pyfunc


@dataclass(frozen=True)
class Inherited:
    """A model whose backbone and heads a training begins with.

    Attributes:
        source: Its address.
    """

    source: str
    model: Predictor

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec.of(self.model.preprocess)

    def take_over(self, net: MultiTaskNet, tasks: Tasks) -> list[str]:
        """Put its weights into a network. Returns what became of each attribute.

        Raises:
            DataError: They do not fit.
        """
        try:
            net.backbone.load_state_dict(self.model.net.backbone.state_dict())
        except RuntimeError as error:
            why = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
            raise DataError(
                f"weights: {self.source}, trained on images of {self.model.preprocess.px} px, does not fit the network "
                f"(with another px, few but convolutional networks do): {why}"
            ) from error
        return heads.take_over(net, tasks, self.model.net, self.model.tasks)


def is_meant(weights: str) -> bool:
    """Whether a setting names a model, and not weights of a backbone."""
    return is_model_address(weights) or pyfunc.model_within(weights) is not None


def settled(settings: TrainSettings) -> TrainSettings:
    """Where ``weights`` names a model: with an address that goes on naming it, and its backbone.

    Raises:
        UsageError: Another backbone is asked for.
        DataError, EnvironmentFault: There is no such model.
    """
    if not is_meant(settings.weights):
        return settings
    source = models.lasting_address(settings.weights)
    backbone = predictor.describe(pyfunc.model_folder(source))["backbone"]
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
