"""``prepare``: a product table and its photos to a prepared dataset, every row accounted for."""

import contextlib
import gc
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import fmtl
from fmtl import catalogue, decoding, durable, preparation, report, sample, shards, tables
from fmtl.catalogue import PRESETS, Catalogue, Reject
from fmtl.columns import Columns, choose_columns
from fmtl.config import PrepareSettings
from fmtl.dataset import (
    DUPLICATES,
    IMAGES,
    MANIFEST,
    REJECTS,
    REPORT,
    TABLE,
    PreparedDataset,
    class_counts,
    describe,
    is_dataset,
    open_dataset,
    seal,
    shard_name,
)
from fmtl.decoding import Earlier
from fmtl.errors import DataError, UsageError
from fmtl.images import ImageFolder
from fmtl.labels import clean_labels
from fmtl.preparation import Row
from fmtl.shards import Source
from fmtl.splits import SPLITS
from fmtl.tasks import IGNORE_INDEX
from fmtl.tracking.run import open_run

PLACES = ("table", "images", "out", "reuse", "workers")  # settings that leave the dataset's content as it is
SPLIT_SETTINGS = ("val_fraction", "test_fraction", "seed", "split_col")
IMAGE_NOTES = {
    "rotated": "images were turned upright as their EXIF orientation says",
    "transparent": "transparent images were laid on {background}",
    "first_frame": "images have several frames; the first was taken",
    "wrong_suffix": "images have another format than their name says; the content decided",
}


def prepare(settings: PrepareSettings) -> PreparedDataset:
    """Run the whole command; prints a summary and records one MLflow run."""
    with open_run("prepare", name=f"prepare-{Path(settings.table).stem}") as run:
        run.log_params(settings.model_dump(mode="json"))
        if settings.table == "sample":
            table = sample.draw_catalogue(sample_folder(settings.out), seed=settings.seed)
            settings = settings.model_copy(update={"table": str(table), "id_col": "id", "image_col": "image"})
        dataset, news = build_dataset(settings)
        counts = dataset.manifest["counts"]
        run.set_tags({"fmtl.data": dataset.digest, "mlflow.note.content": _note(dataset)})
        run.log_metrics({f"rows/{k}": counts[k] for k in ("read", "kept", "rejected")})
        run.log_metrics({f"images/{split}": n for split, n in counts["splits"].items()})
        run.log_dataset(
            name=Path(settings.table).stem, digest=dataset.digest, source=str(dataset.folder), context="prepare"
        )
        for name in (REPORT, REJECTS, DUPLICATES, MANIFEST):
            durable.write_bytes(run.folder / name, (dataset.folder / name).read_bytes())
    print("\n".join([*_summary(dataset), *news]))
    return dataset


