"""A store is tried before the first epoch, by short requests: what would fail after hours fails at once."""

import base64
import http.client
import logging
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import mlflow
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from fmtl.errors import EnvironmentFault, redacted
from fmtl.storage import durable
from fmtl.tracking import faults
from fmtl.tracking.delivery.starting import Started
from fmtl.tracking.opening import reachable

log = logging.getLogger(__name__)

NAME = "fmtl-trial.txt"
SECONDS = 5  # for one short answer
WAY_OUT = "; --offline true trains without the store, and 'fmtl sync' delivers it later"


def check_artifacts(started: Started) -> None:
    """Write a small artifact, read it back, and remove it.

    Raises:
        EnvironmentFault: It can't be written, is not what was written, or the server does not see it.
    """
    if started.folder is not None:
        durable.check_writable(started.folder)
        if mlflow.get_tracking_uri().startswith("http"):
            _check_seen(started, started.folder)
        return
    content = uuid.uuid4().hex
    with reachable(), durable.temporary_folder() as folder:
        repository = get_artifact_repository(started.artifact_uri)
        (folder / NAME).write_text(content, encoding="utf-8")
        repository.log_artifact(str(folder / NAME))
        back = Path(repository.download_artifacts(NAME, dst_path=tempfile.mkdtemp(dir=folder)))
        if back.read_text(encoding="utf-8") != content:
            raise EnvironmentFault(f"MLflow store {redacted(mlflow.get_tracking_uri())}: gives back other artifacts")
        _remove(repository, NAME)


def check_size(started: Started, num_bytes: int) -> None:
    """Raise EnvironmentFault where a server, or what stands in front of it, refuses files of so many bytes.

    It is asked by the head of a request alone (Expect: 100-continue), so that nothing is sent.
    """
    uri = mlflow.get_tracking_uri()
    if not (started.artifact_uri.startswith("mlflow-artifacts:") and uri.startswith("http")):
        return
    try:
        status = _ask_by_head(started, num_bytes)
    except (OSError, http.client.HTTPException) as error:
        log.debug("the size of uploads was not tried: %s", error)
        return
    if status == 413:
        raise EnvironmentFault(
            f"MLflow store {redacted(uri)}: {faults.TOO_LARGE}; a checkpoint takes {num_bytes / 1e6:.0f} MB{WAY_OUT}"
        )


def _ask_by_head(started: Started, num_bytes: int) -> int:
    """The status that a server answers to an upload of so many bytes before any is sent; 100 where it would take it."""
    server = urlparse(mlflow.get_tracking_uri())
    kind: Callable[..., Any] = http.client.HTTPSConnection if server.scheme == "https" else http.client.HTTPConnection
    connection = kind(server.hostname, server.port, timeout=SECONDS)
    try:
        path = urlparse(started.artifact_uri).path.lstrip("/")
        connection.putrequest("PUT", f"{server.path.rstrip('/')}/api/2.0/mlflow-artifacts/artifacts/{path}/{NAME}")
        for name, value in _authorization().items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(num_bytes))
        connection.putheader("Expect", "100-continue")
        connection.endheaders()
        first = connection.sock.recv(64).decode("latin-1")  # getresponse would pass over a 100
        return int(first.split()[1])
    except (IndexError, ValueError, TimeoutError):
        return 0
    finally:
        connection.close()


def _authorization() -> dict[str, str]:
    credentials = get_default_host_creds(mlflow.get_tracking_uri())
    if credentials.username and credentials.password:
        user = f"{credentials.username}:{credentials.password}".encode()
        return {"Authorization": f"Basic {base64.b64encode(user).decode()}"}
    return {"Authorization": f"Bearer {credentials.token}"} if credentials.token else {}


def _check_seen(started: Started, folder: Path) -> None:
    """A server that keeps artifacts in a folder of its own machine tells its clients to write there, too."""
    trial = folder / NAME
    trial.write_text("can the server see this?", encoding="utf-8")
    try:
        answer = http_request(
            get_default_host_creds(mlflow.get_tracking_uri()), "/api/2.0/mlflow/artifacts/list", "GET",
            params={"run_id": started.run_id}, timeout=SECONDS, max_retries=0, raise_on_status=False,
        )  # fmt: skip
        seen = answer.ok and any(file["path"] == NAME for file in answer.json().get("files", ()))
    finally:
        trial.unlink(missing_ok=True)
    if not seen:
        raise EnvironmentFault(
            f"MLflow store {redacted(mlflow.get_tracking_uri())}: the server can't see artifacts that are written to "
            f"{folder} on this machine, since that path is one of its own disk; start it with --serve-artifacts and "
            f"--artifacts-destination (and a new experiment), or mount the folder here{WAY_OUT}"
        )


def _remove(repository: Any, name: str) -> None:
    try:
        repository.delete_artifacts(name)
    except Exception as error:  # not every store lets its clients remove things
        log.debug("%s stays in the store: %s", name, error)
