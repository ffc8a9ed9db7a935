"""The only door to MLflow, which belongs to the process that imports us: what we tell it is taken back."""

import contextlib
import logging
import os
from collections.abc import Iterator

_VARIABLES = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # its 7 block one call for four minutes
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_LOGGERS = ("alembic", "mlflow")  # or a new store prints its whole history of schemas


@contextlib.contextmanager
def as_guest() -> Iterator[None]:
    """Within it MLflow is quiet and gives up soon, unless the user has said how long; after it all is as before."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with _set(_VARIABLES):
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


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
