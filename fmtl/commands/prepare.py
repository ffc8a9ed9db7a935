"""``prepare``: a product table and its photos to a prepared dataset, every row accounted for."""

from pathlib import Path

from fmtl.catalogue import sample
from fmtl.dataset import build
from fmtl.dataset.prepared import (
    CONTRADICTIONS,
    DUPLICATES,
    MANIFEST,
    REJECTS,
    REPORT,
    PreparedDataset,
    class_counts,
    unlabelled,
)
from fmtl.errors import UsageError
from fmtl.reports import markdown
from fmtl.reports.catalogue_page import prepare_report
from fmtl.settings.schema import PrepareSettings
from fmtl.storage import durable
from fmtl.tracking.run import open_run

SAMPLE = "sample"  # a table of that name is drawn


def prepare(settings: PrepareSettings) -> PreparedDataset:
    """Run the whole command; prints a summary and records one MLflow run."""
    with open_run("prepare", name=f"prepare-{Path(settings.table).stem}") as run:
        run.log_params(settings.model_dump(mode="json"))
        if settings.table == SAMPLE:
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
        for name in (REPORT, REJECTS, DUPLICATES, CONTRADICTIONS, MANIFEST):
            if name not in (MANIFEST, *dataset.manifest["files"]):
                continue
            durable.write_bytes(run.folder / name, (dataset.folder / name).read_bytes())
    print("\n".join([*_summary(dataset), *news]))
    return dataset


def build_dataset(settings: PrepareSettings) -> tuple[PreparedDataset, list[str]]:
    """Prepare without MLflow: see ``build.build``."""
    return build.build(settings.resolve(), page=prepare_report)


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
        missing, not_applicable = unlabelled(dataset, task)
        absent = int((table["test"] == 0).sum())
        rare = f"; {absent} of them not in test" if absent else ""
        kind = f"set of {task.num_classes} values" if task.is_set else f"{task.num_classes} classes"
        apart = f"; it does not apply to {not_applicable} images" if not_applicable else ""
        lines.append(f"task {task.name}: {kind}{rare}{apart}; {missing} images without the label")
    lines += dataset.manifest["notes"]
    lines += [f"dataset: {dataset.folder} (digest {dataset.digest[:8]})", f"report: {dataset.folder / REPORT}"]
    if counts["rejected"]:
        lines.append(f"rejected rows: {dataset.folder / REJECTS}")
    if counts["duplicate_groups"] or counts["near_groups"]:
        lines.append(f"twins: {dataset.folder / DUPLICATES}")
    if counts.get("contradictions"):
        lines.append(f"labels of what does not apply: {dataset.folder / CONTRADICTIONS}")
    return lines


def _note(dataset: PreparedDataset) -> str:
    return "\n".join(f"- {markdown.text(line)}" for line in _summary(dataset))
