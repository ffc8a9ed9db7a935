"""A run's model to a store: whole before it is called ready, and then named by the run."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric, RunTag
from mlflow.models import Model
from mlflow.tracking.context.registry import resolve_tags

from fmtl.storage import durable
from fmtl.tracking import model_files, store
from fmtl.tracking.delivery.limits import MAX_PARAM_LENGTH, METRICS, chunks
from fmtl.tracking.delivery.starting import Started
from fmtl.tracking.delivery.state import Delivered, all_of
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.record.journal import Line


def send_model(
    line: Line,
    client: mlflow.MlflowClient,
    folder: RunFolder,
    started: Started,
    state: Delivered,
    note: Callable[[], None],
    *,
    at: int,
) -> None:
    """The model folder as a logged model: whole before it is called ready, then the run names it.

    Args:
        at: Where the line is in the journal: of which model it speaks.
    """
    run_id, known = started.run_id, state.model
    if known.get("epoch") != line["epoch"] or known.get("lines") != at:
        known.clear()
    if known.get("is_whole"):
        return
    source = _model_here(folder)
    if "id" not in known:
        known |= {"id": _new_model(line, client, started), "epoch": line["epoch"], "lines": at}
        note()
    model = client.get_logged_model(known["id"])
    outputs = client.get_run(run_id).outputs
    if known["id"] not in {output.model_id for output in (outputs.model_outputs if outputs else ())}:
        client.log_outputs(run_id, [LoggedModelOutput(known["id"], step=line["epoch"])])
    with tempfile.TemporaryDirectory(prefix=durable.TEMPORARY_PREFIX, dir=folder.record) as temporary:
        copy = Path(temporary) / "model"
        _copy_with_ids(source, copy, model.artifact_location, run_id, known["id"])
        known["manifest"] = model_files.write_manifest(copy)
        target = store.local_folder(model.artifact_location)
        if target is not None:
            _move(copy, target)
            known["location"] = str(target)
        else:
            _send_files(copy, client, known, note)
    client.finalize_logged_model(known["id"], LoggedModelStatus.READY)
    points = [
        Metric(name, value, line["at"], 0, model_id=known["id"], run_id=run_id)
        for name, value in line["metrics"].items()
    ]
    for some in chunks(points, METRICS):
        client.log_batch(run_id, metrics=some)
    tags = [RunTag(store.MODEL_TAG, known["id"]), RunTag(store.MANIFEST_TAG, known["manifest"])]
    client.log_batch(run_id, tags=tags)
    known["is_whole"] = True
    known.pop("files", None)
    note()
    if folder.model.parent == folder.record and "location" in known:
        shutil.rmtree(folder.model, ignore_errors=True)  # the store on this disk has it now


def _send_files(folder: Path, client: mlflow.MlflowClient, known: dict[str, Any], note: Callable[[], None]) -> None:
    """One by one: each is progress, and what a server took is not sent again. The largest first: it may refuse them.

    Args:
        known: Of the model; its ``files`` are hashes by path of what the server has.
    """
    sent = known.setdefault("files", {})
    paths = [path for path in folder.rglob("*") if path.is_file()]
    for path in sorted(paths, key=lambda path: -path.stat().st_size):
        name, digest = path.relative_to(folder), durable.sha256(path)
        if sent.get(name.as_posix()) != digest:
            within = None if name.parent == Path() else name.parent.as_posix()
            client.log_model_artifact(known["id"], str(path), within)
            sent[name.as_posix()] = digest
            note()


def _model_here(folder: RunFolder) -> Path:
    """The run's model; of one that a store on this disk has, where that keeps it."""
    places = [Path(s.model["location"]) for s in all_of(folder.record) if "location" in s.model]
    for place in (folder.model, *places):
        if (place / "MLmodel").is_file():
            return place
    raise FileNotFoundError(f"{folder.model}: the run's model is not there any more")


def _new_model(line: Line, client: mlflow.MlflowClient, started: Started) -> str:
    tags = resolve_tags({"fmtl.run": started.run_id, **line.get("tags", {})})
    params = {name: str(value)[:MAX_PARAM_LENGTH] for name, value in line["params"].items()}
    made = client.create_logged_model(
        started.experiment_id, name="model", source_run_id=started.run_id, tags=tags, params=params
    )
    return made.model_id


def _copy_with_ids(source: Path, target: Path, artifact_path: str, run_id: str, model_id: str) -> None:
    """The model folder once more, without its bytes: with links, and a description that says whose it is."""
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and path.name != model_files.MANIFEST:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            durable.link(path, copy)
    about = Model.load(str(source))
    about.run_id, about.model_id, about.model_uuid, about.artifact_path = run_id, model_id, model_id, artifact_path
    (target / "MLmodel").unlink()
    about.save(str(target / "MLmodel"))


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)  # a part, of a delivery that was interrupted
    try:
        source.rename(target)
    except OSError:  # another disk
        shutil.copytree(source, target)
