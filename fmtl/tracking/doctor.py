"""Runs that look alive and are not: found by their lease, and given the end that their process could not tell."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import Run, RunTag, ViewType
from mlflow.exceptions import MlflowException

from fmtl.tracking import store
from fmtl.tracking.opening import reachable
from fmtl.tracking.record import folder as folders
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.record.lease import TAG, Lease

log = logging.getLogger(__name__)

ENDED = ("FINISHED", "FAILED", "KILLED")
PAGE_SIZE = 200


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


def mend_dead() -> int:
    """Repair the runs whose process provably died on this machine. Returns how many; a store that fails is none."""
    try:
        dead = [patient for patient in find() if patient.state == "dead"]
        for patient in dead:
            mend(patient)
            log.info("run %s (%s): its process had died; it is recorded as interrupted", patient.run_id, patient.name)
    except Exception as error:  # another command's work must not fail for it
        log.debug("no look for dead runs", exc_info=error)
        return 0
    return len(dead)


def mend(patient: Patient) -> None:
    """Record the end of a run whose process is gone."""
    with reachable():
        client = mlflow.MlflowClient()
        if patient.status not in ENDED or not patient.outcome:
            crash = _last_words(patient)
            outcome, status = ("failed", "FAILED") if crash else ("interrupted", "KILLED")
            who = f" ({patient.lease})" if patient.lease else ""
            message = crash or (
                f"its process{who} ended without a word: it was killed, memory ran out, or the machine went down; "
                f"fmtl train --resume {patient.run_id} goes on"
            )
            tags = [RunTag("fmtl.outcome", outcome), RunTag("fmtl.error", message)]
            if not patient.kind:
                tags.append(RunTag("fmtl.kind", "train"))
            client.log_batch(patient.run_id, tags=tags)
            client.set_terminated(patient.run_id, status)
        try:
            client.delete_tag(patient.run_id, TAG)
        except MlflowException as error:
            if error.error_code not in store.NOT_FOUND:
                raise


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


def _last_words(patient: Patient) -> str:
    """What a crashed interpreter wrote, in a line; empty if it wrote nothing or its folder is not here."""
    local = store.local_folder(patient.artifact_uri)
    place = RunFolder.of_artifacts(local) if local else RunFolder.lasting(folders.RUNS / patient.folder_id)
    words: Path = place.record / folders.CRASH
    if not (patient.lease and patient.lease.is_here and words.is_file()):
        return ""
    first = words.read_text(encoding="utf-8", errors="replace").splitlines()[:1]
    return f"its process crashed: {first[0]}; see {words}" if first else ""
