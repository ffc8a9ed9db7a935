"""Runs that look alive and are not: found by their lease, and given the end that their process could not tell."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import mlflow
from mlflow.entities import Run, RunTag, ViewType

from fmtl.errors import DataError, redacted
from fmtl.tracking import store
from fmtl.tracking.opening import reachable
from fmtl.tracking.record import folder as folders
from fmtl.tracking.record import journal
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.record.lease import TAG, Lease

log = logging.getLogger(__name__)

ENDED = ("FINISHED", "FAILED", "KILLED")
PAGE_SIZE = 200
MENDING_SECONDS = 10  # that a command waits for it


@dataclass(frozen=True)
class Patient:
    """A run that is not known to have ended.

    Attributes:
        lease: Who works on it; None of a run that fmtl never began, or that an older version made.
        state: ``alive``, ``dead`` (for sure), ``silent`` (another machine's, not heard of for long) or ``unknown``.
    """

    run_id: str
    name: str
    kind: str
    status: str
    outcome: str
    lease: Lease | None
    artifact_uri: str
    folder_id: str
    state: str


def find() -> list[Patient]:
    """Every run of the store in use that looks alive."""
    with reachable():
        return list(_find(mlflow.MlflowClient()))


def folders_of_unfinished() -> list[RunFolder]:
    """Records, on this machine, of the runs that look alive in the store in use, wherever their artifacts lie."""
    return [folder for patient in find() if (folder := _folder(patient)) is not None]


def mend_dead() -> None:
    """Repair the runs whose process provably died on this machine. Another command's work neither fails nor waits."""
    looking = threading.Thread(target=_mend_dead, daemon=True)
    looking.start()
    looking.join(MENDING_SECONDS)


def _mend_dead() -> None:
    try:
        for patient in find():
            if patient.state == "dead" and mend(patient):
                log.info("run %s (%s): its process had died; that is recorded now", patient.run_id, patient.name)
    except Exception as error:
        log.debug("no look for dead runs: %s", redacted(str(error)))


def mend(patient: Patient) -> bool:
    """Record the end of a run whose process is gone: what its folder says of it, else that it was interrupted.

    Returns:
        False if it lives after all: somebody has resumed it meanwhile, or delivers it just now.
    """
    with reachable(), contextlib.ExitStack() as held:
        client = mlflow.MlflowClient()
        now = _patient(client.get_run(patient.run_id))
        folder = _folder(patient)
        if now.lease != patient.lease or now.state not in ("dead", "silent"):
            return False
        if folder is not None:
            try:
                held.enter_context(folder.held())
            except DataError:
                return False
            if not held.enter_context(folder.delivering()):
                return False
        if now.status not in ENDED or not now.outcome:
            outcome, status, message = _end(now, folder)
            tags = [RunTag("fmtl.outcome", outcome)] + ([RunTag("fmtl.error", message)] if message else [])
            client.log_batch(patient.run_id, tags=tags)
            client.set_terminated(patient.run_id, status)
        store.delete_tag(client, patient.run_id, TAG)
    return True


def _folder(patient: Patient) -> RunFolder | None:
    """Where its record is on this machine."""
    local = store.local_folder(patient.artifact_uri)
    places = [RunFolder.of_artifacts(local)] if local else []
    if patient.folder_id:
        places.append(RunFolder.lasting(folders.RUNS / patient.folder_id))
    return next((place for place in places if place.exists), None)


def _end(patient: Patient, folder: RunFolder | None) -> tuple[str, str, str]:
    """Outcome, MLflow's status and a sentence."""
    told = journal.last_end(folder.journal().lines()) if folder else None
    if told is not None:  # it ended, and only the store did not hear of it
        return told["outcome"], told["status"], told.get("error") or ""
    if folder is not None and (crash := folder.last_words()):
        return "failed", "FAILED", crash
    who = f" ({patient.lease})" if patient.lease else ""
    why = "it was killed, memory ran out, or the machine went down"
    if patient.lease and patient.lease.memory_ran_out:
        why = "since it began the kernel has killed processes of this machine for memory: lower batch_size or px"
    message = f"its process{who} ended without a word: {why}; fmtl train --resume {patient.run_id} goes on"
    return "interrupted", "KILLED", message


def _find(client: mlflow.MlflowClient) -> Iterator[Patient]:
    experiments = [e.experiment_id for e in client.search_experiments(view_type=ViewType.ACTIVE_ONLY)]
    seen = set()
    # A run under `mlflow run` has the status of its exit code, whatever it did; one that fmtl never began has no lease.
    for question in (f"tags.`{TAG}` LIKE '%'", "attributes.status = 'RUNNING'"):
        token = None
        while True:
            page = client.search_runs(experiments, question, max_results=PAGE_SIZE, page_token=token)
            for run in page:
                if run.info.run_id not in seen:
                    seen.add(run.info.run_id)
                    yield _patient(run)
            token = page.token
            if not token:
                break


def _patient(run: Run) -> Patient:
    tags = run.data.tags
    lease = Lease.read(tags.get(TAG))
    state = "unknown"
    if lease is not None:
        state = "dead" if lease.died else "silent" if lease.is_silent else "alive"
    return Patient(
        run.info.run_id, run.info.run_name, tags.get("fmtl.kind", ""), run.info.status, tags.get("fmtl.outcome", ""),
        lease, run.info.artifact_uri, tags.get(store.FOLDER_ID_TAG, ""), state,
    )  # fmt: skip
