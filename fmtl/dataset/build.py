"""A product table and its photos to a prepared dataset: read, decode, find twins, split, write."""

import contextlib
import gc
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

import fmtl
from fmtl.catalogue.columns import Columns, choose_columns
from fmtl.catalogue.photos import Cell, ImageFolder
from fmtl.catalogue.presets import PRESETS
from fmtl.catalogue.reading import read_catalogue
from fmtl.catalogue.table import Catalogue
from fmtl.dataset import accounting, decode, places, shards, steps
from fmtl.dataset.decode import Decoded
from fmtl.dataset.freshness import scan
from fmtl.dataset.prepared import (
    DUPLICATES,
    IMAGES,
    REJECTS,
    REPORT,
    TABLE,
    PreparedDataset,
    describe,
    open_dataset,
    seal,
    shard_name,
)
from fmtl.dataset.previous import Previous, Splits
from fmtl.dataset.shards import Source
from fmtl.dataset.steps import Draft
from fmtl.errors import DataError, located
from fmtl.storage import durable, tables

log = logging.getLogger(__name__)

PLACES = ("table", "images", "out", "reuse", "workers")  # what leaves the dataset's content as it is
SPLIT_OPTIONS = ("val_fraction", "test_fraction", "seed", "split_col")
Page = Callable[[PreparedDataset, pd.DataFrame, pd.DataFrame], str]  # of dataset, twins and rejects


@dataclass(frozen=True, kw_only=True)
class PreparePlan:
    """What is prepared, and how; the fields are those of ``PrepareSettings``, which says what each means."""

    table: str
    images: str | None
    image_col: str | None
    id_col: str | None
    image_template: str | None
    label_cols: tuple[str, ...]
    preset: str | None
    missing: tuple[str, ...]
    encoding: str | None
    quotes: bool
    casefold: bool
    rare: str
    min_class_images: int
    group_col: str | None
    group_near_duplicates: bool
    split_col: str | None
    checksum_col: str | None
    out: str
    reuse: bool
    workers: int | None
    px: int
    fit: str
    background: str
    val_fraction: float
    test_fraction: float
    max_reject_fraction: float
    seed: int

    @property
    def fractions(self) -> steps.Fractions:
        return 1 - self.val_fraction - self.test_fraction, self.val_fraction, self.test_fraction

    @property
    def decoding(self) -> dict[str, Any]:
        return shards.decoding(self.px, self.fit, self.background)

    def remembered(self) -> dict[str, Any]:
        """What the manifest says of it, as JSON has it."""
        kept = {name: value for name, value in asdict(self).items() if name not in PLACES}
        return json.loads(json.dumps(kept)) | {"fmtl": fmtl.__version__}


def build(plan: PreparePlan, *, page: Page) -> tuple[PreparedDataset, list[str]]:
    """Read, decode, split, publish. Returns the dataset, and what was not done again.

    Safe to interrupt (what was decoded is kept for the next try) and to run twice at once (one waits).

    Args:
        page: Draws ``report.html``.

    Raises:
        DataError: The table or the image folder can't be used, or too many rows are rejected.
        UsageError: ``out`` holds something else.
        EnvironmentFault: The disk is full or not writable.
    """
    out, root = Path(plan.out), places.image_root(plan.table, plan.images)
    places.check_out(out, table=plan.table, images=plan.images)
    with durable.locked(out):
        durable.recover(out)
        work = durable.beside(out, "partial")
        source = places.source(plan.table, root, out)
        previous = Previous(out, plan.decoding, source["images_path"], take_pixels=plan.reuse)
        if not plan.reuse:
            shutil.rmtree(work, ignore_errors=True)
        if _same(previous.manifest, source, plan) and previous.unchanged(ImageFolder(root)):
            shutil.rmtree(work, ignore_errors=True)  # of a run that was killed just after it had published
            return open_dataset(out, verify=False), ["nothing has changed since this dataset was made"]
        try:
            with _without_cycle_collection():
                dataset, taken_over = _build(plan, root, work, previous, source, page)
        except BaseException:
            if any(work.glob("*.bin")):
                log.warning("what was decoded is kept for the next try in %s", work)
            raise
        shutil.rmtree(work, ignore_errors=True)
    return replace(dataset, folder=out), [f"{taken_over} images were not decoded again"] if taken_over else []


