"""An interrupted run that is to go on: where it is, what it has, and what may not change in it."""

from fmtl.errors import UsageError
from fmtl.metric_names import TRAIN_LOSS
from fmtl.settings.train import TrainSettings
from fmtl.tracking import earlier, store
from fmtl.tracking.record import journal
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.store import RunRecord

# A run may go on under other values of these, since they do not change what is learnt.
FREE = {
    "allow_stale", "device", "experiment", "run_name", "resume", "extra_plots", "gallery", "offline", "run_folder",
}  # fmt: skip


def find(which: str) -> tuple[RunFolder, RunRecord | None]:
    """The folder of the run to be resumed, and what the store says of it where the folder does not."""
    folder = earlier.find_here(which)
    if folder and journal.tags_of(folder.journal().lines()).get("fmtl.data"):
        return folder, None
    record = store.get_run(which)
    return earlier.bring(record), record


def logged_epochs(folder: RunFolder, record: RunRecord | None) -> set[int]:
    """Those whose metrics are recorded already."""
    found = store.steps_of(record.run_id, TRAIN_LOSS) if record else set()
    for line, _ in folder.journal().lines():
        if line["op"] == "metrics" and TRAIN_LOSS in line["values"]:
            found.add(line["step"])
        elif line["op"] == "there":
            found |= set(line["steps"])
    return found


def refuse_changes(asked: TrainSettings, original: TrainSettings) -> None:
    changed = [
        f"{name}: the run has {getattr(original, name)!r}, got {getattr(asked, name)!r}"
        for name in sorted(asked.model_fields_set - FREE)
        if getattr(asked, name) not in ("auto", getattr(original, name))
    ]
    if changed:
        raise UsageError("resume: these settings can't change within a run:\n  - " + "\n  - ".join(changed))
