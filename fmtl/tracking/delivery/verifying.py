"""Whether a store has every byte of a run folder: nothing else may be the reason to remove it."""

from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from fmtl.storage import durable
from fmtl.tracking import faults, store
from fmtl.tracking.delivery import state
from fmtl.tracking.opening import reachable
from fmtl.tracking.record import folder as folders
from fmtl.tracking.record.folder import RunFolder


def why_kept(folder: RunFolder) -> str:
    """Empty if a store has every byte of it; every file is read back and its hash compared."""
    if folder.is_held:
        return f"it is running ({folder.lease()})"
    noted = next((s for s in state.all_of(folder.record) if s.ended and not s.refused and s.artifact_uri), None)
    if noted is None or noted.lines != (folder.record / folders.JOURNAL).stat().st_size:
        return f"not delivered: fmtl sync --run {folder.root.name}"
    try:
        with reachable(), durable.temporary_folder() as temporary:
            run = store.get_run(str(noted.run_id))
            return _difference(folder, run.artifact_uri, temporary) or _model_difference(
                folder, run.model_uri, temporary
            )
    except Exception as error:
        return f"could not be verified: {faults.problem_of(error)}"


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


def _model_difference(folder: RunFolder, uri: str | None, temporary: Path) -> str:
    if not folder.model.is_dir():
        return ""
    if uri is None:
        return "its model is not in the store"
    back = Path(download_artifacts(artifact_uri=uri, dst_path=str(temporary)))
    for path in folder.model.rglob("*"):
        name = path.relative_to(folder.model)
        if not path.is_file() or path.name == "MLmodel" or "__pycache__" in path.parts:
            continue
        if not (back / name).is_file() or durable.sha256(back / name) != durable.sha256(path):
            return f"{folders.MODEL}/{name} differs in the store"
    return ""
