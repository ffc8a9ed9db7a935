"""``predict``: a model and images to a predictions table."""

import re
from collections import Counter
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from fmtl.catalogue.reasons import Reason
from fmtl.commands.listing import Listing, list_photos
from fmtl.errors import DataError
from fmtl.hardware import choose_device
from fmtl.model import predictor
from fmtl.model.predictor import OK
from fmtl.settings.schema import PredictSettings
from fmtl.storage import durable, tables
from fmtl.tracking import pyfunc, store
from fmtl.tracking.run import adopted_run

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
        parts = []
        with tqdm(total=len(listing.photos), desc="predict", unit=" images", disable=None) as bar:
            for part in model.predict_batches(listing.photos, top_k=settings.top_k, batch_size=settings.batch_size):
                parts.append(part)
                bar.update(len(part))
        table = pd.concat(parts, ignore_index=True)
        if settings.names == "attribute":
            table = table.rename(columns=_attribute_names(table, model))
        table.insert(0, "image", listing.names)
        _write(table, out, settings)
    _say(table, listing, out)
    return table


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


def _attribute_names(table: pd.DataFrame, model: predictor.Predictor) -> dict[str, str]:
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


def _write(table: pd.DataFrame, out: Path, settings: PredictSettings) -> None:
    """As it is, for programs; guarded and with the mark that spreadsheets look for where it is for one."""
    with durable.replacing(out) as temporary:
        if out.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        elif settings.spreadsheet:
            temporary.write_text(tables.to_csv(table, sep=settings.separator), encoding="utf-8-sig", newline="")
        else:
            table.to_csv(temporary, index=False, sep=settings.separator, encoding="utf-8")
