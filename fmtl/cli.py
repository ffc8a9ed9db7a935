"""The command line: options are made from the settings classes, so that each has one name everywhere."""

import contextlib
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, cast

import click

from fmtl import __version__, interruption, machine
from fmtl.errors import EnvironmentFault, FmtlError, Terminated, UsageError, neutral, redacted
from fmtl.settings import reading, schema, space, wording
from fmtl.settings.fields import Settings
from fmtl.settings.reading import Given
from fmtl.settings.train import is_model_address
from fmtl.together import ranks

CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 110,
    "token_normalize_func": lambda token: token.replace("_", "-"),  # mlflow run passes --learning_rate
}


SHELLS = ("bash", "sh", "dash")
_MOVES = re.compile("[\r\n]*(\x1b\\[A)*")  # of a cursor, by progress bars

# An option whose value may be left out: the bare flag means true.
BARE_FLAG: dict[str, Any] = {"is_flag": False, "flag_value": "true"}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="fmtl")
def cli() -> None:
    """Train, compare and serve product-attribute classifiers, recorded by MLflow."""


Read = Callable[[Path, dict[str, Given]], tuple]  # a file and options to what a command's function takes


def command(kind: type[Settings], *, takes_config: bool = False, read: Read | None = None) -> Callable:
    """Register a function of settings as a command with an option per setting.

    Args:
        read: Of a command whose file is more than settings.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        def callback(debug: bool, quiet: bool, verbose: bool, config: str | None = None, **values: str | None) -> None:
            _listen(quiet, verbose)
            given = {k: Given(v, option_name(k)) for k, v in values.items() if v is not None}
            if read is None:
                function(*_settings(kind, given, config))
                return
            if config is None:
                raise UsageError("config: required, not given")
            function(*read(Path(config), given), Path(config))

        options: list[click.Parameter] = [_option(kind, name) for name in kind.model_fields]
        if takes_config:
            options.append(
                click.Option(["--config"], metavar="FILE", help="YAML file of settings; options win over it.")
            )
        options += [
            _switch("quiet", "Say no more than warnings and what came of it."),
            _switch("verbose", "Say more of what is done."),
            click.Option(["--debug"], is_flag=True, help="Show tracebacks."),
        ]
        help_text = (function.__doc__ or "").strip()
        made = click.Command(function.__name__.strip("_"), callback=callback, params=options, help=help_text)
        cli.add_command(made)
        return made

    return decorate


def option_name(setting: str) -> str:
    return "--" + setting.replace("_", "-")


def _option(kind: type[Settings], name: str) -> click.Option:
    field = kind.model_fields[name]
    is_bool = field.annotation is bool or field.annotation == (bool | None)
    default, allowed = wording.default_text(kind, name), wording.allowed_text(kind, name)
    facts = "; ".join(filter(None, ("required" if field.is_required() else default and f"default: {default}", allowed)))
    return click.Option(
        [option_name(name)],
        metavar="BOOL" if is_bool else "VALUE",
        help=f"{field.description} [{facts}]" if facts else field.description,
        **(BARE_FLAG if is_bool else {}),
    )


def _switch(name: str, help_text: str) -> click.Option:
    """An option that is no setting; as every yes or no, the bare flag means true."""
    return click.Option(
        [option_name(name)], type=click.BOOL, default=False, metavar="BOOL", help=help_text, **BARE_FLAG
    )


class _Neutral:
    """A stream to which nothing is written that would steer a terminal.

    Args:
        has_bars: Whether progress bars are drawn there: they move the cursor.
    """

    def __init__(self, stream: TextIO, *, has_bars: bool):
        self._stream, self._has_bars = stream, has_bars

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self._has_bars and _MOVES.fullmatch(text):
            return self._stream.write(text)
        start = "\r" * (self._has_bars and text.startswith("\r"))  # of a bar that is drawn anew
        self._stream.write(start + neutral(text[len(start) :]))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)


@contextlib.contextmanager
def _neutral_terminal() -> Iterator[None]:
    """Where there is one: a process in the background may have no streams."""
    with contextlib.ExitStack() as stack:
        if sys.stdout is not None:
            out = cast(TextIO, _Neutral(sys.stdout, has_bars=False))
            stack.enter_context(contextlib.redirect_stdout(out))
        if sys.stderr is not None:
            err = cast(TextIO, _Neutral(sys.stderr, has_bars=True))
            stack.enter_context(contextlib.redirect_stderr(err))
        yield


class _Terminal(logging.Handler):
    """What modules have to say: to standard output, warnings to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        said = neutral(redacted(self.format(record)))
        if record.levelno < logging.INFO:
            said = f"{record.name}: {said}"
        print(said, file=sys.stderr if record.levelno >= logging.WARNING else sys.stdout, flush=True)


