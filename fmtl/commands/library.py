"""Commands as functions of keyword arguments: what ``import fmtl`` offers to programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmtl.commands import train as train_command
from fmtl.settings.reading import Given, build
from fmtl.settings.train import TrainSettings
from fmtl.tracking.delivery import state
from fmtl.tracking.record import journal


@dataclass(frozen=True)
class TrainedRun:
    """A finished train run.

    Attributes:
        run_id: Of MLflow, which ``fmtl register --run`` and ``fmtl predict --model`` take; of the folder where no
            store has it yet.
        metrics: The last value of each by name, such as ``test/avg/f1``.
        model_uri: Of the logged model, for ``mlflow.pyfunc.load_model``; None where no store has it yet.
        folder: Where the run lies.
    """

    run_id: str
    metrics: dict[str, float]
    model_uri: str | None
    folder: Path


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
    run_id, folder = train_command.train_whole(build(TrainSettings, given))
    metrics = journal.last_metrics(folder.journal().lines())
    model_id = next((found.model.get("id") for found in state.all_of(folder.record)), None)
    return TrainedRun(run_id, metrics, f"models:/{model_id}" if model_id else None, folder.root)
