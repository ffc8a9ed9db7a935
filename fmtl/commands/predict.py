"""``predict``: a model and images to a predictions table."""

import hashlib
import logging
import re
from collections import Counter
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from fmtl.catalogue.reasons import Reason
from fmtl.commands.listing import Listing, list_photos
from fmtl.commands.predictions import Predictions
from fmtl.errors import DataError
from fmtl.hardware import choose_device
from fmtl.model import predictor
from fmtl.model.predictor import OK, Predictor
from fmtl.settings.schema import PredictSettings
from fmtl.storage import durable
from fmtl.tracking import pyfunc, store
from fmtl.tracking.run import adopted_run

log = logging.getLogger(__name__)

_RUN_ID = re.compile(r"[0-9a-f]{32}")


def predict(settings: PredictSettings, listing: Listing | None = None) -> pd.DataFrame:
    """Run the whole command; prints a summary. Returns the table that it wrote.

    Args:
        listing: The photos, where they are known already.

    Raises:
        DataError: The model or the photos are not there, or none of them could be labelled.
        EnvironmentFault: The output can't be written; known before the work.
    """
    out = Path(settings.out)
    _check_out(out)
    with adopted_run("predict"):
        precision = None if settings.precision == "model" else settings.precision
        folder = pyfunc.model_folder(_model_uri(settings.model))
        listing = listing or list_photos(settings)
        model = predictor.load(folder, choose_device(settings.device), precision)
        rows = Predictions(out, key=_key(settings, folder, listing), batch_size=settings.batch_size)
        there = rows.begin(resume=settings.resume)
        try:
            _label(model, listing, rows, there, settings)
        except BaseException:
            log.warning("the rows so far are kept in %s; --resume true goes on with them", rows.part)
            raise
        table = pd.concat(list(rows.read()), ignore_index=True)
        rows.finish(separator=settings.separator, spreadsheet=settings.spreadsheet)
    _say(table, listing, out)
    return table


def _label(model: Predictor, listing: Listing, rows: Predictions, there: int, settings: PredictSettings) -> None:
    """Label the photos after those that are there, a batch at a time."""
    photos = listing.photos[there:]
    with tqdm(total=len(listing.photos), initial=there, desc="predict", unit=" images", disable=None) as bar:
        for part in model.predict_batches(photos, top_k=settings.top_k, batch_size=settings.batch_size):
            if settings.names == "attribute":
                part = part.rename(columns=_attribute_names(part, model))
            part.insert(0, "image", listing.names[there : there + len(part)])
            rows.append(part)
            there += len(part)
            bar.update(len(part))


def _key(settings: PredictSettings, folder: Path, listing: Listing) -> dict[str, object]:
    """What decides the rows."""
    photos = hashlib.sha256("\0".join(listing.names).encode("utf-8", "surrogateescape")).hexdigest()
    model = durable.sha256(folder / predictor.DESCRIPTION)  # which has the hash of the weights
    return {"model": model, "list of photos": photos} | settings.model_dump(include={"top_k", "precision", "names"})


def _say(table: pd.DataFrame, listing: Listing, out: Path) -> None:
    counts = Counter(table["status"])
    failed = ", ".join(f"{n} {reason}" for reason, n in counts.most_common() if reason != OK)
    told = f"{len(table)} images = {counts[OK]} labelled + {len(table) - counts[OK]} not"
    print(told + (f" ({failed})" if failed else ""))
    for note in listing.notes:
        print(note)
    print(f"predictions: {out}")
    if not counts[OK]:
        missing = next((name for name, status in zip(table["image"], table["status"], strict=True)
                        if status == Reason.MISSING and name), None)  # fmt: skip
        where = f". {listing.look_around(missing)}" if missing and listing.look_around else ""
        raise DataError(f"none of {len(table)} photos could be labelled ({failed}){where}", where="images")


def _attribute_names(table: pd.DataFrame, model: Predictor) -> dict[str, str]:
    """By column of a predictions table, the same with the attribute's own name in place of its slug."""
    names = {task.slug: task.name for task in model.tasks}
    return {
        column: names[slug] + rest
        for column in table.columns
        for slug, slash, after in [column.partition("/")]
        for rest in [slash + after]
        if slug in names
    }


def _check_out(out: Path) -> None:
    """Raise EnvironmentFault before the work where its result could not be written."""
    with durable.replacing(out.with_name(f"{out.name}.check"), sync=False) as temporary:
        temporary.touch()
    out.with_name(f"{out.name}.check").unlink()


def _model_uri(model: str) -> str:
    if not _RUN_ID.fullmatch(model):
        return model
    uri = store.get_run(model).model_uri
    if uri is None:
        raise DataError(f"run {model} logged no model; is it a completed train run?", where="model")
    return uri
