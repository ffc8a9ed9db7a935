"""The errors a user can fix. Everything else is a bug and keeps its traceback.

::

    FmtlError
    ├── UsageError           exit 2   a wrong option, setting or config file
    │   └── Diverged                  training left the finite numbers: a setting was too bold
    ├── DataError            exit 3   a table, image, prepared dataset, checkpoint or run that can't be used
    └── EnvironmentFault     exit 4   disk, memory, server, or weights that can't be fetched
    Terminated               exit 143 SIGTERM, raised where the main thread stands
"""


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
    """Input that can't be used: table, image, prepared dataset, checkpoint or run."""

    exit_code = 3


class EnvironmentFault(FmtlError):
    """The machine or a service is in the way: disk, memory, server, weights unavailable."""

    exit_code = 4


class Terminated(BaseException):
    """SIGTERM arrived. Not an ``Exception``, so that no handler mistakes it for a failure."""

    exit_code = 143


def first_ten(problems: list[str]) -> str:
    """The first ten problems, one per line, and how many there are in all."""
    shown = "\n".join(f"  - {problem}" for problem in problems[:10])
    rest = f"\n  ... {len(problems)} in all" if len(problems) > 10 else ""
    return shown + rest
