"""The only door to MLflow, which belongs to the process that imports us: what we tell it is taken back."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

_QUIET = {
    "alembic": logging.WARNING,  # or a new store prints its whole history of schemas
    "mlflow": logging.WARNING,
    "mlflow.store.db.utils": logging.CRITICAL,  # prints tracebacks of what it raises as well
    "urllib3.connectionpool": logging.ERROR,  # a line for each time that it tries again
}
_SILENT = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with the password that an address may have
}
# Of commands that wait for an answer: MLflow's own 7 tries of two minutes each block one call for a quarter of an hour.
_SOON = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


@contextlib.contextmanager
def as_guest(*, soon: bool = True) -> Iterator[None]:
    """Within it MLflow is quiet and does not log by itself; after it all is as before.

    Args:
        soon: It gives up soon, unless the user has said how long.
    """
    with _set({**_SILENT, **(_SOON if soon else {})}):
        _quieter(+1)
        try:
            yield
        finally:
            _quieter(-1)


_guests, _levels, _counting = 0, dict.fromkeys(_QUIET, 0), threading.Lock()


def _quieter(more: int) -> None:
    """The first of all threads lowers the voices, the last one gives them back."""
    global _guests  # noqa: PLW0603  # of the process, as the loggers are
    with _counting:
        _guests += more
        for name, level in _QUIET.items():
            logger = logging.getLogger(name)
            if _guests == 1 and more > 0:
                _levels[name] = logger.level
                logger.setLevel(max(level, logger.level))
            elif _guests == 0:
                logger.setLevel(_levels[name])


@contextlib.contextmanager
def _set(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables that are not set yet."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ |= new
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


with _set({"MLFLOW_DISABLE_TELEMETRY": "true"}):  # read once, at this import if it is the first
    import mlflow  # noqa: F401
