"""``predict``: a model and images to a predictions table."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from fmtl.catalogue.names import IMAGE_SUFFIXES
from fmtl.catalogue.photos.column import image_column
from fmtl.catalogue.photos.finding import Finder, best_finder, image_roots
from fmtl.catalogue.photos.folder import ImageError, ImageFolder, PhotoFile
from fmtl.catalogue.reading import read_catalogue
from fmtl.catalogue.reasons import Reason
from fmtl.errors import DataError
from fmtl.hardware import choose_device
from fmtl.model import predictor
from fmtl.model.predictor import OK, Photo
from fmtl.settings.schema import PredictSettings
from fmtl.storage import durable, tables
from fmtl.tracking import pyfunc, store
from fmtl.tracking.run import adopted_run

TABLES = (".csv", ".tsv", ".parquet", ".pq", ".xlsx", ".jsonl", ".ndjson", ".gz", ".zst")  # how their names end
_RUN_ID = re.compile(r"[0-9a-f]{32}")


def predict(settings: PredictSettings, found: tuple[list[str], Sequence[Photo]] | None = None) -> pd.DataFrame:
    """Run the whole command; prints a summary. Returns the table that it wrote.

    Args:
        found: Names and photos, where they are known already.
    """
    with adopted_run("predict"):
        precision = None if settings.precision == "model" else settings.precision
        folder = pyfunc.model_folder(_model_uri(settings.model))
        model = predictor.load(folder, choose_device(settings.device), precision)
        names, photos = found or find_images(Path(settings.images), image_col=settings.image_col)
        parts = []
        with tqdm(total=len(photos), desc="predict", unit=" images", disable=None) as bar:
            for part in model.predict_batches(photos, top_k=settings.top_k, batch_size=settings.batch_size):
                parts.append(part)
                bar.update(len(part))
        table = pd.concat(parts, ignore_index=True)
        table.insert(0, "image", names)
        out = Path(settings.out)
        _write(table, out)
    counts = Counter(table["status"])
    failed = ", ".join(f"{n} {reason}" for reason, n in counts.most_common() if reason != OK)
    print(
        f"{len(table)} images = {counts[OK]} labelled + {len(table) - counts[OK]} not"
        + (f" ({failed})" if failed else "")
    )
    print(f"predictions: {out}")
    return table


def find_images(path: Path, *, image_col: str | None = None) -> tuple[list[str], Sequence[Photo]]:
    """Names as they will be written, and where to read each photo.

    A folder is read recursively in sorted order, image files by suffix. The photos of a table are found as ``prepare``
    finds them.

    Raises:
        DataError: Nothing is there.
    """
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise DataError(f"no image file ({', '.join(IMAGE_SUFFIXES)}) below {path}", where="images")
        names = [p.relative_to(path).as_posix() for p in found]
        folder = ImageFolder(path)
        return names, [PhotoFile(folder, name) for name in names]
    if not path.is_file():
        several = [Path(part.strip()) for part in str(path).split(",")]
        if len(several) > 1 and all(p.is_file() for p in several):
            return [str(p) for p in several], [PhotoFile.named(p) for p in several]
        raise DataError(f"{path} is neither a file nor a folder", where="images")
    if path.suffix.lower() not in TABLES:
        return [str(path)], [PhotoFile.named(path)]
    table = read_catalogue(path)
    if table.rejects:
        first = table.rejects[0]
        told = f"{len(table.rejects)} unreadable lines; first: line {first.line}, {first.detail}"
        raise DataError(told, where=str(path))
    finders = [Finder(ImageFolder(root), path) for root in image_roots(path, None)]
    column, _ = image_column(table.frame, image_col, finders=finders)
    names = [name or "" for name in table.frame[column]]
    return names, _found(best_finder(finders, [name for name in names if name]), names)


def _found(finder: Finder, names: Sequence[str]) -> list[Photo]:
    """Where each photo of a table is, or why there is none."""
    found = finder.find_all(names)
    photos: list[Photo] = [PhotoFile(finder.folder, path) for path in found.paths]
    for n, why in found.problems.items():
        photos[n] = ImageError(*why)
    blank = ImageError(Reason.MISSING, "the cell is blank")
    return [photo if name else blank for name, photo in zip(names, photos, strict=True)]


def _model_uri(model: str) -> str:
    if not _RUN_ID.fullmatch(model):
        return model
    uri = store.get_run(model).model_uri
    if uri is None:
        raise DataError(f"run {model} logged no model; is it a completed train run?", where="model")
    return uri


def _write(table: pd.DataFrame, out: Path) -> None:
    with durable.replacing(out) as temporary:
        if out.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            temporary.write_text(tables.to_csv(table), encoding="utf-8")
