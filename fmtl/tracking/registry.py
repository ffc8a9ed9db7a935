"""Registered models: versions and aliases. What is registered exists, whole and as it was logged."""

from pathlib import Path

import mlflow
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException

from fmtl.errors import DataError
from fmtl.tracking import logged_models, model_files, store
from fmtl.tracking.opening import reachable
from fmtl.tracking.store import RunRecord


def why_not_registrable(run: RunRecord) -> str | None:
    """The reason why a run's model can't be registered, as far as the run's own record says; or None."""
    if run.deleted:
        return f"it was deleted; 'mlflow runs restore --run-id {run.run_id}' brings it back"
    if run.tags.get("fmtl.kind") != "train":
        return "it is not a train run of fmtl"
    if run.tags.get("fmtl.outcome") != "completed":
        return f"it did not complete ({run.tags.get('fmtl.outcome', run.status.lower())})"
    if run.model_uri is None:
        return "it logged no model"
    return None


def register(run: RunRecord, *, name: str, alias: str) -> tuple[int, int | None]:
    """Register a run's model as a new version and move the alias to it.

    A model that is registered under this name already keeps its version.

    Returns:
        The version, and the one that the alias pointed to before.

    Raises:
        DataError: The run has no model to register, or it is not whole, was altered, or says something else than when
            it was logged. Nothing was registered then.
        EnvironmentFault: The store can't be used.
    """
    with reachable():
        if reason := why_not_registrable(run) or _why_not_whole(run):
            raise DataError(f"run '{run.run_id}' ({run.name}) can't be registered: {reason}")
        client = mlflow.MlflowClient()
        version = _existing_version(client, name, run.run_id)
        if version is None:
            tags = {"fmtl.run": run.run_id, "fmtl.data": run.tags.get("fmtl.data", "")}
            version = int(mlflow.register_model(str(run.model_uri), name, tags=tags).version)
        previous = _alias_target(client, name, alias)
        client.set_registered_model_alias(name, alias, str(version))
    return version, previous


def _why_not_whole(run: RunRecord) -> str | None:
    model_id = str(run.model_uri).removeprefix("models:/")
    try:
        model = mlflow.MlflowClient().get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code not in store.NOT_FOUND:
            raise
        return f"its model {model_id} is not in the store any more"
    if model.status != LoggedModelStatus.READY:
        return f"its model {model_id} was not written to its end ({str(model.status).rpartition('.')[2].lower()})"
    try:
        folder: Path = logged_models.folder(str(run.model_uri))
        if manifest := run.tags.get(store.MANIFEST_TAG):
            model_files.check_files(folder, manifest)
        model_files.check_predictions(folder)
    except DataError as error:
        return f"its model {model_id}: {error}"
    return None


def _existing_version(client: mlflow.MlflowClient, name: str, run_id: str) -> int | None:
    quote = '"' if "'" in name else "'"
    found = client.search_model_versions(f"name = {quote}{name}{quote}")
    return next((int(v.version) for v in found if v.tags.get("fmtl.run") == run_id and v.status == "READY"), None)


def _alias_target(client: mlflow.MlflowClient, name: str, alias: str) -> int | None:
    try:
        return int(client.get_model_version_by_alias(name, alias).version)
    except MlflowException:  # there is no such alias yet
        return None
