"""An earlier run: its folder on this machine, or what a store has of it."""

import logging
from pathlib import Path

import mlflow
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from fmtl import metric_names
from fmtl.errors import DataError, did_you_mean
from fmtl.storage import durable
from fmtl.tracking import store
from fmtl.tracking.delivery import state
from fmtl.tracking.opening import reachable
from fmtl.tracking.record import folder as folders
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.store import RunRecord

log = logging.getLogger(__name__)

STORES_HERE = Path("mlruns")  # where MLflow keeps artifacts unless it is told otherwise
SETTINGS = "config.yaml"
BROUGHT = (SETTINGS, "tasks.json", "checkpoints")  # what it takes to go on


def folders_here() -> list[RunFolder]:
    """Of all runs below this folder, oldest first: those to be delivered, then those of a local store."""
    local = [RunFolder.of_artifacts(path.parent.parent / "artifacts")
             for path in sorted(STORES_HERE.glob(f"*/*/{folders.RECORD}/{folders.JOURNAL}"))]  # fmt: skip
    return folders.known() + local


def find_here(run: str) -> RunFolder | None:
    """The folder on this machine that a path, a folder's id or a run's id names."""
    if Path(run).is_dir():
        return RunFolder.at(Path(run))
    for folder in folders_here():
        names = {folder.root.name, folder.glimpse().get("id"), *(found.run_id for found in state.all_of(folder.record))}
        if run in names:
            return folder
    return None


def require_here(run: str) -> RunFolder:
    """Raises DataError where there is none."""
    folder = find_here(run)
    if folder is None:
        known = [found.root.name for found in folders_here()]
        hint = did_you_mean(run, known, otherwise=f"{len(known)} runs are known: {', '.join(known[-5:])}")
        raise DataError(f"no run '{run}' below {Path.cwd()}; {hint}", where="run")
    return folder


def bring(record: RunRecord) -> RunFolder:
    """The folder of a run that a store knows: the artifacts themselves, the one it was delivered from, or a new one.

    Raises:
        DataError: Not even its settings came to the store.
    """
    local = store.local_folder(record.artifact_uri)
    if local is not None:
        return RunFolder.of_artifacts(local)
    folder_id = record.tags.get(store.FOLDER_ID_TAG) or folders.new_id()
    folder = RunFolder.lasting(folders.RUNS / folder_id)
    if folder.exists:
        return folder
    log.info("bringing run %s from the store to %s", record.run_id, folder.root)
    with reachable(), durable.locked(folder.root):
        if not folder.exists and not folder.glimpse():
            _download(record, folder, folder_id)
    return folder


def _download(record: RunRecord, folder: RunFolder, folder_id: str) -> None:
    repository = get_artifact_repository(record.artifact_uri)
    there = {file.path for file in repository.list_artifacts()}
    if SETTINGS not in there:
        raise DataError(f"run '{record.run_id}': nothing of it was kept, not even its settings; train it anew",
                        where="resume")  # fmt: skip
    with durable.publishing(folder.root) as temporary:
        for name in BROUGHT:
            if name in there:
                repository.download_artifacts(name, dst_path=str(temporary))
        about = {"id": folder_id, "kind": record.tags.get("fmtl.kind"), "name": record.name, "experiment": None}
        durable.write_json(temporary / folders.RECORD / folders.ABOUT, about)
        noted = state.Delivered.to(mlflow.get_tracking_uri(), temporary / folders.RECORD)
        noted.run_id = record.run_id
        scores = metric_names.of_end(record.metrics)
        if metric_names.BEST_EPOCH in scores:
            at = store.last_point(record.run_id, metric_names.BEST_EPOCH)
            noted.scores = {"values": scores, "at": at}
        noted.save()