@contextlib.contextmanager
def _without_cycle_collection() -> Iterator[None]:
    """Rows are many small objects without cycles; looking for some again and again takes a sixth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _build(
    plan: PreparePlan, root: Path, work: Path, previous: Previous, source: dict[str, Any], page: Page
) -> tuple[PreparedDataset, int]:
    catalogue, columns = _read(plan)
    draft = steps.begin(catalogue, columns, casefold=plan.casefold)
    decoded = decode.decode_all(
        _sources(draft, catalogue, root, plan.checksum_col),
        root=root,
        decoding=plan.decoding,
        work=work,
        previous=previous,
        num_workers=plan.workers,
    )
    draft = steps.keep_decoded(draft, decoded)
    num_read = catalogue.num_rows_read
    accounting.check_rejects(
        num_read, draft.rejects, max_fraction=plan.max_reject_fraction, table=plan.table, images=str(root)
    )
    also = [catalogue.frame.loc[draft.lines, column] for column in (columns.id, plan.group_col) if column]
    draft = steps.find_twins(draft, decoded, px=plan.px, also=also, group_near=plan.group_near_duplicates)
    # Of a split that the table says, rare classes lie where it says.
    said = bool(plan.split_col) and plan.rare == "train_only"
    draft = steps.treat_rare(draft, policy=plan.rare, least=plan.min_class_images, say=not said)
    with located(plan.table):
        draft = steps.make_classes(draft, named=bool(plan.label_cols or plan.preset))
    draft = _split(draft, catalogue, plan, previous)
    return _write(draft, decoded, plan, num_read, previous, source, page), decoded.taken_over


def _split(draft: Draft, catalogue: Catalogue, plan: PreparePlan, previous: Previous) -> Draft:
    """As the table says, else drawn, with what was there before staying where it was."""
    if plan.split_col:
        cells = catalogue.frame.loc[draft.lines, plan.split_col].to_dict()
        return steps.own_splits(
            draft, cells, plan.split_col, fractions=plan.fractions, seed=plan.seed, mask=plan.rare == "drop"
        )
    before = previous.manifest.get("settings", {})
    same = all(before.get(name) == getattr(plan, name) for name in SPLIT_OPTIONS)
    kept = previous.splits() if same else Splits({}, {})
    return steps.draw_splits(draft, fractions=plan.fractions, seed=plan.seed, before=kept)


def _write(
    draft: Draft,
    decoded: Decoded,
    plan: PreparePlan,
    num_read: int,
    previous: Previous,
    source: dict[str, Any],
    page: Page,
) -> PreparedDataset:
    frame, twins = steps.dataset_table(draft), steps.list_twins(draft)
    counts = accounting.count(num_read, frame, draft.rejects, twins, decoded)
    notes = [
        *draft.notes,
        *accounting.dataset_notes(frame, draft.targets, damaged_before=previous.damaged),
        *accounting.image_notes(counts, px=plan.px, background=plan.background),
    ]
    rejects = pd.DataFrame([vars(r) for r in draft.rejects], columns=["line", "id", "reason", "detail"])
    with durable.publishing(Path(plan.out)) as folder:
        pixels = {shard_name(number): shard for number, shard in enumerate(decoded.shards.values())}
        for name, shard in pixels.items():
            durable.link(shard.file, folder / name)
        frame.to_parquet(folder / TABLE, index=False)
        decoded.table().to_parquet(folder / IMAGES, index=False)
        durable.write_text(folder / REJECTS, tables.to_csv(rejects))
        durable.write_text(folder / DUPLICATES, tables.to_csv(twins))
        dataset = describe(
            folder,
            frame,
            tasks=draft.tasks,
            image=plan.decoding,
            pixels={name: shard.sha256 for name, shard in pixels.items()},
            counts=counts,
            source=source,
            settings=plan.remembered(),
            notes=[str(note) for note in notes],
        )
        durable.write_text(folder / REPORT, page(dataset, twins, rejects))
        seal(dataset)
    return dataset


def _same(manifest: dict[str, Any], source: dict[str, Any], plan: PreparePlan) -> bool:
    return bool(manifest) and manifest["source"] == source and manifest["settings"] == plan.remembered()


def _read(plan: PreparePlan) -> tuple[Catalogue, Columns]:
    """The table, and the part that each of its columns plays; what a preset knows fills what was not named."""
    preset = PRESETS.get(plan.preset) if plan.preset else None
    id_col = plan.id_col or (preset.id_col if preset else None)
    table = read_catalogue(
        Path(plan.table),
        free_text_col=preset.free_text_col if preset else None,
        missing=(*plan.missing, *(preset.missing if preset else ())),
        encoding=plan.encoding,
        quotes=plan.quotes,
        id_col=id_col,
    )
    label_cols = plan.label_cols or (preset.label_cols if preset else ())
    if table.image_cells and (plan.image_template or plan.image_col not in (None, table.image_cells)):
        table.ignore_image_cells()
    others = [c for c in (plan.group_col, plan.split_col, plan.checksum_col) if c]
    for column in (*label_cols, plan.id_col, *others):
        if column in table.unusable:
            told = f"column '{column}' is of type {table.unusable[column]}; expected text, numbers or booleans"
            raise DataError(told, where=plan.table)
    template = plan.image_template
    if preset and not plan.image_col and not table.image_cells:
        template = template or preset.image_template
    free = [c for c in (preset.free_text_col,) if c in table.frame] if preset else []
    with located(plan.table):
        columns = choose_columns(
            table.frame,
            label_cols=label_cols,
            id_col=id_col,
            image_col=plan.image_col or (None if template else table.image_cells),
            image_template=template,
            others=[*free, *others],
        )
    return table, columns


def _sources(draft: Draft, table: Catalogue, root: Path, checksum_col: str | None) -> list[Source]:
    lines, column = draft.lines, table.image_cells
    checksums = table.frame[checksum_col] if checksum_col else None
    return scan(
        draft.table["path"].tolist(),
        ImageFolder(root),
        checksums=[checksums[line] or "" for line in lines] if checksums is not None else None,
        cells=[Cell(*table.cells[line], column) for line in lines] if column and table.cells else None,
    )