def build_dataset(settings: PrepareSettings) -> tuple[PreparedDataset, list[str]]:
    """Prepare without MLflow: read, decode, split, publish. Returns the dataset, and what was not done again.

    Safe to interrupt (what was decoded is kept for the next try) and to run twice at once (one waits).

    Raises:
        DataError: The table or the image folder can't be used, or too many rows are rejected.
        UsageError: ``out`` holds something else.
        EnvironmentFault: The disk is full or not writable.
    """
    out, root = Path(settings.out), _image_root(settings)
    _check_out(out, settings)
    with durable.locked(out):
        durable.recover(out)
        work = durable.beside(out, "partial")
        source = _source(settings, root)
        earlier = Earlier(out, _decoding(settings), source["images_path"], take_pixels=settings.reuse)
        if not settings.reuse:
            shutil.rmtree(work, ignore_errors=True)
        if _same(earlier.manifest, source, settings) and earlier.unchanged(ImageFolder(root)):
            shutil.rmtree(work, ignore_errors=True)  # of a run that was killed just after it had published
            return open_dataset(out, verify=False), ["nothing has changed since this dataset was made"]
        try:
            with _without_cycle_collection():
                dataset, taken_over = _build(settings, root, work, earlier, source)
        except BaseException:
            if any(work.glob("*.bin")):
                print(f"what was decoded is kept for the next try in {work}", file=sys.stderr)
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
    settings: PrepareSettings, root: Path, work: Path, earlier: Earlier, source: dict
) -> tuple[PreparedDataset, int]:
    table, columns = _read_table(settings)
    labels, label_notes = clean_labels(table.frame, columns.labels, casefold=settings.casefold)
    rows, rejects = preparation.candidates(table.frame, columns, labels)
    decoded = decoding.decode_all(
        _sources(rows, table, root, settings),
        root=root,
        decoding=_decoding(settings),
        work=work,
        earlier=earlier,
        num_workers=settings.workers,
    )
    fates = list(zip(rows, decoded.results, strict=True))
    kept = [row for row, result in fates if not result.reason]
    rejects += [*table.rejects, *(Reject(a.line, a.id, b.reason, b.detail) for a, b in fates if b.reason)]
    rejects.sort(key=lambda reject: reject.line)
    _check_rejects(table.num_rows_read, rejects, settings, root)

    lines = [row.line for row in kept]
    also = [table.frame.loc[lines, c] for c in (columns.id, settings.group_col) if c]
    twins = preparation.find_twins(kept, decoded, px=settings.px, also=also, group_near=settings.group_near_duplicates)
    labels, pinned, rare_notes = preparation.apply_rare(
        labels.loc[lines], twins.identical, policy=settings.rare, least=settings.min_class_images
    )
    with _table_named(settings):
        tasks, task_notes = preparation.make_classes(labels, named=bool(settings.label_cols or settings.preset))
    targets = np.array([task.targets(labels[task.name]) for task in tasks], dtype=np.int64).T
    fractions = (1 - settings.val_fraction - settings.test_fraction, settings.val_fraction, settings.test_fraction)
    if settings.split_col:
        cells = table.frame.loc[lines, settings.split_col].to_dict()
        assigned, targets, split_notes = preparation.own_splits(
            cells, settings.split_col, tasks, targets, twins,
            fractions=fractions, seed=settings.seed, mask=settings.rare == "drop",
        )  # fmt: skip
    else:
        keep = all(earlier.manifest.get("settings", {}).get(n) == getattr(settings, n) for n in SPLIT_SETTINGS)
        assigned, split_notes = preparation.draw_splits(
            kept, decoded, targets, twins.together,
            fractions=fractions, seed=settings.seed, pinned=pinned, earlier=earlier.splits() if keep else ({}, {}),
        )  # fmt: skip
    frame = preparation.dataset_table(kept, assigned, twins.together, tasks, targets)
    listing = preparation.list_twins(kept, frame, tasks, twins)
    counts = preparation.count(table.num_rows_read, frame, rejects, listing, decoded)
    notes = [*table.notes, *columns.notes, *_blanks(table, columns), *label_notes]
    if settings.split_col and settings.rare == "train_only":
        rare_notes = []  # they lie where the table says
    notes += [
        *rare_notes,
        *task_notes,
        *split_notes,
        *_dataset_notes(frame, targets, earlier),
        *_image_notes(counts, settings),
    ]

    with durable.publishing(Path(settings.out)) as folder:
        pixels = {shard_name(number): shard for number, shard in enumerate(decoded.shards)}
        for name, shard in pixels.items():
            durable.link(shard.file, folder / name)
        frame.to_parquet(folder / TABLE, index=False)
        decoded.table().to_parquet(folder / IMAGES, index=False)
        rejected = pd.DataFrame([vars(r) for r in rejects], columns=["line", "id", "reason", "detail"])
        durable.write_text(folder / REJECTS, tables.to_csv(rejected))
        durable.write_text(folder / DUPLICATES, tables.to_csv(listing))
        dataset = describe(
            folder,
            frame,
            tasks=tasks,
            image=_decoding(settings),
            pixels={name: shard.sha256 for name, shard in pixels.items()},
            counts=counts,
            source=source,
            settings=_remembered(settings),
            notes=notes,
        )
        durable.write_text(folder / REPORT, report.prepare_report(dataset, listing, rejected))
        seal(dataset)
    return dataset, decoded.taken_over


def sample_folder(out: str) -> Path:
    """Where the sample catalogue is drawn: beside the prepared dataset.

    Raises:
        UsageError: Something else lies there.
    """
    folder = Path(out).resolve()
    folder = folder.with_name(folder.name + "-catalogue")
    if folder.exists() and not (folder.is_dir() and {p.name for p in folder.iterdir()} <= {"images", sample.TABLE}):
        raise UsageError(f"out: the sample would be drawn into {folder}, which holds other files; choose another out")
    return folder


