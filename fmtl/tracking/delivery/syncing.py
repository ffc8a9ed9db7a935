"""A whole delivery at once, of a run that is over: what ``fmtl sync`` does with each folder."""

import logging
import time
from dataclasses import replace

import mlflow
from tqdm.auto import tqdm

from fmtl.errors import DataError, redacted
from fmtl.tracking import faults, store
from fmtl.tracking.delivery import starting
from fmtl.tracking.delivery.sending import Delivery
from fmtl.tracking.delivery.starting import NotThere, Wanted
from fmtl.tracking.delivery.state import Delivered
from fmtl.tracking.record import folder as folders
from fmtl.tracking.record import journal
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.record.lease import TAG as LEASE_TAG
from fmtl.tracking.record.lease import Lease

log = logging.getLogger(__name__)

TRIES, WAIT_SECONDS = 4, 2.0  # of one delivery that makes no progress; the wait doubles


def is_delivered(folder: RunFolder) -> bool:
    """Whether the store in use has all of it: by what was noted, if the store still knows the run."""
    noted = Delivered.to(mlflow.get_tracking_uri(), folder.record)
    if not noted.has_all(folder.record / folders.JOURNAL):
        return False
    try:
        return not store.get_run(str(noted.run_id)).deleted
    except DataError:
        return False


def deliver(folder: RunFolder) -> str:
    """Send what the store in use has not. Returns the id of the run there.

    Raises:
        DataError: Somebody works on it.
    """
    about, uri = folder.about(), mlflow.get_tracking_uri()
    if not about:
        raise DataError(f"{folder.record / folders.ABOUT}: is missing, so that nothing is known about this run")
    with folder.held(), folder.delivering() as free:
        if not free:
            raise DataError("another process delivers it")
        _end(folder)
        known = Delivered.to(uri, folder.record).run_id or about.get("adopted")
        wanted = Wanted(
            about["kind"], about["id"], about.get("name"), about.get("experiment"), about.get("parent"), there=known,
            tags={LEASE_TAG: Lease.mine().json()}, context=about.get("context"), begins=False,
        )  # fmt: skip
        try:
            started = starting.start(wanted)
        except NotThere:  # the store was emptied, or never had it
            started = starting.start(replace(wanted, there=None, parent=None))
        with tqdm(desc=folder.root.name, unit=" files", disable=None, leave=False) as bar:
            _send(Delivery(folder, started, uri, progressed=bar.update), bar)
    return started.run_id


def _send(delivery: Delivery, bar: tqdm) -> None:
    """Until the store has everything, or does not take any more of it."""
    wait, tries = WAIT_SECONDS, TRIES
    while True:
        done = bar.n
        try:
            delivery.send(everything=True)
            return
        except Exception as error:
            tries = TRIES if bar.n > done else tries - 1
            if not tries or faults.problem_of(error).refused:
                raise
            log.debug("again: %s", redacted(str(error)))
            time.sleep(wait)
            wait = min(60, wait * 2)


def _end(folder: RunFolder) -> None:
    """Of a run whose process died without a word, say so in its journal."""
    record = folder.journal()
    record.mend()
    if journal.last_end(record.lines()) is not None:
        return
    lease = folder.lease()
    if lease and not (lease.died or lease.is_silent or lease.is_mine):
        raise DataError(f"run {folder.root.name}: it is running ({lease}); it delivers itself")
    crash = folder.last_words()
    word = f"its process ({lease}) ended without a word"
    if journal.is_damaged(record.lines()):
        word = f"how it ended can't be told: {record.path} is damaged"
    message = crash or f"{word}; fmtl train --resume {folder.root} goes on"
    status, outcome = ("FAILED", "failed") if crash else ("KILLED", "interrupted")
    record.append("end", status=status, outcome=outcome, error=message, at=journal.now())
