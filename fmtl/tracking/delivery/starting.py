"""The run of a store that a run folder is delivered to: a new one, one of ``mlflow run``, or an older attempt's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
from mlflow.entities import LifecycleStage, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from fmtl.errors import DataError, EnvironmentFault, redacted
from fmtl.tracking import store
from fmtl.tracking.opening import reachable
from fmtl.tracking.record import lease


class NotThere(DataError):
    """The store has no run of that id."""


@dataclass(frozen=True)
class Wanted:
    """What a run is to be.

    Attributes:
        kind: The tag ``fmtl.kind``.
        folder_id: Of its run folder, by which it is found again.
        name: MLflow draws one if None.
        experiment: Name; None: what the process or ``mlflow run`` has chosen.
        parent: Id of the run that it is a child of, in whose experiment it lies.
        there: Id of the run itself where the store has it.
        tags: Further ones.
        context: What MLflow says of where a run comes from; None: of this process.
        begins: Work on it begins now; else it is delivered afterwards, and stays as it is.
        is_abandoned: Whoever worked on it is known to be gone, whatever its lease says.
    """

    kind: str
    folder_id: str
    name: str | None = None
    experiment: str | None = None
    parent: str | None = None
    there: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, str] | None = None
    begins: bool = True
    is_abandoned: bool = False

    @property
    def all_tags(self) -> dict[str, str]:
        return {"fmtl.kind": self.kind, store.FOLDER_ID_TAG: self.folder_id, **self.tags}


@dataclass(frozen=True)
class Started:
    """A run of a store.

    Attributes:
        params: Names of those that it has: they can't be changed.
        folder: Of its artifacts, where that is on this disk.
    """

    run_id: str
    name: str
    experiment_id: str
    artifact_uri: str
    params: frozenset[str]
    folder: Path | None


def start(wanted: Wanted) -> Started:
    """Make the run, or go on with the one that is there.

    Raises:
        EnvironmentFault: The store can't be used.
        DataError: The run or the experiment was deleted, or its artifacts are not where they were.
    """
    with reachable():
        client = mlflow.MlflowClient()
        run_id = wanted.there or _found(client, wanted.folder_id)
        if run_id:
            run = _go_on(client, run_id, wanted)
        else:
            experiment_id = _experiment(client, wanted)
            store.check_place(client, experiment_id)
            tags = wanted.all_tags | ({"mlflow.parentRunId": wanted.parent} if wanted.parent else {})
            run = client.create_run(
                experiment_id,
                tags=resolve_tags(tags) if wanted.context is None else {**wanted.context, **tags},
                run_name=wanted.name,
            )
        info = run.info
        return Started(
            info.run_id, info.run_name, info.experiment_id, info.artifact_uri, frozenset(run.data.params), _folder(info)
        )


def give_up(started: Started, error: BaseException) -> None:
    """Of a run that could not begin, say why, so that it does not look alive."""
    client = mlflow.MlflowClient()
    message = redacted(f"{type(error).__name__}: {error}")
    client.log_batch(started.run_id, tags=[RunTag("fmtl.outcome", "failed"), RunTag("fmtl.error", message[:5000])])
    client.set_terminated(started.run_id, "FAILED")
    client.delete_tag(started.run_id, lease.TAG)


def fail_unbegun(run_id: str, *, kind: str, message: str) -> None:
    """Of a run that ``mlflow run`` made for a command that never came to its work, say why."""
    with reachable():
        tags = {"fmtl.kind": kind, "fmtl.outcome": "failed", "fmtl.error": message[:5000]}
        mlflow.MlflowClient().log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def point_elsewhere(run_id: str) -> None:
    """Of a run that ``mlflow run`` made for nothing, since an older one is resumed, say so on its page."""
    with reachable():
        note = "This only resumed another run, which has all that came of it."
        tags = {"fmtl.kind": "resume", "fmtl.outcome": "completed", "mlflow.note.content": note}
        mlflow.MlflowClient().log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def _experiment(client: mlflow.MlflowClient, wanted: Wanted) -> str:
    if wanted.parent:
        return client.get_run(wanted.parent).info.experiment_id
    return store.choose_experiment(wanted.experiment)


def _found(client: mlflow.MlflowClient, folder_id: str) -> str | None:
    """The run that an earlier, interrupted delivery of this folder made."""
    experiments = [e.experiment_id for e in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`{store.FOLDER_ID_TAG}` = '{folder_id}'", max_results=1)
    return found[0].info.run_id if found else None


def _go_on(client: mlflow.MlflowClient, run_id: str, wanted: Wanted) -> mlflow.entities.Run:
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in store.NOT_FOUND:
            raise
        raise NotThere(f"run '{run_id}': not in the store {store.address()}") from error
    if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
        raise DataError(f"run '{run_id}' was deleted; 'mlflow runs restore --run-id {run_id}' brings it back")
    at_work = lease.Lease.read(run.data.tags.get(lease.TAG))
    if at_work and not (wanted.is_abandoned or at_work.is_mine or at_work.died or at_work.is_silent):
        raise DataError(f"run '{run_id}': it is running ({at_work}); wait for its end, or end that process")
    if not wanted.begins:
        return run
    client.update_run(run_id, status="RUNNING", name=wanted.name)
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in wanted.all_tags.items()])
    return client.get_run(run_id)


def _folder(info: mlflow.entities.RunInfo) -> Path | None:
    """Where its artifacts are on this disk. Raises EnvironmentFault where only a server could write them."""
    if info.artifact_uri.startswith("mlflow-artifacts:") and not mlflow.get_tracking_uri().startswith("http"):
        name = mlflow.MlflowClient().get_experiment(info.experiment_id).name
        raise EnvironmentFault(
            f"experiment '{name}' was created by an MLflow server, so its artifacts can only be written through that "
            "server. Either export MLFLOW_TRACKING_URI=http://127.0.0.1:5000 while it runs, or choose another "
            "experiment (mlflow run --experiment-name NAME, or export MLFLOW_EXPERIMENT_NAME=NAME)"
        )
    return store.local_folder(info.artifact_uri)
