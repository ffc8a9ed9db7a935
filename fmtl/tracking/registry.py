"""Registered models: versions and aliases. What is registered exists, whole and as it was logged."""

import contextlib
import getpass
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException

from fmtl.errors import DataError
from fmtl.tracking import logged_models, model_files, store
from fmtl.tracking.opening import reachable
from fmtl.tracking.store import RunRecord

MOVES = "fmtl.alias."  # tags of a registered model that keep the moves of its aliases
MOST_CHARACTERS = 5000  # of a tag
MOST_WHY = 1000


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


def check(run: RunRecord) -> None:
    """
    Raises:
        DataError: The run has no model to register, or it is not whole, was altered, or says something else than when
            it was logged.
        EnvironmentFault: The store can't be used.
    """
    with reachable():
        if reason := why_not_registrable(run) or _why_not_whole(run):
            raise DataError(f"run '{run.run_id}' ({run.name}) can't be registered: {reason}")


def add_version(run: RunRecord, name: str, *, tags: Mapping[str, str], description: str) -> int:
    """A run's model as a version of a registered model; one that it has already is kept, and described anew.

    Args:
        tags: Besides the run and its dataset. Longer ones than MLflow takes are cut.
    """
    tags = {"fmtl.run": run.run_id, "fmtl.data": run.tags.get("fmtl.data", "")} | dict(tags)
    tags = _cut(tags)
    with reachable():
        client = mlflow.MlflowClient()
        version = _existing_version(client, name, run.run_id)
        if version is None:
            version = int(mlflow.register_model(str(run.model_uri), name, tags=tags).version)
        else:
            _set_tags(client, name, version, tags)
        client.update_model_version(name, str(version), description[:MOST_CHARACTERS])
    return version


def tag_version(name: str, version: int, tags: Mapping[str, str]) -> None:
    """Say something of a version."""
    with reachable():
        _set_tags(mlflow.MlflowClient(), name, version, _cut(tags))


def _set_tags(client: mlflow.MlflowClient, name: str, version: int, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(name, str(version), key, value)


def _cut(tags: Mapping[str, str]) -> dict[str, str]:
    """To what MLflow takes."""
    return {key: value[:MOST_CHARACTERS] for key, value in tags.items()}


@dataclass(frozen=True)
class Move:
    """One move of an alias.

    Attributes:
        before, after: Versions; None where it was new.
        at: When, UTC in ISO 8601.
        by: The user's name on the machine.
        is_back: Whether it takes the last move back.
    """

    before: int | None
    after: int
    at: str
    by: str
    why: str
    is_back: bool = False


def alias_target(name: str, alias: str) -> int | None:
    """The version that an alias points to; None where there is none."""
    with reachable():
        try:
            return int(mlflow.MlflowClient().get_model_version_by_alias(name, alias).version)
        except MlflowException as error:
            if error.error_code not in store.NOT_FOUND:
                raise
            return None


def move_alias(name: str, alias: str, version: int, *, why: str, is_back: bool = False) -> int | None:
    """Let an alias point to a version, and keep that it did. Returns the version before.

    What is kept comes first: of two processes at once none loses the other's line.
    """
    before = alias_target(name, alias)
    if before == version:
        return before
    now = datetime.now(UTC)
    move = Move(before, version, now.isoformat(timespec="milliseconds"), _user(), why[:MOST_WHY], is_back)
    key = f"{MOVES}{alias}.{int(now.timestamp() * 1e6):020d}.{secrets.token_hex(4)}"
    with reachable():
        client = mlflow.MlflowClient()
        client.set_registered_model_tag(name, key, json.dumps(asdict(move), ensure_ascii=False))
        client.set_registered_model_alias(name, alias, str(version))
    return before


def moves(name: str, alias: str) -> list[Move]:
    """Every move of an alias that was kept, the first one first.

    Raises:
        DataError: There is no such registered model.
    """
    with reachable():
        try:
            tags = mlflow.MlflowClient().get_registered_model(name).tags
        except MlflowException as error:
            if error.error_code not in store.NOT_FOUND:
                raise
            raise DataError(f"no registered model '{name}' in the store {store.address()}", where="name") from error
    found = []
    for key in sorted(key for key in tags if key.startswith(f"{MOVES}{alias}.")):
        with contextlib.suppress(ValueError, TypeError):  # somebody else's, or altered
            move = Move(**json.loads(tags[key]))
            if isinstance(move.after, int) and isinstance(move.before, int | None):
                found.append(replace(move, at=str(move.at), by=str(move.by), why=str(move.why)))
    return found


def step_back(moved: Sequence[Move], now: int | None) -> int | None:
    """The version before the last move that was not taken back; None where there is none.

    Args:
        now: Where the alias points. Moves that led from there were begun and not done, or others came between; where
            somebody else has moved it, the step leads to where the last move led.
    """
    stack: list[Move] = []
    for move in moved:
        if move.is_back and stack:
            stack.pop()
        elif not move.is_back:
            stack.append(move)
    while stack and stack[-1].before == now and stack[-1].after != now:
        stack.pop()
    if stack and stack[-1].after != now:
        return stack[-1].after
    return stack[-1].before if stack else None


def run_of(name: str, version: int) -> RunRecord | None:
    """The train run that a version is the model of; None where it is not known or not there any more."""
    with reachable():
        try:
            found = mlflow.MlflowClient().get_model_version(name, str(version))
        except MlflowException as error:
            if error.error_code not in store.NOT_FOUND:
                raise
            raise DataError(f"version {version} was deleted", where=name) from error
    run_id = found.tags.get("fmtl.run") or found.run_id
    if not run_id:
        return None
    try:
        return store.get_run(run_id)
    except DataError:
        return None


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return ""


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
    quoted = store.quoted(name)
    found = client.search_model_versions(f"name = {quoted}") if quoted else []
    return next((int(v.version) for v in found if v.tags.get("fmtl.run") == run_id and v.status == "READY"), None)
