"""The command line: options are made from the settings classes, so that each has one name everywhere."""

import errno
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import click

from fmtl import __version__, config
from fmtl.config import Given, Settings
from fmtl.errors import EnvironmentFault, FmtlError, Terminated

CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 110,
    "token_normalize_func": lambda token: token.replace("_", "-"),  # mlflow run passes --learning_rate
}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="fmtl")
def cli() -> None:
    """Train, compare and serve product-attribute classifiers, recorded by MLflow."""


def command(kind: type[Settings], *, takes_config: bool = False) -> Callable:
    """Register a function of settings as a command with an option per setting."""

    def decorate(function: Callable[..., None]) -> click.Command:
        def callback(debug: str | None, config: str | None = None, **values: str | None) -> None:
            given = {k: Given(v, option_name(k)) for k, v in values.items() if v is not None}
            function(*_settings(kind, given, config))

        options: list[click.Parameter] = [_option(kind, name) for name in kind.model_fields]
        if takes_config:
            options.append(
                click.Option(["--config"], metavar="FILE", help="YAML file of settings; options win over it.")
            )
        options.append(click.Option(["--debug"], is_flag=True, help="Show tracebacks."))
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
    default, allowed = config.default_text(kind, name), config.allowed_text(kind, name)
    facts = "; ".join(filter(None, ("required" if field.is_required() else default and f"default: {default}", allowed)))
    return click.Option(
        [option_name(name)],
        metavar="BOOL" if is_bool else "VALUE",
        help=f"{field.description} [{facts}]" if facts else field.description,
        # An option whose value may be left out: the bare flag means true.
        **({"is_flag": False, "flag_value": "true"} if is_bool else {}),
    )


def _settings(kind: type[Settings], given: dict[str, Given], file: str | None) -> list[Settings]:
    """One per variant of the config file; one without a file. Precedence: command line, file, default."""
    return [config.build(kind, given)] if file is None else config.build_from_file(kind, given, Path(file))


@command(config.PrepareSettings)
def prepare(settings: config.PrepareSettings) -> None:
    """Turn a product table and its photos into a prepared dataset."""
    from fmtl.pipeline.prepare import prepare

    prepare(settings)


@command(config.TrainSettings, takes_config=True)
def train(*variants: config.TrainSettings) -> None:
    """Train a network on a prepared dataset, or one per variant of --config; each is logged to an MLflow run."""
    from fmtl.pipeline.train import train_variants

    train_variants(variants)


@command(config.CompareSettings)
def compare(settings: config.CompareSettings) -> None:
    """Rank the train runs and write the leaderboard; with --register, register the best."""
    from fmtl.pipeline.compare import compare

    compare(settings)


@command(config.RegisterSettings)
def register(settings: config.RegisterSettings) -> None:
    """Register a train run's model and move the alias to it."""
    from fmtl.pipeline.register import register

    register(settings)


@command(config.PredictSettings)
def predict(settings: config.PredictSettings) -> None:
    """Label images with a model."""
    from fmtl.pipeline.predict import predict

    predict(settings)


@command(config.MainSettings)
def _main(settings: config.MainSettings) -> None:
    """Run the whole pipeline on the sample catalogue."""
    from fmtl.pipeline.main import main

    main(settings)


def main(argv: list[str] | None = None) -> int:
    """Run a command. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    signal.signal(signal.SIGTERM, _terminate)
    try:
        cli.main(argv, prog_name="fmtl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
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
            traceback.print_exc()
        else:
            print(f"error: {mended}", file=sys.stderr)
        return mended.exit_code if mended else 1
    return 0


def _environment_fault(error: Exception) -> EnvironmentFault | None:
    """What the machine ran out of; None for a bug. torch has no exception of its own for a CPU's memory."""
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
        return EnvironmentFault(f"out of memory; lower batch_size or px ({str(error).splitlines()[:1]})")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentFault(f"the disk is full; free some space and run again ({error})")
    return None


def _terminate(signum: int, frame: object) -> None:
    raise Terminated
