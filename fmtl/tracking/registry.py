"""Registered models: versions and aliases."""

import mlflow
from mlflow.exceptions import MlflowException

from fmtl.errors import DataError
from fmtl.tracking import as_guest
from fmtl.tracking.store import RunRecord


def why_not_registrable(run: RunRecord) -> str | None:
    """The reason why a run's model can't be registered, or None."""
    if run.tags.get("fmtl.kind") != "train":
        return "it is not a train run of fmtl"
    if run.tags.get("fmtl.outcome") != "completed":
        return f"it did not complete ({run.tags.get('fmtl.outcome', run.status.lower())})"
    if run.model_uri is None:
        return "it logged no model"
    return None


@as_guest()
def register(run: RunRecord, *, name: str, alias: str) -> tuple[int, int | None]:
    """Register a run's model as a new version and move the alias to it.

    A model that is registered under this name already keeps its version.

    Returns:
        The version, and the one that the alias pointed to before.

    Raises:
        DataError: The run has no model to register.
    """
    reason = why_not_registrable(run)
    if reason:
        raise DataError(f"run '{run.run_id}' ({run.name}) can't be registered: {reason}")
    client = mlflow.MlflowClient()
    version = _existing_version(client, name, run.run_id)
    if version is None:
        tags = {"fmtl.run": run.run_id, "fmtl.data": run.tags.get("fmtl.data", "")}
        version = int(mlflow.register_model(run.model_uri, name, tags=tags).version)
    previous = _alias_target(client, name, alias)
    client.set_registered_model_alias(name, alias, str(version))
    return version, previous


def _existing_version(client: mlflow.MlflowClient, name: str, run_id: str) -> int | None:
    found = client.search_model_versions(f"name = '{name}'")
    return next((int(v.version) for v in found if v.tags.get("fmtl.run") == run_id and v.status == "READY"), None)


def _alias_target(client: mlflow.MlflowClient, name: str, alias: str) -> int | None:
    try:
        return int(client.get_model_version_by_alias(name, alias).version)
    except MlflowException:  # there is no such alias yet
        return None