def _listen(quiet: bool, verbose: bool) -> None:
    if quiet and verbose:
        raise UsageError("quiet, verbose: give one of them, not both")
    log = logging.getLogger("fmtl")
    if not any(isinstance(handler, _Terminal) for handler in log.handlers):
        log.addHandler(_Terminal())
    # Of processes that train together the first one speaks.
    log.setLevel(logging.WARNING if quiet or not ranks.here().is_first else logging.DEBUG if verbose else logging.INFO)


def _settings(kind: type[Settings], given: dict[str, Given], file: str | None) -> list[Settings]:
    """One per variant of the config file; one without a file. Precedence: command line, file, default."""
    return [reading.build(kind, given)] if file is None else reading.build_from_file(kind, given, Path(file))


def _say_first(line: str) -> None:
    """Before torch is loaded, which takes seconds, on a busy machine many."""
    logging.getLogger("fmtl").info("%s", line)


def _what(settings: schema.TrainSettings) -> str:
    if settings.resume:
        return f"on from {settings.resume}"
    network = f"weights of {settings.weights}" if is_model_address(settings.weights) else settings.backbone
    if settings.budget and settings.leaves_network_open:
        network = "a bundled network"
    return f"{network}, {settings.mode}, on {settings.data}"


@command(schema.PrepareSettings, takes_config=True)
def prepare(*variants: schema.PrepareSettings) -> None:
    """Turn a product table and its photos into a prepared dataset."""
    if len(variants) > 1:
        raise UsageError(f"config: one dataset is prepared at a time, and {len(variants)} variants are given")
    from fmtl.commands.prepare import prepare, prepare_part

    (prepare_part if variants[0].part else prepare)(*variants)


@command(schema.FetchSettings)
def fetch(settings: schema.FetchSettings) -> None:
    """Download the photos that a table names by their addresses."""
    from fmtl.commands.fetch import fetch

    fetch(settings)


@command(schema.TrainSettings, takes_config=True)
def train(*variants: schema.TrainSettings) -> None:
    """Train a network on a prepared dataset, or one per variant of --config; each is logged to an MLflow run."""
    _say_first(f"train: {_what(*variants) if len(variants) == 1 else f'{len(variants)} variants'}")
    from fmtl.commands.train import train_variants

    train_variants(variants, since=click.get_current_context().obj)


@command(schema.SweepSettings, takes_config=True, read=space.read)
def sweep(settings: schema.SweepSettings, varied: space.Space, config: Path) -> None:
    """Train many settings from one file: a grid, seeds, or a search. Start it on many machines to share the work."""
    _say_first(f"sweep: {config}")
    from fmtl.commands.sweep import sweep

    sweep(settings, varied, config)


@command(schema.CompareSettings)
def compare(settings: schema.CompareSettings) -> None:
    """Rank the train runs and write the leaderboard; with --register, register the best."""
    from fmtl.commands.compare import compare

    compare(settings)


@command(schema.EvaluateSettings)
def evaluate(settings: schema.EvaluateSettings) -> None:
    """Test a model on another prepared dataset, as a training tests its own."""
    _say_first(f"evaluate: {settings.model} on {settings.data}")
    from fmtl.commands.evaluate import evaluate

    evaluate(settings)


@command(schema.RegisterSettings)
def register(settings: schema.RegisterSettings) -> None:
    """Register a train run's model and move the alias to it."""
    from fmtl.commands.register import register

    register(settings)


@command(schema.HistorySettings)
def history(settings: schema.HistorySettings) -> None:
    """Show every move of a registered model's alias: when, who, from which version to which, and why."""
    from fmtl.commands.aliases import history

    history(settings)


@command(schema.RollbackSettings)
def rollback(settings: schema.RollbackSettings) -> None:
    """Move a registered model's alias back to the version that it pointed to before."""
    from fmtl.commands.aliases import rollback

    rollback(settings)


@command(schema.PredictSettings)
def predict(settings: schema.PredictSettings) -> None:
    """Label images with a model."""
    _say_first(f"predict: {settings.table or settings.images or ''} with {settings.model}")
    from fmtl.commands.predict import predict

    predict(settings)


