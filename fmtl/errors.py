"""The errors a user can fix. Everything else is a bug and keeps its traceback.

::

    FmtlError
    ├── UsageError           exit 2   a wrong option, setting or config file
    │   └── Diverged                  training left the finite numbers: a setting was too bold
    ├── DataError            exit 3   a table, image, prepared dataset, checkpoint or run that can't be used
    ├── EnvironmentFault     exit 4   disk, memory, server, or weights that can't be fetched
    ├── EndedEarly                    a trial that falls behind, of a sweep
    ├── Refused              exit 5   a model that is not good enough for what was asked
    └── RankFailed           its own  another of the processes that train together failed
    Terminated               exit 143 SIGTERM, raised where the main thread stands
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches

SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY")
# Control characters but those of ordinary text, Unicode's own line ends, its marks of direction, and bytes that were
# no text.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_USER_INFO = re.compile(r"://[^/\s]+@")

TABLE = "table"  # where an error is that a room raises which does not know the table's file


class FmtlError(Exception):
    """A failure whose message alone tells the user what to do.

    Attributes:
        exit_code: Of the process.
        outcome: What the tag ``fmtl.outcome`` of its run becomes.
    """

    exit_code = 1
    outcome = "failed"


class UsageError(FmtlError):
    """A wrong option, setting or config file."""

    exit_code = 2


class Diverged(UsageError):
    """The loss is no longer a finite number."""

    outcome = "diverged"


class DataError(FmtlError):
    """Input that can't be used: table, image, prepared dataset, checkpoint or run.

    Attributes:
        message: What was expected, what was found, and what to do.
        where: The file, or whatever else is at fault; the text of the error begins with it.
    """

    exit_code = 3

    def __init__(self, message: str, *, where: str | None = None):
        between = "" if message.startswith("\n") else " "
        super().__init__(f"{where}:{between}{message}" if where else message)
        self.message, self.where = message, where


class EnvironmentFault(FmtlError):
    """The machine or a service is in the way: disk, memory, server, weights unavailable."""

    exit_code = 4


class Refused(FmtlError):
    """A model is not good enough to be registered, by rules that its owner set."""

    exit_code = 5


class EndedEarly(FmtlError):
    """A training that its sweep has no more use for."""

    outcome, status = "ended early", "KILLED"


class RankFailed(FmtlError):
    """Another of the processes that train together failed, and this is what it said."""

    def __init__(self, message: str, *, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class Terminated(BaseException):
    """SIGTERM arrived. Not an ``Exception``, so that no handler mistakes it for a failure."""

    exit_code = 143


def redacted(text: str) -> str:
    """The text without users and passwords: those of addresses, and those that the environment holds for a store."""
    for name in SECRETS:
        value = os.environ.get(name, "")
        if len(value) > 3:  # a shorter one would blot out ordinary words
            text = text.replace(value, "***")
    return _USER_INFO.sub("://***@", text)


def neutral(text: str) -> str:
    """The text with what would steer a terminal, or turn its letters around, written out: strangers' words are shown
    there, in names of files, columns, classes and runs."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


@contextlib.contextmanager
def located(table: str) -> Iterator[None]:
    """Errors about the table get the name of its file."""
    try:
        yield
    except DataError as error:
        if error.where != TABLE:
            raise
        raise DataError(error.message, where=table) from error


def first_ten(problems: Sequence[str]) -> str:
    """The first ten problems, one per line, and how many there are in all."""
    shown = "\n".join(f"  - {problem}" for problem in problems[:10])
    rest = f"\n  ... {len(problems)} in all" if len(problems) > 10 else ""
    return shown + rest


def did_you_mean(
    name: str, known: Iterable[str], *, otherwise: str = "", most: int = 1, cutoff: float = 0.6, quote: str = "'"
) -> str:
    """``did you mean 'x'?`` where something known is spelt alike, else ``otherwise``.

    Args:
        most: Suggestions.
        cutoff: How alike, from 0 to 1: see ``difflib.get_close_matches``.
    """
    near = get_close_matches(name, list(known), n=most, cutoff=cutoff)
    return f"did you mean {' or '.join(f'{quote}{found}{quote}' for found in near)}?" if near else otherwise
