"""The store in use, before the first question to it: that its address makes sense, and that it can be opened."""

import contextlib
import functools
import logging
import math
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import mlflow
import requests
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from fmtl.errors import EnvironmentFault, redacted
from fmtl.storage import durable
from fmtl.tracking import as_guest, faults

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = logging.getLogger(__name__)

SQLITE_MARK = b"SQLite format 3\0"
PATIENCE_SECONDS = 120  # for a database that another program keeps locked
SERVER_SECONDS = 5  # for a server's first short answer
ASKED_AGAIN_SECONDS = 60
_answered: dict[str, float] = {}  # when, by address
ANSWER_SECONDS = 20  # for a database server; MLflow itself would try for two minutes
_HOST = re.compile(r"(localhost|[\w-]+(\.[\w-]+)+|[\w-]+(?=:\d))(:\d+)?(/\S*)?")


@contextlib.contextmanager
def reachable() -> Iterator[None]:
    """Within it the store can be asked, and what goes wrong is an EnvironmentFault of one sentence."""
    try:
        with as_guest():
            open_store()
            yield
    except Exception as error:
        if faults.is_of_store(error):
            log.debug("%s", redacted(str(error)))
            raise faults.fault(error) from None  # MLflow's own words have the address with its password
        raise


def open_store() -> None:
    """Look at the address, and make or open what it names.

    Raises:
        EnvironmentFault: It can't be used; the sentence says what to set.
    """
    uri = mlflow.get_tracking_uri()
    check_address(uri)
    if uri.startswith("http") and time.monotonic() - _answered.get(uri, -math.inf) > ASKED_AGAIN_SECONDS:
        _ask_server(uri)
        _answered[uri] = time.monotonic()
    if uri.startswith("sqlite:"):
        name = make_url(uri).database
        if not name or name == ":memory:":
            return
        _make_new(uri, Path(name))
        _wait_until_free(Path(name))
    if "://" in uri and uri.partition("://")[0].partition("+")[0] in ("sqlite", "postgresql", "mysql", "mssql"):
        _look_into(uri)


def check_address(uri: str) -> None:
    """Raise EnvironmentFault where an address is none, with the one that was meant."""
    meant = None
    if uri.startswith("sqlite:") and not uri.startswith("sqlite:///"):
        meant = f"sqlite:///{uri.removeprefix('sqlite:').lstrip('/')} (three slashes; four before a path from the root)"
    elif "://" not in uri and _HOST.fullmatch(uri) and not Path(uri).exists():
        meant = f"http://{uri}"
    if meant:
        raise EnvironmentFault(f"MLFLOW_TRACKING_URI={redacted(uri)}: not an address; did you mean {meant}?")


def _ask_server(uri: str) -> None:
    """Raise EnvironmentFault where a server does not answer, does not know the user, or is too old."""
    try:
        answer = _version_of(uri)
    except Exception as error:
        raise faults.fault(error) from None
    if answer.status_code in (401, 403):
        raise faults.fault(requests.HTTPError(response=answer))
    if answer.ok and answer.text.strip().startswith(("0.", "1.", "2.")):
        raise EnvironmentFault(
            f"MLflow store {redacted(uri)}: the server is MLflow {answer.text.strip()}, and this needs MLflow 3, which "
            "keeps models beside runs; update the server (pip install 'mlflow>=3.16' there, then 'mlflow db upgrade')"
        )


def _version_of(uri: str) -> requests.Response:
    """A server's answer to one short question, asked once: MLflow's own first one would wait for minutes."""
    return http_request(
        get_default_host_creds(uri), "/version", "GET", timeout=SERVER_SECONDS, max_retries=0, raise_on_status=False
    )


def state_of_server(uri: str) -> str:
    """What one short question, asked once, shows: ``well``, ``unwell`` (an error of its own) or ``silent``.

    Other stores are well.
    """
    if not uri.startswith("http"):
        return "well"
    try:
        answer = _version_of(uri)
    except Exception:  # it may be busy with one large file
        return "silent"
    return "unwell" if answer.status_code >= 500 or answer.status_code == 429 else "well"


def _make_new(uri: str, path: Path) -> None:
    """Make an SQLite store that is not there yet: under a lock and elsewhere, then renamed.

    MLflow makes one table after the other, so that two first commands at once, or one that is killed, would leave a
    store that nothing can use.
    """
    if path.exists():
        if path.is_file() and _first_bytes(path) not in (b"", SQLITE_MARK):
            raise EnvironmentFault(f"MLflow store {uri}: {path} is not a database of SQLite; name another file")
        return
    path = path.absolute()
    try:
        with durable.locked(path):
            if not path.exists():
                new = durable.beside(path, "new")
                new.unlink(missing_ok=True)
                mlflow.MlflowClient(f"sqlite:///{quote(str(new))}").search_experiments(max_results=1)
                new.rename(path)
    except (EnvironmentFault, OSError) as error:
        raise EnvironmentFault(
            f"MLflow store {uri}: can't be made ({error}); set MLFLOW_TRACKING_URI to a place that can be written, "
            "such as sqlite:////tmp/mlflow.db, or to a server"
        ) from error


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(SQLITE_MARK))


def _wait_until_free(path: Path) -> None:
    """MLflow gives up on a locked database after 20 seconds; who makes a backup of it may take longer."""
    end, told = time.monotonic() + PATIENCE_SECONDS, False
    while True:
        try:
            with contextlib.closing(
                sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)
            ) as database:
                database.execute("select count(*) from sqlite_master").fetchone()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                return  # MLflow's own error says it better
            if not told:
                log.warning("%s is locked by another program; waiting for it", path)
                told = True


@functools.cache
def _look_into(uri: str) -> None:
    """Connect once, soon; and say it where MLflow is about to rewrite an older store's tables."""
    answer: list[BaseException | None] = []

    def ask() -> None:
        try:
            engine = create_engine(uri)
            _say_upgrade(engine, uri)
            engine.dispose()
            answer.append(None)
        except (SQLAlchemyError, ImportError, MlflowException, OSError) as error:
            answer.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    if not answer:
        raise EnvironmentFault(f"MLflow store {redacted(uri)}: it does not answer in {ANSWER_SECONDS} s; is it up?")
    if answer[0] is not None:
        raise faults.fault(answer[0], store=uri) from None


def _say_upgrade(engine: "Engine", uri: str) -> None:
    from alembic.runtime.migration import MigrationContext
    from mlflow.store.db import utils

    with engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    wanted = utils._get_latest_schema_revision()
    if revision in (None, wanted) or set(utils.Base.metadata.tables) <= set(inspect(engine).get_table_names()):
        return  # new, current, or one that MLflow refuses with a word of its own
    copy = ""
    if uri.startswith("sqlite:"):
        path = Path(str(make_url(uri).database)).absolute()
        kept = path.with_name(f"{path.name}.{revision}")
        with durable.replacing(kept) as temporary:
            shutil.copyfile(path, temporary)
        copy = f"; a copy of it as it was is {kept}"
    log.warning(
        "MLflow store %s: made by an older MLflow; its tables are upgraded now (from %s to %s), after which older "
        "versions can't open it%s", redacted(uri), revision, wanted, copy,
    )  # fmt: skip
