"""A product table and its photos to a prepared dataset: read, decode, find twins, split, write."""

import contextlib
import gc
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from fmtl.catalogue.columns import Columns
from fmtl.catalogue.photos.cells import Cell
from fmtl.catalogue.photos.finding import Finder, best_finder
from fmtl.catalogue.photos.folder import ImageFolder
from fmtl.catalogue.reasons import Reason
from fmtl.catalogue.table import Catalogue
from fmtl.dataset import accounting, decode, places, steps
from fmtl.dataset.decode import Decoded
from fmtl.dataset.draft import Draft, PreparePlan
from fmtl.dataset.freshness import scan
from fmtl.dataset.prepared import (
    CONTRADICTIONS,
    DUPLICATES,
    IMAGES,
    MANIFEST,
    REJECTS,
    REPORT,
    TABLE,
    PreparedDataset,
    describe,
    open_dataset,
    seal,
    shard_name,
)
from fmtl.dataset.reuse import parts
from fmtl.dataset.reuse.parts import Joined, Part
from fmtl.dataset.reuse.previous import Previous, Splits
from fmtl.dataset.shards import Source
from fmtl.dataset.splits import assign
from fmtl.errors import DataError, located
from fmtl.storage import durable, tables
from fmtl.storage.cache import recall

log = logging.getLogger(__name__)

SPLIT_OPTIONS = ("val_fraction", "test_fraction", "seed", "split_col")
Page = Callable[[PreparedDataset, pd.DataFrame, pd.DataFrame], str]  # of dataset, twins and rejects


def build(plan: PreparePlan, *, page: Page, parts_at: Sequence[Path] = ()) -> tuple[PreparedDataset, list[str]]:
    """Read, decode, split, publish. Returns the dataset, and what was not done again.

    Safe to interrupt (what was decoded is kept for the next try) and to run twice at once (one waits).

    Args:
        page: Draws ``report.html``.
        parts_at: Folders of parts, whose images are taken over.

    Raises:
        DataError: The table or the image folder can't be used, or too many rows are rejected.
        UsageError: ``out`` holds something else.
        EnvironmentFault: The disk is full or not writable.
    """
    out = Path(plan.out)
    places.check_out(out, table=plan.table, images=plan.images)
    with durable.locked(out):
        durable.recover(out, mark=MANIFEST)
        work = durable.beside(out, "partial")
        source, finders = places.source(plan, out), places.finders(plan)
        if parts_at:
            previous: Previous = Joined(out, plan.decoding, [Part(folder, plan.decoding) for folder in parts_at])
        else:
            previous = Previous(out, plan.decoding, take_pixels=plan.reuse)
        if not plan.reuse:
            shutil.rmtree(work, ignore_errors=True)
        if _unchanged(previous, source, plan, finders):
            shutil.rmtree(work, ignore_errors=True)  # of a run that was killed just after it had published
            return open_dataset(out, verify=False), ["nothing has changed since this dataset was made"]
        try:
            with _without_cycle_collection():
                dataset, taken_over = _build(plan, finders, work, previous, source, page)
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
    plan: PreparePlan, finders: Sequence[Finder], work: Path, previous: Previous, source: dict[str, Any], page: Page
) -> tuple[PreparedDataset, int]:
    catalogue, columns, draft, finder, problems = _begin(plan, finders)
    source["images_path"] = previous.images_path = places.images_path(finder.folder.root, Path(plan.out))
    decoded = decode.decode_all(
        _sources(draft, catalogue, finder.folder, plan.checksum_col),
        folder=finder.folder,
        decoding=plan.decoding,
        work=work,
        previous=previous,
        num_workers=plan.workers,
    )
    draft = steps.keep_decoded(draft, decoded, problems)
    num_read = catalogue.num_rows_read
    accounting.check_rejects(
        num_read, draft.rejects, max_fraction=plan.max_reject_fraction, table=plan.table, look_around=finder.look_around
    )
    also = [values.loc[draft.lines] for values in columns.groups.values()]
    draft = steps.find_twins(draft, decoded, px=plan.px, also=also, group_near=plan.group_near_duplicates)
    # Of a split that the table says, rare classes lie where it says.
    said = bool(columns.split) and plan.rare == "train_only"
    draft = steps.treat_rare(draft, policy=plan.rare, least=plan.min_class_images, say=not said)
    with located(plan.table):
        draft = steps.make_classes(draft, named=bool(plan.label_cols or plan.preset))
    draft = _split(draft, catalogue, columns, plan, previous, source)
    return _write(draft, decoded, plan, num_read, previous, source, page), decoded.taken_over


def _begin(
    plan: PreparePlan, finders: Sequence[Finder]
) -> tuple[Catalogue, Columns, Draft, Finder, Mapping[int, tuple[Reason, str]]]:
    """The rows that are worth decoding, where their photos are, and why some are not there."""
    catalogue, columns = places.read_tables(plan, finders)
    with located(plan.table):
        draft = steps.begin(catalogue, columns, plan)
    if plan.limit:
        draft = steps.take(draft, plan.limit, also=columns.groups.values(), seed=plan.seed)
    finder = best_finder(finders, draft.table["path"].tolist())
    problems: Mapping[int, tuple[Reason, str]] = {}
    if not catalogue.cells:
        draft, problems = steps.find_photos(draft, finder)
    return catalogue, columns, draft, finder, problems