@command(schema.ExportSettings)
def export(settings: schema.ExportSettings) -> None:
    """Write a model as one file with its preprocessing inside, compared with the model on all its test photos."""
    _say_first(f"export: {settings.model} as {settings.format}")
    from fmtl.commands.export import export

    export(settings)


@command(schema.ServeSettings)
def serve(settings: schema.ServeSettings) -> None:
    """Answer over HTTP: photos in, labels and confidences out, and a page to try it on."""
    _say_first(f"serve: {settings.model}")
    try:
        from fmtl.commands.serve import serve
    except ImportError as error:
        raise UsageError(f"serve needs {error.name}; pip install 'fmtl[serve]'") from error

    serve(settings)


@command(schema.JoinSettings)
def join(settings: schema.JoinSettings) -> None:
    """Make one of the parts that several machines prepared or predicted: to the byte what one machine makes."""
    from fmtl.commands.join import join

    join(settings)


@command(schema.SyncSettings)
def sync(settings: schema.SyncSettings) -> None:
    """Deliver run folders to the MLflow store: what a server's absence has kept back, or an offline training."""
    from fmtl.commands.upkeep.sync import sync

    sync(settings)


@command(schema.DoctorSettings)
def doctor(settings: schema.DoctorSettings) -> None:
    """Show the runs that look alive and are not; with --repair, record their end."""
    from fmtl.commands.upkeep.doctor import doctor

    doctor(settings)


@command(schema.CleanSettings)
def clean(settings: schema.CleanSettings) -> None:
    """List what runs and caches take; with --run, remove what a store provably has."""
    from fmtl.commands.upkeep.clean import clean

    clean(settings)


@command(schema.MainSettings)
def _main(settings: schema.MainSettings) -> None:
    """Run the whole pipeline on a catalogue: prepare, train both modes, compare, register, predict."""
    from fmtl.commands.main import main

    main(settings)


def main(argv: list[str] | None = None) -> int:
    """Run a command. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    with interruption.heard(), _neutral_terminal():
        return _main_heard(argv)


def _main_heard(argv: list[str]) -> int:
    _go_to_caller()
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")  # of models that others logged
    try:
        cli.main(argv, prog_name="fmtl", standalone_mode=False, obj=time.monotonic())  # when it began
    except click.ClickException as error:
        error.show()
        _tell_project_run(argv, error.format_message())
        return 2
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except Terminated as error:
        print("terminated", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        mended = error if isinstance(error, FmtlError) else _environment_fault(error)
        if mended is None or "--debug" in argv:
            print(redacted(traceback.format_exc()), file=sys.stderr)
        else:
            print(redacted(f"error: {mended}"), file=sys.stderr)
        _tell_project_run(argv, str(mended or error))
        return mended.exit_code if mended else 1
    return 0


def _go_to_caller() -> None:
    """Under ``mlflow run`` the working directory is the project, of a Git address a clone that nobody finds again.

    Relative paths mean the folder of who called it: that of the ``mlflow`` process, which is our first ancestor but for
    the shell that it starts us in.
    """
    if not os.environ.get("MLFLOW_RUN_ID") or not Path("MLproject").is_file():
        return
    process = os.getppid()
    try:
        while Path(f"/proc/{process}/comm").read_text(encoding="utf-8").strip() in SHELLS:
            process = int(Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        os.chdir(Path(f"/proc/{process}/cwd").resolve(strict=True))
    except (OSError, ValueError):  # not Linux, or another user's process: it stays the project
        return


def _tell_project_run(argv: list[str], message: str) -> None:
    """Say on the page of the run that ``mlflow run`` made why it ended before it began."""
    if run_id := os.environ.get("MLFLOW_RUN_ID"):  # whoever adopts it takes the variable away
        from fmtl.tracking.delivery import starting

        with contextlib.suppress(Exception):  # the message has been printed
            starting.fail_unbegun(run_id, kind=argv[0] if argv else "", message=redacted(message))


def _environment_fault(error: Exception) -> EnvironmentFault | None:
    """What the machine ran out of, or what is wrong with the store; None for a bug."""
    if told := machine.exhausted(error):
        return EnvironmentFault(told)
    if "mlflow" in sys.modules:
        from fmtl.tracking import faults

        return faults.fault(error) if faults.is_of_store(error) else None
    return None
