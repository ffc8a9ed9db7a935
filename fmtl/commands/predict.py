"""``predict``: a model and images to a predictions table."""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from fmtl import machine
from fmtl.catalogue.reading import fingerprint
from fmtl.catalogue.reasons import Reason
from fmtl.commands.choosing import models
from fmtl.commands.labelling import filling, joining
from fmtl.commands.labelling.listing import Listing, list_photos
from fmtl.commands.labelling.predictions import Predictions
from fmtl.errors import DataError
from fmtl.model.labeller import ACCEPTED, OK, Labeller, attribute_names
from fmtl.settings.schema import PredictSettings
from fmtl.storage import durable, tables
from fmtl.tracking.run import adopted_run

log = logging.getLogger(__name__)


def predict(settings: PredictSettings, listing: Listing | None = None) -> pd.DataFrame:
    """Run the whole command; prints a summary. Returns the table that it wrote.

    Args:
        listing: The photos, where they are known already.

    Raises:
        DataError: The model or the photos are not there, or none of them could be labelled.
        EnvironmentFault: The output can't be written; known before the work.
    """
    out = Path(settings.out)
    for place in (settings.out, settings.fill):
        if place:
            _check_writable(Path(place))
    with adopted_run("predict"):
        model, model_hash = models.labeller(
            settings.model,
            device=settings.device,
            precision=None if settings.precision == "model" else settings.precision,
        )
        listing = listing or list_photos(settings)
        if settings.fill:
            filling.columns_of(model.tasks, listing.table)
        names = _column_names(model, settings)
        numbers = [name for name in names.values() if name.endswith("/confidence")]
        flags = [name for column, name in names.items() if column.endswith(f"/{ACCEPTED}")]
        lists = [names[task.slug] for task in model.tasks if task.is_set]
        key = _key(settings, model_hash, listing)
        listing, at = joining.share(listing, key, settings.part, settings.batch_size)
        own = listing.own_columns(["image", *names.values()]) if settings.keep_columns else None
        rows = Predictions(out, key=key, batch_size=settings.batch_size, numbers=numbers, flags=flags, lists=lists)
        there = rows.begin(resume=settings.resume)
        try:
            if not listing.photos:  # of a small list, a part may have none
                columns = [*(at if at is not None else ()), "image", *names.values()]
                rows.append(pd.DataFrame(columns=columns if own is None else [*columns, *own]))
            with machine.memory_kept():
                _label(model, listing, rows, there, settings, names, own, at)
        except BaseException:
            log.warning("the rows so far are kept in %s; --resume true goes on with them", rows.part)
            raise
        table = pd.concat(list(rows.read()), ignore_index=True)
        rows.finish(separator=settings.separator, spreadsheet=settings.spreadsheet)
        told = _fill(settings, listing, table, model, names) if settings.fill else []
    if num := model.notes["profile"]:
        told = [f"{num} photos had colours of another profile than sRGB and were converted", *told]
    _say(table, listing, out, told, is_part=bool(settings.part))
    return table


def _label(
    model: Labeller,
    listing: Listing,
    rows: Predictions,
    there: int,
    settings: PredictSettings,
    names: Mapping[str, str],
    own: pd.DataFrame | None,
    at: pd.DataFrame | None,
) -> None:
    """Label the photos after those that are there, a batch at a time.

    Args:
        own: The table's own columns, to stand behind.
        at: Where rows of a part belong in the whole, to stand before.
    """
    photos = listing.photos[there:]
    with tqdm(total=len(listing.photos), initial=there, desc="predict", unit=" images", disable=None) as bar:
        for part in model.predict_batches(photos, top_k=settings.top_k, batch_size=settings.batch_size):
            part = part.rename(columns=names)
            part.insert(0, "image", listing.names[there : there + len(part)])
            if at is not None:
                part = pd.concat([at.iloc[there : there + len(part)].set_axis(part.index), part], axis=1)
            if own is not None:
                part = pd.concat([part, own.iloc[there : there + len(part)].set_axis(part.index)], axis=1)
            rows.append(part)
            there += len(part)
            bar.update(len(part))


def _fill(
    settings: PredictSettings, listing: Listing, table: pd.DataFrame, model: Labeller, names: Mapping[str, str]
) -> list[str]:
    assert listing.source and listing.table  # columns_of has seen to that
    tasks = {names[task.slug]: task for task in model.tasks}
    return filling.fill(settings, listing.source, listing.table, listing.lines, table, tasks)


def _key(settings: PredictSettings, model: str, listing: Listing) -> dict[str, object]:
    """What decides the rows."""
    photos = hashlib.sha256("\0".join(listing.names).encode("utf-8", "surrogateescape")).hexdigest()
    read = {"missing", "not_applicable"} if settings.keep_columns else set()
    chosen = settings.model_dump(include={"top_k", "precision", "names", "keep_columns", "part"} | read, mode="json")
    table = fingerprint(listing.source) if listing.source and settings.keep_columns else None
    return {"model": model, "list of photos": photos, "table": table} | chosen


def _say(table: pd.DataFrame, listing: Listing, out: Path, cells: Sequence[str], *, is_part: bool) -> None:
    counts = Counter(table["status"])
    failed = ", ".join(f"{n} {reason}" for reason, n in counts.most_common() if reason != OK)
    told = f"{len(table)} images = {counts[OK]} labelled + {len(table) - counts[OK]} not"
    print(told + (f" ({failed})" if failed else ""))
    for note in (*listing.notes, *cells):
        print(note)
    print(f"predictions: {out}")
    if not counts[OK] and not is_part:
        missing = next((name for name, status in zip(table["image"], table["status"], strict=True)
                        if status == Reason.MISSING and name), None)  # fmt: skip
        where = f". {listing.look_around(missing)}" if missing and listing.look_around else ""
        raise DataError(f"none of {len(table)} photos could be labelled ({failed}){where}", where="images")


def _column_names(model: Labeller, settings: PredictSettings) -> dict[str, str]:
    """By column of the predictor's table, what it is called in the file: by slug or by the attribute's own name."""
    columns = model.predict([], top_k=settings.top_k).columns
    return attribute_names(columns, model.tasks) if settings.names == "attribute" else {c: c for c in columns}


def _check_writable(file: Path) -> None:
    """Raise EnvironmentFault before the work where its result could not be written."""
    if file.suffix == ".xlsx":
        tables.require_workbooks()
    durable.check_writable(file.parent)
