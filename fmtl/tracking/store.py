"""The MLflow store: reach it, and read runs from it."""

import atexit
import contextlib
import logging
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import mlflow
from mlflow.entities import LifecycleStage, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path

from fmtl import machine
from fmtl.errors import DataError, EnvironmentFault, redacted
from fmtl.storage import durable
from fmtl.tracking.opening import reachable

log = logging.getLogger(__name__)

DEFAULT_EXPERIMENT = "fmtl"
FOLDER_ID_TAG = "fmtl.folder_id"  # of the folder that a run is delivered from
MODEL_TAG = "fmtl.model_id"  # of the model that it finished
MANIFEST_TAG = "fmtl.model_sha256"  # of the list of that model's files
PAGE_SIZE = 1000
_copies = contextlib.ExitStack()
atexit.register(_copies.close)
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
    artifact_uri: str = ""
    deleted: bool = False

    def param(self, name: str) -> str:
        """A parameter without the shell quotes that ``mlflow run`` puts round some; empty if absent."""
        text = self.params.get(name, "")
        try:
            words = shlex.split(text)
        except ValueError:  # a lone quote: not quoted by MLflow
            return text
        return words[0] if len(words) == 1 else "" if not words else text


def choose_experiment(name: str | None) -> str:
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
                f"MLFLOW_EXPERIMENT_ID={chosen}: no experiment of the store {address()}; unset it or set experiment"
            ) from error
    name = name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=_place_of_new(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
            return choose_experiment(name)
    if found.lifecycle_stage != LifecycleStage.ACTIVE:
        raise DataError(f"experiment '{name}' was deleted; restore it (mlflow experiments restore) or name another")
    return found.experiment_id


def check_place(client: mlflow.MlflowClient, experiment_id: str) -> None:
    """Raise EnvironmentFault where an experiment's artifacts go to a folder that was moved away.

    MLflow keeps the path for good, and would make the old folder again without a word.
    """
    experiment = client.get_experiment(experiment_id)
    folder = local_folder(experiment.artifact_location)
    if folder is None or folder.exists() or mlflow.get_tracking_uri().startswith("http"):
        return
    if not folder.parent.parent.exists() and client.search_runs([experiment_id], max_results=1):
        raise EnvironmentFault(
            f"artifacts of experiment '{experiment.name}' go to {folder}, which is not there any more: was the folder "
            f"of the project moved? MLflow keeps the old path. Move it back, link the old path to the new one "
            f'(ln -s "$PWD" {folder.parent.parent}), or name a new experiment (--experiment NAME)'
        )


def _place_of_new(experiment: str) -> str | None:
    """Where a new experiment's artifacts go; None: where MLflow puts them.

    A ``%`` in a path is written as MLflow reads it: by itself it would write to one folder and look in another.
    """
    if not mlflow.get_tracking_uri().startswith("sqlite:") or "%" not in str(Path.cwd()):
        return None
    return (Path.cwd() / "mlruns" / re.sub(r"[^\w.-]", "_", experiment)).as_uri()


def delete_tag(client: mlflow.MlflowClient, run_id: str, name: str) -> None:
    """Take a tag away, if it is there."""
    try:
        client.delete_tag(run_id, name)
    except MlflowException as error:
        if error.error_code not in NOT_FOUND:
            raise


def address() -> str:
    """Of the store in use, without a password."""
    return redacted(mlflow.get_tracking_uri())


def local_folder(artifact_uri: str) -> Path | None:
    """The folder of this disk that an artifact address names, read as MLflow reads it; None if it names none."""
    if urlparse(artifact_uri).scheme not in ("", "file"):
        return None
    return Path(local_file_uri_to_path(artifact_uri))


def search_runs(
    kind: str, *, experiment: str | None = None, where: str = "", most: int | None = None
) -> list[RunRecord]:
    """Runs of a kind, newest first, from one experiment or from every experiment of the store.

    Args:
        where: What else they have to be, as MLflow filters runs.
        most: So many at most.

    Raises:
        DataError: The experiment does not exist.
    """
    with reachable(), machine.young_garbage():
        client = mlflow.MlflowClient()
        if experiment is None:
            ids = [e.experiment_id for e in mlflow.search_experiments(view_type=ViewType.ACTIVE_ONLY)]
        else:
            found = client.get_experiment_by_name(experiment)
            if found is None:
                names = sorted(e.name for e in mlflow.search_experiments())
                raise DataError(f"experiment '{experiment}' does not exist; the known ones are: {', '.join(names)}")
            ids = [found.experiment_id]
        log.debug("looking for %s runs in %s", kind, address())
        filter_string = " AND ".join([f"tags.`fmtl.kind` = '{kind}'", *([where] if where else [])])
        records: list[RunRecord] = []
        token, size = None, min(most or PAGE_SIZE, PAGE_SIZE)
        while True:
            page = client.search_runs(ids, filter_string, max_results=size, page_token=token)
            records += [_record(run) for run in page]
            token = page.token
            if not token or (most and len(records) >= most):
                return records[:most]


def runs_without(kind: str, tag: str, *, experiment: str | None, most: int) -> list[RunRecord]:
    """Runs of a kind that lack a tag, newest first. Of a server that can't be asked that, those that did not finish."""
    for where in (f"tags.`{tag}` IS NULL", "attributes.status != 'FINISHED'"):
        try:
            found = search_runs(kind, experiment=experiment, where=where, most=most)
        except MlflowException as error:
            if error.error_code not in NOT_FOUND:
                raise
            continue
        return [record for record in found if not record.tags.get(tag)]
    return []


def quoted(value: str) -> str | None:
    """A value in a filter of MLflow's; None where it can't be said."""
    quote = '"' if "'" in value else "'"
    return None if quote in value else f"{quote}{value}{quote}"


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
            raise DataError(f"run '{run_id}': not in the store {address()}") from error


def artifact(run: RunRecord, name: str) -> Path | None:
    """A file of a run on this disk: where it lies, or a copy that goes with this process; None where there is none."""
    if (local := local_folder(run.artifact_uri)) is not None:
        path = local.joinpath(*name.split("/"))
        return path if path.is_file() else None
    with reachable():
        client = mlflow.MlflowClient()
        folder_name, _, _ = name.rpartition("/")
        if name not in {file.path for file in client.list_artifacts(run.run_id, folder_name or None)}:
            return None
        folder = _copies.enter_context(durable.temporary_folder())
        return Path(client.download_artifacts(run.run_id, name, str(folder)))


def steps_of(run_id: str, metric: str) -> set[int]:
    """The steps at which a run has a point of a metric."""
    with reachable():
        return {point.step for point in mlflow.MlflowClient().get_metric_history(run_id, metric)}


def last_point(run_id: str, metric: str) -> int:
    """When a run was given its last point of a metric, in ms since 1970."""
    with reachable():
        return max(point.timestamp for point in mlflow.MlflowClient().get_metric_history(run_id, metric))


def _record(run: mlflow.entities.Run) -> RunRecord:
    info, data = run.info, run.data
    return RunRecord(
        run_id=info.run_id,
        name=info.run_name,
        status=info.status,
        end_ms=info.end_time or 0,
        params=dict(data.params),
        tags=dict(data.tags),
        metrics=dict(data.metrics),
        model_uri=_model_uri(run),
        artifact_uri=info.artifact_uri,
        deleted=info.lifecycle_stage != LifecycleStage.ACTIVE,
    )


def _model_uri(run: mlflow.entities.Run) -> str | None:
    """Of the model that the run says it finished; of older versions' runs, which did not say, the last one there."""
    if model_id := run.data.tags.get(MODEL_TAG):
        return f"models:/{model_id}"
    models = run.outputs.model_outputs if run.outputs else []
    if FOLDER_ID_TAG in run.data.tags or not models:
        return None
    return f"models:/{models[-1].model_id}"
