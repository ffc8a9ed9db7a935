"""Whether a store has every byte of a run folder: nothing else may be the reason to remove it."""

from pathlib import Path

import mlflow
from mlflow.artifacts import download_artifacts
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from fmtl.errors import DataError
from fmtl.storage import durable
from fmtl.tracking import faults, model_files, store
from fmtl.tracking.delivery import state
from fmtl.tracking.opening import reachable
from fmtl.tracking.record import folder as folders
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.record.journal import DAMAGED
from fmtl.tracking.store import RunRecord


def why_kept(folder: RunFolder) -> str:
    """Empty if the store in use has all of it: files are read back and their hashes compared, points one by one.

    Call it with the folder held: nothing must change between the answer and what is done about it.
    """
    noted = state.Delivered.to(mlflow.get_tracking_uri(), folder.record)
    if not noted.has_all(folder.record / folders.JOURNAL):
        return f"not delivered: fmtl sync --run {folder.root.name}"
    try:
        with reachable(), durable.temporary_folder() as temporary:
            run = store.get_run(str(noted.run_id))
            if run.deleted:
                return "its run was deleted in the store"
            told = _difference(folder, run.artifact_uri, temporary) or _points_difference(folder, run.run_id)
            return told or _model_difference(folder, run, temporary)
    except Exception as error:
        return f"could not be verified: {faults.problem_of(error)}"


def _points_difference(folder: RunFolder, run_id: str) -> str:
    client = mlflow.MlflowClient()
    points: dict[str, set[tuple[int, int, float]]] = {}
    for line, _ in folder.journal().lines():
        if line["op"] == DAMAGED:
            return f"{folder.journal().path} is damaged, and its copy in the store may be, too"
        if line["op"] == "metrics":
            for name, value in line["values"].items():
                points.setdefault(name, set()).add((line["step"], line["at"], value))
    for name, expected in points.items():
        there = {(p.step, p.timestamp, p.value) for p in client.get_metric_history(run_id, name)}
        if missing := expected - there:
            return f"{len(missing)} points of {name} are not in the store"
    return ""


def _difference(folder: RunFolder, artifact_uri: str, temporary: Path) -> str:
    repository = get_artifact_repository(artifact_uri)
    for path in folder.deliverable():
        name = path.relative_to(folder.files).as_posix()
        try:
            back = Path(repository.download_artifacts(name, dst_path=str(temporary)))
        except Exception as error:
            return f"{name} is not in the store ({faults.problem_of(error)})"
        if durable.sha256(back) != durable.sha256(path):
            return f"{name} differs in the store"
        back.unlink()
    return ""


def _model_difference(folder: RunFolder, run: RunRecord, temporary: Path) -> str:
    if not folder.model.is_dir():
        return ""
    if run.model_uri is None:
        return "its model is not in the store"
    back = Path(download_artifacts(artifact_uri=run.model_uri, dst_path=str(temporary)))
    try:
        model_files.check_files(back, run.tags.get(store.MANIFEST_TAG, ""))
    except DataError as error:
        return f"the model in the store: {error}"
    for path in folder.model.rglob("*"):
        name = path.relative_to(folder.model)
        if not path.is_file() or path.name == "MLmodel" or "__pycache__" in path.parts:
            continue
        if not (back / name).is_file() or durable.sha256(back / name) != durable.sha256(path):
            return f"{folders.MODEL}/{name} differs in the store"
    return ""
