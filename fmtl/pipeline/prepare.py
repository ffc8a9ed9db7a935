"""``prepare``: a product table and its photos to a prepared dataset, every row accounted for."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from fmtl import catalogue, durable, images, report, sample, tables
from fmtl.catalogue import PRESETS, Catalogue, Reject
from fmtl.columns import Columns, choose_columns
from fmtl.config import PrepareSettings
from fmtl.dataset import (
    GROUP,
    MANIFEST,
    REJECTS,
    REPORT,
    TABLE,
    PixelWriter,
    PreparedDataset,
    class_counts,
    describe,
    is_dataset,
    seal,
)
from fmtl.errors import DataError, UsageError
from fmtl.hardware import num_cpus
from fmtl.labels import clean_labels
from fmtl.splits import SPLITS, split_groups
from fmtl.tasks import IGNORE_INDEX, Task, make_tasks
from fmtl.tracking.run import open_run

DECODE_AHEAD = 256  # images decoded per round: bounds memory, keeps the threads busy


@dataclass(frozen=True)
class Kept:
    """A row whose image was decoded: its line, id, image path and hash of the file."""

    line: int
    id: str
    path: str
    sha256: str


def prepare(settings: PrepareSettings) -> PreparedDataset:
    """Run the whole command; prints a summary and records one MLflow run."""
    with open_run("prepare", name=f"prepare-{Path(settings.table).stem}") as run:
        run.log_params(settings.model_dump(mode="json"))
        if settings.table == "sample":
            table = sample.draw_catalogue(sample_folder(settings.out), seed=settings.seed)
            settings = settings.model_copy(update={"table": str(table), "id_col": "id", "image_col": "image"})
        dataset, notes = build_dataset(settings)
        counts = dataset.manifest["counts"]
        run.set_tags({"fmtl.data": dataset.digest, "mlflow.note.content": _note(dataset, notes)})
        run.log_metrics({f"rows/{k}": counts[k] for k in ("read", "kept", "rejected")})
        run.log_metrics({f"images/{split}": n for split, n in counts["splits"].items()})
        run.log_dataset(
            name=Path(settings.table).stem, digest=dataset.digest, source=str(dataset.folder), context="prepare"
        )
        for name in (REPORT, REJECTS, MANIFEST):
            durable.write_bytes(run.folder / name, (dataset.folder / name).read_bytes())
    print("\n".join(_summary(dataset, notes)))
    return dataset


def build_dataset(settings: PrepareSettings) -> tuple[PreparedDataset, list[str]]:
    """Prepare without MLflow: read, decode, split, publish. Returns the dataset and notes for the user.

    Raises:
        DataError: The table or the image folder can't be used, or too many rows are rejected.
        UsageError: ``out`` holds something else.
    """
    out, table_path = Path(settings.out), Path(settings.table)
    _check_out(out, settings)
    preset = PRESETS.get(settings.preset) if settings.preset else None
    free_text_col = preset.free_text_col if preset else None
    missing = (*settings.missing, *(preset.missing if preset else ()))
    label_cols = settings.label_cols or (preset.label_cols if preset else ())
    table = catalogue.read_catalogue(table_path, free_text_col=free_text_col, missing=missing)
    columns = choose_columns(
        table.frame,
        label_cols=label_cols,
        id_col=settings.id_col or (preset.id_col if preset else None),
        image_col=settings.image_col,
        image_template=settings.image_template
        or (preset.image_template if preset and not settings.image_col else None),
        free_text_col=free_text_col,
    )
    labels, label_notes = clean_labels(table.frame, columns.labels)
    notes = [*table.notes, *columns.notes, *label_notes]
    with durable.publishing(out) as folder:
        rejects = list(table.rejects)
        kept = _decode_all(_candidates(table, columns, labels, rejects), settings, folder, rejects)
        rejects.sort(key=lambda reject: reject.line)
        _check_rejects(table.num_rows_read, rejects, settings)
        labels = labels.loc[[row.line for row in kept]]
        tasks, task_notes = _make_tasks(labels, named=bool(label_cols))
        frame = _split(kept, tasks, labels, settings)
        frame.to_parquet(folder / TABLE, index=False)
        rejected = pd.DataFrame([vars(r) for r in rejects], columns=["line", "id", "reason", "detail"])
        durable.write_text(folder / REJECTS, tables.to_csv(rejected))
        notes += task_notes
        described = describe(
            folder,
            frame,
            tasks=tasks,
            image={"px": settings.px, "fit": settings.fit, "background": settings.background},
            counts=_counts(table.num_rows_read, frame, rejects),
            source={"table": table_path.name, "sha256": durable.sha256(table_path)},
            settings=settings.model_dump(mode="json", exclude={"table", "images", "out"}),
        )
        durable.write_text(folder / REPORT, report.prepare_report(described, notes))
        seal(described)
    return replace(described, folder=out), notes


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


def _image_root(settings: PrepareSettings) -> Path:
    beside = Path(settings.table).parent
    root = Path(settings.images) if settings.images else beside / "images" if (beside / "images").is_dir() else beside
    if not root.is_dir():
        raise DataError(f"images: {root} is not a folder")
    return root


def _candidates(
    table: Catalogue, columns: Columns, labels: pd.DataFrame, rejects: list[Reject]
) -> list[tuple[int, str, str]]:
    """(line, id, image path) of the rows worth decoding; the others go to ``rejects``."""
    rows = []
    labelled = labels.notna().any(axis=1)
    for line, row in zip(table.frame.index, table.frame.to_dict("records"), strict=True):
        path = columns.image_path(row)
        row_id = row[columns.id] if columns.id else path
        if row_id is None or path is None:
            rejects.append(Reject(line, row_id or "", "blank_id" if path else "blank_image", "the cell is blank"))
        elif not labelled[line]:
            rejects.append(Reject(line, row_id, "no_label", "every label is blank"))
        else:
            rows.append((line, row_id, path))
    return rows


def _decode_all(
    rows: list[tuple[int, str, str]], settings: PrepareSettings, folder: Path, rejects: list[Reject]
) -> list[Kept]:
    """Decode in order, append pixels to the shards, and split the rows into kept and rejected."""
    kept: list[Kept] = []
    writer = PixelWriter(folder, settings.px)
    for row, result in _decoded(rows, settings):
        line, row_id, path = row
        if isinstance(result, images.ImageError):
            rejects.append(Reject(line, row_id, result.reason, result.detail))
            continue
        pixels, digest = result
        writer.append(pixels)
        kept.append(Kept(line, row_id, path, digest))
    writer.close()
    return kept


def _decoded(rows: list[tuple[int, str, str]], settings: PrepareSettings) -> Iterator[tuple]:
    root = _image_root(settings)

    def decode(row: tuple[int, str, str]) -> tuple[np.ndarray, str] | images.ImageError:
        try:
            content = images.read(images.resolve(root, row[2]))
            pixels = images.decode(content, px=settings.px, fit=settings.fit, background=settings.background)
        except images.ImageError as error:
            return error
        return pixels, hashlib.sha256(content).hexdigest()

    # Threads are enough: Pillow releases the interpreter lock while it decodes and resizes.
    with (
        images.quiet(),
        ThreadPoolExecutor(num_cpus()) as pool,
        tqdm(total=len(rows), desc="decode", unit=" images", disable=None) as bar,
    ):
        for start in range(0, len(rows), DECODE_AHEAD):
            chunk = rows[start : start + DECODE_AHEAD]
            for row, result in zip(chunk, pool.map(decode, chunk), strict=True):
                yield row, result
                bar.update()


def _check_rejects(num_read: int, rejects: list[Reject], settings: PrepareSettings) -> None:
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
            f"Is --images right? It is {_image_root(settings)}"
        )


def _make_tasks(labels: pd.DataFrame, *, named: bool) -> tuple[list[Task], list[str]]:
    """One task per column over the labels that have an image; classes in sorted order."""
    notes, classes = [], {}
    for column in labels:
        values = sorted(labels[column].dropna().unique())
        if len(values) == 0 or (len(values) == 1 and not named):
            notes.append(f"column '{column}' left out: {len(values)} classes among the rows kept")
        else:
            classes[column] = values
    if not classes:
        raise DataError("no label column has two classes among the rows kept:\n" + "\n".join(notes))
    return make_tasks(classes), notes


def _split(kept: list[Kept], tasks: list[Task], labels: pd.DataFrame, settings: PrepareSettings) -> pd.DataFrame:
    targets = np.array([task.targets(labels[task.name]) for task in tasks], dtype=np.int64).T
    groups = pd.factorize(pd.Series([row.sha256 for row in kept]))[0]
    splits = split_groups(
        targets,
        groups.tolist(),
        val_fraction=settings.val_fraction,
        test_fraction=settings.test_fraction,
        seed=settings.seed,
    )
    frame = pd.DataFrame({"id": [r.id for r in kept], "path": [r.path for r in kept], "split": splits, GROUP: groups})
    return pd.concat([frame, pd.DataFrame(targets, columns=[task.slug for task in tasks])], axis=1)


def _counts(num_read: int, frame: pd.DataFrame, rejects: list[Reject]) -> dict:
    if num_read != len(frame) + len(rejects):
        raise AssertionError(f"{num_read} rows read, {len(frame)} kept, {len(rejects)} rejected")
    task_cols = [c for c in frame if c not in ("id", "path", "split", GROUP)]
    twins = frame[frame.duplicated(GROUP, keep=False)]
    conflicts = sum((rows[task_cols].replace(IGNORE_INDEX, np.nan).nunique() > 1).any()
                    for _, rows in twins.groupby(GROUP))  # fmt: skip
    return {
        "read": num_read,
        "kept": len(frame),
        "rejected": len(rejects),
        "reasons": dict(Counter(reject.reason for reject in rejects).most_common()),
        "splits": {split: int((frame["split"] == split).sum()) for split in SPLITS},
        "duplicate_groups": int(twins[GROUP].nunique()),
        "duplicate_images": len(twins),
        "conflicting_groups": int(conflicts),
    }


def _summary(dataset: PreparedDataset, notes: list[str]) -> list[str]:
    counts = dataset.manifest["counts"]
    reasons = ", ".join(f"{n} {reason}" for reason, n in counts["reasons"].items())
    splits = ", ".join(f"{split} {n}" for split, n in counts["splits"].items())
    lines = [
        f"{counts['read']} rows read = {counts['kept']} kept + {counts['rejected']} rejected"
        + (f" ({reasons})" if reasons else ""),
        f"split: {splits}",
        f"byte-identical images: {counts['duplicate_images']} in {counts['duplicate_groups']} groups, each in one "
        f"split; {counts['conflicting_groups']} groups with contradicting labels",
    ]
    for task, table in zip(dataset.tasks, class_counts(dataset).values(), strict=True):
        missing = int((dataset.table[task.slug] == IGNORE_INDEX).sum())
        absent = int((table["test"] == 0).sum())
        rare = f"; {absent} of them not in test" if absent else ""
        lines.append(f"task {task.name}: {task.num_classes} classes{rare}; {missing} images without the label")
    lines += notes
    lines += [f"dataset: {dataset.folder} (digest {dataset.digest[:8]})", f"report: {dataset.folder / REPORT}"]
    if counts["rejected"]:
        lines.append(f"rejected rows: {dataset.folder / REJECTS}")
    return lines


def _note(dataset: PreparedDataset, notes: list[str]) -> str:
    return "\n".join(f"- {line}" for line in _summary(dataset, notes))