def _check_out(out: Path, settings: PrepareSettings) -> None:
    if out.exists() and not is_dataset(out) and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"out: {out} exists and is no prepared dataset; choose another folder or remove it")
    for name, source in (("table", settings.table), ("images", settings.images)):
        if source and source != "sample" and Path(source).resolve().is_relative_to(out.resolve()):
            raise UsageError(f"out: {out} holds {name} {source} and would be replaced; choose another folder")
    if Path(settings.table).is_dir() and out.resolve().is_relative_to(Path(settings.table).resolve()):
        raise UsageError(
            f"out: {out} lies in the table's folder and would be read as a part of it; choose another folder"
        )
    if out.exists():
        ours = {MANIFEST, *json.loads((out / MANIFEST).read_text())["files"]} if is_dataset(out) else set()
        strange = sorted(path.name for path in out.iterdir() if path.name not in ours and path.name[0] != ".")
        if strange:
            raise UsageError(f"out: {out} also holds {', '.join(strange[:5])}, which would be lost; move it elsewhere")


def _image_root(settings: PrepareSettings) -> Path:
    table = Path(settings.table)
    beside = table if table.is_dir() else table.parent
    root = Path(settings.images) if settings.images else beside / "images" if (beside / "images").is_dir() else beside
    if not root.is_dir():
        raise DataError(f"images: {root} is not a folder")
    return root


def _decoding(settings: PrepareSettings) -> dict:
    return shards.decoding(settings.px, settings.fit, settings.background)


def _remembered(settings: PrepareSettings) -> dict:
    return settings.model_dump(mode="json", exclude=set(PLACES)) | {"fmtl": fmtl.__version__}


def _source(settings: PrepareSettings, root: Path) -> dict:
    """What the dataset is made from; paths are relative to the dataset's folder, which may move with them."""
    table, out = Path(settings.table), Path(settings.out).resolve()
    if not table.exists():
        raise DataError(f"{table}: no such table; expected a CSV or Parquet file, a folder of them, or 'sample'")
    return {
        "table": table.name,
        "table_path": os.path.relpath(table.resolve(), out),
        "sha256": catalogue.fingerprint(table),
        "images_path": os.path.relpath(root.resolve(), out),
    }


def _same(manifest: dict, source: dict, settings: PrepareSettings) -> bool:
    return bool(manifest) and manifest["source"] == source and manifest["settings"] == _remembered(settings)


def _read_table(settings: PrepareSettings) -> tuple[Catalogue, Columns]:
    preset = PRESETS.get(settings.preset) if settings.preset else None
    table = catalogue.read_catalogue(
        Path(settings.table),
        free_text_col=preset.free_text_col if preset else None,
        missing=(*settings.missing, *(preset.missing if preset else ())),
        encoding=settings.encoding,
        quotes=settings.quotes,
        id_col=settings.id_col or (preset.id_col if preset else None),
    )
    label_cols = settings.label_cols or (preset.label_cols if preset else ())
    if table.image_cells and (settings.image_template or settings.image_col not in (None, table.image_cells)):
        table.ignore_image_cells()
    for column in (*label_cols, settings.id_col, settings.group_col, settings.split_col, settings.checksum_col):
        if column in table.unusable:
            raise DataError(
                f"{settings.table}: column '{column}' is of type {table.unusable[column]}; expected text, numbers or "
                "booleans"
            )
    template = settings.image_template
    if preset and not settings.image_col and not table.image_cells:
        template = template or preset.image_template
    free = [c for c in (preset.free_text_col,) if c in table.frame] if preset else []
    named = [c for c in (settings.group_col, settings.split_col, settings.checksum_col) if c]
    with _table_named(settings):
        columns = choose_columns(
            table.frame,
            label_cols=label_cols,
            id_col=settings.id_col or (preset.id_col if preset else None),
            image_col=settings.image_col or (None if template else table.image_cells),
            image_template=template,
            others=[*free, *named],
        )
    return table, columns


