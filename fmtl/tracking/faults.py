"""Every way a store can fail, as one sentence with the way out."""

import re
from dataclasses import dataclass

import mlflow
import requests
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from fmtl.errors import EnvironmentFault, FmtlError, redacted

_STATUS = re.compile(r"(?:error code|status code:?|response code) (\d{3})|\b(\d{3}) (?:Client|Server) Error")
_MODULE = re.compile(r"No module named '([\w.]+)'")
PACKAGES = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient",
            "google": "google-cloud-storage", "azure": "azure-storage-blob", "botocore": "boto3"}  # fmt: skip

CREDENTIALS = (
    "it asks for a user and a password that it accepts ({status}): set MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
)
TOO_LARGE = (
    "it refuses a file of this size (413): raise the limit of whatever stands in front of it "
    "(nginx: client_max_body_size 0)"
)
BY_TEXT = (  # what is found in the words of an error, small letters; what it means and what to do
    ("database is locked", "another program keeps the database locked; wait for it or end it"),
    ("database or disk is full", "the disk under the database is full; free some space"),
    ("no space left", "its disk is full; free some space"),
    ("readonly database", "the database can't be written; allow yourself to write to the file and its folder"),
    ("read-only database", "the database can't be written; allow yourself to write to the file and its folder"),
    ("file is not a database", "the file is not a database; name another one, or remove it"),
    ("disk image is malformed", "the database is damaged; restore it from a backup"),
    ("unable to open database file", "the database file can't be opened or made; name a place that can be written"),
    ("can't locate revision", "it was made by a newer MLflow; update mlflow"),
    ("out-of-date database schema", "it was made by another version of MLflow; see 'mlflow db upgrade'"),
    ("already in progress", "another program is changing it; try again"),
    ("maintenance mode", "a store of files is no longer supported by MLflow; use sqlite:///mlflow.db "
                         "('mlflow migrate-filestore' moves the runs), or name a server with http:// in front"),
    ("could not translate host name", "its name is not known to this network"),
    ("name or service not known", "its name is not known to this network"),
    ("name resolution", "its name is not known to this network"),
    ("password authentication failed", "the database does not accept this user and password"),
    ("certificate verify failed", "its certificate is not trusted here; set MLFLOW_TRACKING_SERVER_CERT_PATH"),
    ("connection refused", "nothing listens there; is the server up?"),
    ("connection reset", "it breaks the connection off; is there a proxy in between?"),
    ("connection aborted", "it breaks the connection off; is there a proxy in between?"),
    ("timed out", "it does not answer in time"),
    ("timeout", "it does not answer in time"),
    ("unable to locate credentials", "the bucket wants credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ("in the deleted state", "the run was deleted there; 'mlflow runs restore' brings it back"),
    ("must be in the 'active' state", "it was deleted there; 'mlflow experiments restore' or 'mlflow runs restore' "
                                      "brings it back"),
    ("must be in an active state", "it was deleted there; 'mlflow experiments restore' or 'mlflow runs restore' "
                                   "brings it back"),
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """Why a store did not take something.

    Attributes:
        what: It and the way out, without the store's name.
        refused: The store answered, and said no: asking again at once is of no use.
    """

    what: str
    refused: bool = False

    def __str__(self) -> str:
        return self.what


def problem_of(error: BaseException) -> Problem:
    """What an error of MLflow, or of anything that it uses, means to who asked."""
    if isinstance(error, FmtlError):
        return Problem(str(error))
    text = " ".join(redacted(" / ".join(_words(error))).split())
    if module := _MODULE.search(text):
        name = module[1].split(".")[0]
        return Problem(
            f"the package {PACKAGES.get(name, name)} is missing: pip install {PACKAGES.get(name, name)}", True
        )
    status = _status(error, text)
    if status in (401, 403):
        return Problem(CREDENTIALS.format(status=status), refused=True)
    if status == 413:
        return Problem(TOO_LARGE, refused=True)
    found = next((meaning for words, meaning in BY_TEXT if words in text.lower()), None)
    if found:
        return Problem(found)
    refused = isinstance(error, MlflowException) and 400 <= error.get_http_status_code() < 500
    return Problem(_short(text), refused and status not in (408, 429))


def fault(error: BaseException, *, store: str | None = None) -> EnvironmentFault:
    """An error as one that says where it looked.

    Args:
        store: Its address; the one in use if None.
    """
    where = redacted(store or mlflow.get_tracking_uri())
    return EnvironmentFault(f"MLflow store {where}: {problem_of(error)}; MLFLOW_TRACKING_URI names another store")


def is_of_store(error: BaseException) -> bool:
    """Whether it comes from MLflow or from what it reaches a store with."""
    if isinstance(error, MlflowException | SQLAlchemyError | requests.RequestException):
        return True
    return type(error).__module__.partition(".")[0] in (
        "botocore",
        "boto3",
        "psycopg2",
        "psycopg",
        "pymysql",
        "urllib3",
    )


def _words(error: BaseException) -> list[str]:
    """The error's words and those of its causes, each once."""
    words: list[str] = []
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        said = str(getattr(at, "message", "") or at) or type(at).__name__
        if not any(said in earlier for earlier in words):
            words.append(said)
        at = at.__cause__ or at.__context__
    return words


def _status(error: BaseException, text: str) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, requests.Response):
        return response.status_code
    found = _STATUS.search(text)
    return int(found[1] or found[2]) if found else None


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]} ..."
