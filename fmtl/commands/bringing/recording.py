"""What is said and recorded of a prepared dataset."""

from pathlib import Path

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
from fmtl.reports import markdown
from fmtl.storage import durable
from fmtl.tracking.recording import Run


def record(run: Run, dataset: PreparedDataset) -> None:
    """Its numbers and its pages, into the run that made it."""
    counts, name = dataset.manifest["counts"], Path(dataset.manifest["source"]["table"]).stem
    note = "\n".join(f"- {markdown.text(line)}" for line in summary(dataset))
    run.set_tags({"fmtl.data": dataset.digest, "mlflow.note.content": note})
    run.log_metrics({f"rows/{k}": counts[k] for k in ("read", "kept", "rejected")})
    run.log_metrics({f"images/{split}": n for split, n in counts["splits"].items()})
    run.log_dataset(name=name, digest=dataset.digest, source=str(dataset.folder), context="prepare")
    for page in (REPORT, REJECTS, DUPLICATES, CONTRADICTIONS, MANIFEST):
        if page in (MANIFEST, *dataset.manifest["files"]):
            durable.write_bytes(run.folder / page, (dataset.folder / page).read_bytes())


def summary(dataset: PreparedDataset) -> list[str]:
    """What was read and kept, in lines."""
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