@contextlib.contextmanager
def _table_named(settings: PrepareSettings) -> Iterator[None]:
    """Rooms below know the table without its file's name; users should see it."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).replace("table:", f"{settings.table}:", 1)) from error


def _sources(rows: list[Row], table: Catalogue, root: Path, settings: PrepareSettings) -> list[Source]:
    checksums = table.frame[settings.checksum_col] if settings.checksum_col else None
    in_cells = table.cells
    return decoding.scan(
        [row.path for row in rows],
        ImageFolder(root),
        checksums=[checksums[row.line] or "" for row in rows] if checksums is not None else None,
        cells=[(*in_cells[row.line], table.image_cells) for row in rows] if in_cells else None,
    )


def _check_rejects(num_read: int, rejects: list[Reject], settings: PrepareSettings, root: Path) -> None:
    reasons = Counter(reject.reason for reject in rejects)
    told = ", ".join(f"{reason} {n}" for reason, n in reasons.most_common())
    if len(rejects) == num_read:
        first = rejects[0]
        raise DataError(
            f"{settings.table}: all {num_read} rows were rejected ({told}); line {first.line}: {first.detail}"
        )
    if len(rejects) > settings.max_reject_fraction * num_read:
        first = next(r for r in rejects if r.reason == reasons.most_common(1)[0][0])
        raise DataError(
            f"{settings.table}: {len(rejects)} of {num_read} rows were rejected ({told}), more than "
            f"max_reject_fraction={settings.max_reject_fraction}; first: line {first.line}, {first.detail}. "
            f"Is --images right? It is {root}"
        )


def _blanks(table: Catalogue, columns: Columns) -> list[str]:
    notes = []
    for column in columns.labels:
        spellings = table.blanks.get(column, {})
        if set(spellings) - {""}:
            told = ", ".join(f"{n} {spelling!r}" if spelling else f"{n} empty" for spelling, n in spellings.items())
            notes.append(f"column '{column}': blanks written as {told}")
    return notes


def _dataset_notes(frame: pd.DataFrame, targets: np.ndarray, earlier: Earlier) -> list[str]:
    notes = [
        f"warning: no image is in {split}: too few distinct images, or groups that are too large"
        for split in SPLITS
        if not (frame["split"] == split).any()
    ]
    bare = int((targets == IGNORE_INDEX).all(axis=1).sum())
    if bare:
        notes.append(f"{bare} images have no label left; they are kept and teach nothing")
    if earlier.damaged:
        notes.append("warning: the dataset that was there could not be read; its splits were not kept")
    return notes


def _image_notes(counts: dict, settings: PrepareSettings) -> list[str]:
    notes = [
        f"{n} {IMAGE_NOTES[name].format(background=settings.background)}" for name, n in counts["image_notes"].items()
    ]
    odd = {mode: n for mode, n in counts["modes"].items() if mode != "RGB"}
    if odd:
        notes.append("pixel layouts turned into RGB: " + ", ".join(f"{mode} {n}" for mode, n in odd.items()))
    most = counts["largest_side"]["most"]
    if most < settings.px:
        notes.append(
            f"the largest photo has {most} pixels: --px {most} stores all of it in "
            f"{(most / settings.px) ** 2:.0%} of the space"
        )
    return notes


def _summary(dataset: PreparedDataset) -> list[str]:
    counts = dataset.manifest["counts"]
    reasons = ", ".join(f"{n} {reason}" for reason, n in counts["reasons"].items())
    splits = ", ".join(f"{split} {n}" for split, n in counts["splits"].items())
    lines = [
        f"{counts['read']} rows read = {counts['kept']} kept + {counts['rejected']} rejected"
        + (f" ({reasons})" if reasons else ""),
        f"split: {splits}",
        f"identical images: {counts['duplicate_images']} in {counts['duplicate_groups']} groups; "
        f"{counts['conflicting_groups']} groups with contradicting labels",
        f"near duplicates: {counts['near_images']} images in {counts['near_groups']} groups"
        + ("" if dataset.manifest["settings"]["group_near_duplicates"] else ", not kept together"),
    ]
    for task, table in zip(dataset.tasks, class_counts(dataset).values(), strict=True):
        missing = int((dataset.table[task.slug] == IGNORE_INDEX).sum())
        absent = int((table["test"] == 0).sum())
        rare = f"; {absent} of them not in test" if absent else ""
        lines.append(f"task {task.name}: {task.num_classes} classes{rare}; {missing} images without the label")
    lines += dataset.manifest["notes"]
    lines += [f"dataset: {dataset.folder} (digest {dataset.digest[:8]})", f"report: {dataset.folder / REPORT}"]
    if counts["rejected"]:
        lines.append(f"rejected rows: {dataset.folder / REJECTS}")
    if counts["duplicate_groups"] or counts["near_groups"]:
        lines.append(f"twins: {dataset.folder / DUPLICATES}")
    return lines


def _note(dataset: PreparedDataset) -> str:
    return "\n".join(f"- {line}" for line in _summary(dataset))
