"""Commands as functions of keyword arguments: what ``import fmtl`` offers to programs."""

from dataclasses import dataclass
from typing import Any

from fmtl.commands import train as train_command
from fmtl.settings.reading import Given, build
from fmtl.settings.train import TrainSettings
from fmtl.tracking import store


@dataclass(frozen=True)
class TrainedRun:
    """A finished train run.

    Attributes:
        run_id: Of MLflow; also what ``fmtl register --run`` and ``fmtl predict --model`` take.
        metrics: The last value of each by name, such as ``test/avg/f1``.
        model_uri: Of the logged model, for ``mlflow.pyfunc.load_model``.
    """

    run_id: str
    metrics: dict[str, float]
    model_uri: str | None


def train(**settings: Any) -> TrainedRun:
    """``fmtl train``: train on a prepared dataset, recorded by MLflow.

    What it says goes to the logger ``fmtl``: ``logging.basicConfig(level="INFO")`` shows it.

    Args:
        settings: Of ``fmtl train``, by their own names: ``data="data/prepared"``, ``backbone="vit_b_16"``,
            ``epochs=20``, ...

    Raises:
        UsageError: Naming every unknown setting and every value out of range at once.
        DataError, EnvironmentFault: See ``fmtl.errors``.
    """
    given = {name: Given(value, name) for name, value in settings.items() if value is not None}
    record = store.get_run(train_command.train(build(TrainSettings, given)))
    return TrainedRun(record.run_id, record.metrics, record.model_uri)