def build_part(plan: PreparePlan) -> str:
    """Decode the images of one part of the table's rows, for ``join``. Returns what it did, in a line.

    Raises:
        DataError, UsageError, EnvironmentFault: As ``build``.
    """
    assert plan.part
    out, part = Path(plan.out), parts.as_numbers(plan.part)
    places.check_part(out, table=plan.table, images=plan.images)
    with durable.locked(out):
        durable.recover(out, mark=parts.MARK)
        work, source = durable.beside(out, "partial"), places.source(plan, out)
        catalogue, _, draft, finder, _ = _begin(plan, places.finders(plan))
        rows = [parts.is_of(row_id, part) for row_id in draft.table["id"]]
        source["images_path"] = places.images_path(finder.folder.root, out)
        decoded = decode.decode_all(
            _sources(replace(draft, table=draft.table[rows]), catalogue, finder.folder, plan.checksum_col),
            folder=finder.folder,
            decoding=plan.decoding,
            work=work,
            previous=_part_before(out, plan),
            num_workers=plan.workers,
        )
        with durable.publishing(out, mark=parts.MARK) as folder:
            parts.write(
                folder, part=plan.part, images=decoded.table(), shards=list(decoded.shards.values()), rows=sum(rows),
                image=plan.decoding, source=source, plan=plan.remembered(),
                places=places.as_given(plan),
            )  # fmt: skip
        shutil.rmtree(work, ignore_errors=True)
    failed = sum(bool(result.reason) for result in decoded.results)
    told = f", {failed} of them unusable" if failed else ""
    return f"part {plan.part}: {sum(rows)} of {len(rows)} rows, {len(decoded.sources)} images{told}"


def _part_before(out: Path, plan: PreparePlan) -> Previous:
    """What may be taken over of the part that is there; nothing of a damaged one."""
    found = recall(lambda: Part(out, plan.decoding), DataError) if plan.reuse and parts.is_part(out) else None
    return found or Previous(out, {}, take_pixels=False)


def join(
    folders: Sequence[Path], out: str, *, plan_of: Callable[[Mapping[str, Any]], PreparePlan], page: Page
) -> PreparedDataset:
    """The dataset of which all parts are there: to the byte what ``build`` makes of the whole table.

    Args:
        plan_of: From what a part remembers of it to a plan.

    Raises:
        DataError, UsageError: A part is missing, damaged, or of another table or other settings.
    """
    said = parts.check_all(folders)
    plan = plan_of(said["plan"] | said["places"] | {"out": out})
    now = places.source(plan, Path(out))
    for name, value in now.items():
        if name.endswith("sha256") and said["source"].get(name) != value:
            raise DataError(f"the table {plan.table} has changed since its parts were prepared; prepare them again")
    return build(plan, page=page, parts_at=folders)[0]


def _split(
    draft: Draft,
    catalogue: Catalogue,
    columns: Columns,
    plan: PreparePlan,
    previous: Previous,
    source: Mapping[str, Any],
) -> Draft:
    """As the table says, else drawn, with what was there before staying where it was."""
    if columns.split:
        cells = catalogue.frame.loc[draft.lines, columns.split].to_dict()
        mask = plan.rare == "drop" or plan.split_col is None
        return assign.as_said(draft, cells, columns.split, fractions=plan.fractions, seed=plan.seed, mask=mask)
    settings = previous.manifest.get("settings", {})
    same = all(settings.get(name) == getattr(plan, name) for name in SPLIT_OPTIONS)
    before = (previous.splits(source) if same else Splits({}, {})).of(draft.table)
    return assign.draw(draft, fractions=plan.fractions, seed=plan.seed, before=before)


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
    if draft.applicability.of:
        counts["contradictions"] = len(draft.applicability.contradictions)
    notes = [
        *draft.notes,
        *accounting.dataset_notes(frame, draft.targets, damaged_before=previous.damaged),
        *accounting.image_notes(counts, px=plan.px, background=plan.background),
    ]
    rejects = pd.DataFrame([vars(r) for r in draft.rejects], columns=["line", "id", "reason", "detail"])
    with durable.publishing(Path(plan.out), mark=MANIFEST) as folder:
        pixels = [shard.sha256 for shard in decoded.shards.values()]
        for name, shard in {shard_name(shard.sha256): shard for shard in decoded.shards.values()}.items():
            durable.link(shard.file, folder / name)
        frame.to_parquet(folder / TABLE, index=False)
        decoded.table().to_parquet(folder / IMAGES, index=False)
        durable.write_text(folder / REJECTS, tables.to_csv(rejects))
        durable.write_text(folder / DUPLICATES, tables.to_csv(twins))
        if draft.applicability.of:
            durable.write_text(folder / CONTRADICTIONS, tables.to_csv(draft.applicability.contradictions))
        dataset = describe(
            folder,
            frame,
            tasks=draft.tasks,
            image=plan.decoding,
            pixels=pixels,
            counts=counts,
            source=source,
            settings=plan.remembered(),
            notes=[str(note) for note in notes],
        )
        durable.write_text(folder / REPORT, page(dataset, twins, rejects))
        seal(dataset)
    return dataset


def _unchanged(previous: Previous, source: Mapping[str, Any], plan: PreparePlan, finders: Sequence[Finder]) -> bool:
    manifest = previous.manifest
    if not manifest or manifest["settings"] != plan.remembered():
        return False
    for finder in finders:
        previous.images_path = places.images_path(finder.folder.root, Path(plan.out))
        if manifest["source"] == {**source, "images_path": previous.images_path}:
            return previous.unchanged(finder)
    return False


def _sources(draft: Draft, table: Catalogue, folder: ImageFolder, checksum_col: str | None) -> list[Source]:
    lines, column = draft.lines, table.image_cells
    checksums = table.frame[checksum_col] if checksum_col else None
    return scan(
        draft.table["path"].tolist(),
        folder,
        checksums=[checksums[line] or "" for line in lines] if checksums is not None else None,
        cells=[Cell(*table.cells[line], column) for line in lines] if column and table.cells else None,
    )
