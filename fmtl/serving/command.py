"""``fmtl-serve``: an exported file that labels photos, over HTTP or those of a folder or table. Needs no torch."""

import csv
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from fmtl import __version__
from fmtl.catalogue.names import IMAGE_SUFFIXES
from fmtl.catalogue.photos.folder import ImageError, ImageFolder, PhotoFile
from fmtl.catalogue.reasons import Reason
from fmtl.errors import DataError, EnvironmentFault, FmtlError, UsageError, neutral, redacted
from fmtl.model import exported
from fmtl.model.labeller import OK, Photo, rows_of
from fmtl.serving import limits as usual
from fmtl.serving.limits import Limits
from fmtl.tasks import as_text

IMAGE = "image"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="fmtl-serve")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--host", default=usual.HOST, show_default=True, help="Address to listen on; 0.0.0.0: every one.")
@click.option("--port", default=usual.PORT, show_default=True, type=click.IntRange(0, 65_535), help="0: a free one.")
@click.option("--follow", is_flag=True, help="Go over to what the file becomes, without a lost request.")
@click.option("--follow-seconds", default=usual.FOLLOW_SECONDS, show_default=True, type=click.FloatRange(0.01))
@click.option("--token-file", type=click.Path(path_type=Path), help="The token of requests [or: FMTL_SERVE_TOKEN].")
@click.option("--most-photos", default=Limits.photos, show_default=True, type=click.IntRange(1), help="In one request.")
@click.option("--most-bytes", default=Limits.bytes, show_default=True, type=click.IntRange(1024), help="Of a request.")
@click.option("--most-pixels", default=Limits.pixels, show_default=True, type=click.IntRange(1), help="Of a photo.")
@click.option("--most-waiting", default=Limits.waiting, show_default=True, type=click.IntRange(1), help="Photos.")
@click.option("--batch-size", default=usual.BATCH_SIZE, show_default=True, type=click.IntRange(1, 4096), help="Photos.")
@click.option("--images", type=click.Path(path_type=Path), help="Label these instead: a photo, a folder, or a CSV.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("predictions.csv"), show_default=True)
@click.option(
    "--top-k", default=1, show_default=True, type=click.IntRange(1, usual.MOST_LABELS), help="Labels per task."
)
def cli(model: Path, images: Path | None, out: Path, top_k: int, batch_size: int, **serving: Any) -> None:
    """Serve MODEL, a file of fmtl export (.onnx), over HTTP; or, with --images, label photos to a CSV.

    A CSV of photos has a column 'image' with paths from its own folder on.
    """
    if images is not None:
        label(exported.load(model), images, out, top_k=top_k, batch_size=batch_size)
        return
    from fmtl.serving import files, running  # who labels a folder needs no server

    served, changed = files.followed(model)
    most = {name.removeprefix("most_"): value for name, value in serving.items() if name.startswith("most_")}
    running.serve(
        served, running.Place(serving["host"], serving["port"]), Limits(**most), batch_size=batch_size,
        token=running.token_of(serving["token_file"]),
        following=running.Following(changed, serving["follow_seconds"]) if serving["follow"] else None,
    )  # fmt: skip


def label(model: exported.ExportedModel, images: Path, out: Path, *, top_k: int, batch_size: int) -> None:
    """Photos to a predictions table, which is there whole or not at all; prints a summary.

    Raises:
        DataError: There are none.
    """
    if not images.exists():
        raise DataError("not there", where=str(images))
    names, photos = _photos(images)
    if not photos:
        raise DataError("no photo there", where=str(images))
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    good = 0
    try:
        with (
            temporary.open("w", encoding="utf-8", newline="") as file,
            click.progressbar(length=len(photos), label="label", file=sys.stderr) as bar,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([IMAGE, *model.columns([], {}, top_k)])
            at = 0
            for columns in model.column_batches(photos, top_k=top_k, batch_size=batch_size):
                for row in rows_of(columns):
                    writer.writerow([names[at], *map(_cell, row.values())])
                    good += row["status"] == OK
                    at += 1
                bar.update(len(columns["status"]))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"{len(photos)} images = {good} labelled + {len(photos) - good} not\npredictions: {out}")
    if not good:
        raise DataError(f"none of {len(photos)} photos could be labelled", where=str(images))


def _cell(value: object) -> object:
    return "" if value is None else as_text(tuple(value)) if isinstance(value, list) else value


def _photos(images: Path) -> tuple[list[str], Sequence[Photo]]:
    """Names and photos of what was named: in order, and by what is in each cell."""
    if images.is_dir():
        names = list(_below(images))
        folder = ImageFolder(images)
    elif images.suffix.lower() == ".csv":
        names, folder = _of_table(images), ImageFolder(images.parent)
    else:
        return [str(images)], [PhotoFile.named(images)]
    blank = ImageError(Reason.MISSING, "the cell is blank")
    return names, [PhotoFile(folder, name) if name else blank for name in names]


def _below(folder: Path) -> Iterator[str]:
    for where, name in ImageFolder(folder).walk():
        if Path(name).suffix.lower() in IMAGE_SUFFIXES:
            yield f"{where}/{name}" if where else name


def _of_table(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if IMAGE not in (reader.fieldnames or ()):
                raise DataError(
                    f"has no column '{IMAGE}'; its columns: {', '.join(reader.fieldnames or ())}", where=str(path)
                )
            return [row[IMAGE] or "" for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"can't be read as UTF-8 CSV ({error})", where=str(path)) from error


class _Terminal(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        said = neutral(redacted(self.format(record)))
        print(said, file=sys.stderr if record.levelno >= logging.WARNING else sys.stdout, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run it. Returns the exit code, as ``fmtl`` does."""
    log = logging.getLogger("fmtl")
    log.addHandler(_Terminal())
    log.setLevel(logging.INFO)
    try:
        cli.main(argv, prog_name="fmtl-serve", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return UsageError.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except (FmtlError, OSError) as error:
        print(neutral(redacted(f"error: {error}")), file=sys.stderr)
        return error.exit_code if isinstance(error, FmtlError) else EnvironmentFault.exit_code
    return 0


def run() -> None:
    """As the installed command."""
    sys.exit(main())
