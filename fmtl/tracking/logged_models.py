"""Where the files of a logged model are on this disk."""

import atexit
import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from fmtl.errors import DataError, EnvironmentFault, redacted
from fmtl.storage import cache, durable
from fmtl.tracking import store
from fmtl.tracking.opening import reachable

log = logging.getLogger(__name__)

MOST_CACHED_BYTES = 4 << 30
_ADDRESS = re.compile(r"models:/m-[0-9a-f]{32}")  # of a logged model, by its id
_folders = contextlib.ExitStack()
atexit.register(_folders.close)


def folder(uri: str, *, cached: bool = False) -> Path:
    """All files of a logged model: where they are, if that is this disk; else a copy that goes with this process.

    Args:
        cached: A copy that was made earlier will do, and this one is kept for later.

    Raises:
        DataError: There is no such model, or its files are not there.
        EnvironmentFault: The store can't be used.
    """
    if cached and _ADDRESS.fullmatch(uri) and _cached(uri.removeprefix("models:/")).is_dir():
        return _kept(uri.removeprefix("models:/"))
    with _found(uri):
        model_id = _model_id(uri)
        if model_id is None:
            return _download(uri, _until_the_end())
        location = mlflow.MlflowClient().get_logged_model(model_id).artifact_location
        if (local := store.local_folder(location)) is not None:
            if not local.is_dir():
                raise DataError(f"model '{uri}': its files were in {local}, which is not there any more")
            return local
        return _kept(model_id) if cached else _download(f"models:/{model_id}", _until_the_end())


@contextlib.contextmanager
def _found(uri: str) -> Iterator[None]:
    """Within it, that the store does not know a model is a DataError."""
    with reachable():
        try:
            yield
        except MlflowException as error:
            if error.error_code not in store.NOT_FOUND:
                raise
            message = redacted(getattr(error, "message", str(error)))
            raise DataError(f"model '{uri}': not found in {store.address()} ({message})") from error


def lasting_address(uri: str) -> str:
    """``models:/m-...`` of what a name with a version or an alias means now; what names no logged model stays.

    Raises:
        DataError, EnvironmentFault: As ``folder``.
    """
    with _found(uri):
        model_id = _model_id(uri)
    return f"models:/{model_id}" if model_id else uri


def run_id_of(uri: str) -> str | None:
    """Id of the run that logged a model; None where the address names no logged model.

    Raises:
        DataError, EnvironmentFault: As ``folder``.
    """
    with _found(uri):
        model_id = _model_id(uri)
        return mlflow.MlflowClient().get_logged_model(model_id).source_run_id if model_id else None


def _model_id(uri: str) -> str | None:
    """Of the logged model that an address names; None where it names something older."""
    client, name = mlflow.MlflowClient(), uri.removeprefix("models:/")
    if name == uri:
        return None
    if _ADDRESS.fullmatch(uri):
        return name
    if "@" in name:
        name, _, alias = name.rpartition("@")
        return _of_version(client.get_model_version_by_alias(name, alias))
    name, _, number = name.rpartition("/")
    return _of_version(client.get_model_version(name, number)) if number.isdecimal() else None


def _of_version(version: ModelVersion) -> str | None:
    """Some stores say it in the version's source alone."""
    source = version.source or ""
    return version.model_id or (source.removeprefix("models:/") if _ADDRESS.fullmatch(source) else None)


def _download(uri: str, folder: Path) -> Path:
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except OSError as error:
        raise DataError(f"model '{uri}': its files are not there ({redacted(str(error))})") from error


def _until_the_end() -> Path:
    return _folders.enter_context(durable.temporary_folder())


def _cached(model_id: str) -> Path:
    return cache.cache_dir() / "models" / f"{model_id}-{hashlib.sha256(store.address().encode()).hexdigest()[:8]}"


def _kept(model_id: str) -> Path:
    """From the cache, or into it: a job that labels every hour downloads a model once."""
    kept = _cached(model_id)
    if kept.is_dir():
        with contextlib.suppress(OSError):
            os.utime(kept)
        return kept
    try:
        with durable.locked(kept):
            if not kept.is_dir():
                with durable.publishing(kept) as temporary:
                    _download(f"models:/{model_id}", temporary)
    except EnvironmentFault as error:  # nothing can be kept here
        log.debug("no cache: %s", error)
        return _download(f"models:/{model_id}", _until_the_end())
    cache.prune_folders(kept.parent, MOST_CACHED_BYTES)
    return kept
