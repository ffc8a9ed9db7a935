"""The MLflow store: reach it, and read runs from it."""

import contextlib
import logging
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import LifecycleStage, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url

from fmtl.errors import DataError, EnvironmentFault
from fmtl.storage import durable
from fmtl.tracking import as_guest

log = logging.getLogger(__name__)

DEFAULT_EXPERIMENT = "fmtl"
PAGE_SIZE = 1000
NOT_FOUND = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's codes for an unknown and an odd id


@dataclass(frozen=True)
class RunRecord:
    """What is read of a run: its identity; params, tags and last metric values as MLflow holds them; its model."""

    run_id: str
    name: str
    status: str
    end_ms: int
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    model_uri: str | None = None

    def param(self, name: str) -> str:
        """A parameter without the shell quotes that ``mlflow run`` puts round some; empty if absent."""
        text = self.params.get(name, "")
        try:
            words = shlex.split(text)
        except ValueError:  # a lone quote: not quoted by MLflow
            return text
        return words[0] if len(words) == 1 else "" if not words else text


def choose_experiment(name: str | None) -> str | None:
    """Id of the experiment for a new run: the one named, else the one that the process or ``mlflow run`` has chosen.

    It is not made the current one: the runs that others start in this process stay where they would have been.

    Raises:
        DataError: The experiment was deleted, or MLFLOW_EXPERIMENT_ID names one of another store.
    """
    chosen = os.environ.get("MLFLOW_EXPERIMENT_ID")  # which mlflow.set_experiment writes, too
    client = mlflow.MlflowClient()
    if name is None and chosen:
        try:
            return client.get_experiment(chosen).experiment_id
        except MlflowException as error:
            if error.error_code not in NOT_FOUND:
                raise
            raise DataError(
                f"MLFLOW_EXPERIMENT_ID={chosen}: no experiment of the store {mlflow.get_tracking_uri()}; "
                "unset it or set experiment"
            ) from error
    name = name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
            return choose_experiment(name)
    if found.lifecycle_stage != LifecycleStage.ACTIVE:
        raise DataError(f"experiment '{name}' was deleted; restore it (mlflow experiments restore) or name another")
    return found.experiment_id


def make_new() -> None:
    """Make the store if it is an SQLite file that is not there yet: under a lock and elsewhere, then renamed.

    MLflow makes one table after the other, so that two first commands at once, or one that is killed, would leave a
    store that nothing can use.

    Raises:
        EnvironmentFault: The file can't be made.
    """
    uri = mlflow.get_tracking_uri()
    if not uri.startswith("sqlite:"):
        return
    name = make_url(uri).database
    if not name or name == ":memory:" or Path(name).exists():
        return
    path = Path(name).resolve()
    try:
        with durable.locked(path):
            if not path.exists():
                new = durable.beside(path, "new")
                new.unlink(missing_ok=True)
                mlflow.MlflowClient(f"sqlite:///{new}").search_experiments(max_results=1)
                new.rename(path)
    except (EnvironmentFault, OSError) as error:
        raise EnvironmentFault(
            f"MLflow store {uri}: can't be made ({error}); set MLFLOW_TRACKING_URI to a place that can be written, "
            "such as sqlite:////tmp/mlflow.db, or to a server"
        ) from error


@contextlib.contextmanager
def reachable() -> Iterator[None]:
    """Turn MLflow's errors into ``fault``."""
    try:
        with as_guest():
            make_new()
            yield
    except MlflowException as error:
        raise fault(error) from error


def fault(error: MlflowException) -> EnvironmentFault:
    """MLflow's error as one that says where it looked."""
    return EnvironmentFault(
        f"MLflow store {mlflow.get_tracking_uri()}: {error.message}; check MLFLOW_TRACKING_URI "
        "(a local store is sqlite:///mlflow.db)"
    )


def experiment_name(experiment_id: str) -> str:
    return mlflow.get_experiment(experiment_id).name


def search_runs(kind: str, *, experiment: str | None = None) -> list[RunRecord]:
    """All runs of a kind, newest first, from one experiment or from every experiment of the store.

    Raises:
        DataError: The experiment does not exist.
    """
    with reachable():
        client = mlflow.MlflowClient()
        if experiment is None:
            ids = [e.experiment_id for e in mlflow.search_experiments(view_type=ViewType.ACTIVE_ONLY)]
        else:
            found = client.get_experiment_by_name(experiment)
            if found is None:
                names = sorted(e.name for e in mlflow.search_experiments())
                raise DataError(f"experiment '{experiment}' does not exist; the known ones are: {', '.join(names)}")
            ids = [found.experiment_id]
        log.debug("looking for %s runs in %s", kind, mlflow.get_tracking_uri())
        records, token = [], None
        while True:
            page = client.search_runs(ids, f"tags.`fmtl.kind` = '{kind}'", max_results=PAGE_SIZE, page_token=token)
            records += [_record(run) for run in page]
            token = page.token
            if not token:
                return records


def get_run(run_id: str) -> RunRecord:
    """One run by its id.

    Raises:
        DataError: There is none.
    """
    with reachable():
        try:
            return _record(mlflow.MlflowClient().get_run(run_id))
        except MlflowException as error:
            if error.error_code not in NOT_FOUND:
                raise
            raise DataError(f"run '{run_id}': not in the store {mlflow.get_tracking_uri()}") from error


def steps_of(run_id: str, metric: str) -> set[int]:
    """The steps at which a run has a point of a metric."""
    with reachable():
        return {point.step for point in mlflow.MlflowClient().get_metric_history(run_id, metric)}


@as_guest()
def download(run_id: str, artifact: str) -> Path:
    """A local copy of a run's artifact (the artifact itself where the store is local).

    Raises:
        DataError: The run has no such artifact.
    """
    try:
        return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=artifact))
    except (MlflowException, OSError) as error:
        raise DataError(f"run '{run_id}': has no artifact '{artifact}'") from error


def _record(run: mlflow.entities.Run) -> RunRecord:
    info, data = run.info, run.data
    models = run.outputs.model_outputs if run.outputs else []
    return RunRecord(
        run_id=info.run_id,
        name=info.run_name,
        status=info.status,
        end_ms=info.end_time or 0,
        params=dict(data.params),
        tags=dict(data.tags),
        metrics=dict(data.metrics),
        model_uri=f"models:/{models[-1].model_id}" if models else None,
    )
