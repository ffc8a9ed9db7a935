"""A whole delivery at once, of a run that is over: what ``fmtl sync`` does with each folder."""

import logging
import time

import mlflow
from tqdm.auto import tqdm

from fmtl.errors import DataError
from fmtl.tracking import faults
from fmtl.tracking.delivery import starting
from fmtl.tracking.delivery.sending import Delivery
from fmtl.tracking.delivery.starting import NotThere, Wanted
from fmtl.tracking.delivery.state import Delivered
from fmtl.tracking.record import folder as folders
from fmtl.tracking.record import journal
from fmtl.tracking.record.folder import RunFolder

log = logging.getLogger(__name__)

TRIES, WAIT_SECONDS = 4, 2.0  # of one delivery that makes no progress; the wait doubles


def is_delivered(folder: RunFolder) -> bool:
    """Whether the store in use has all of it, as far as was noted."""
    noted = Delivered.to(mlflow.get_tracking_uri(), folder.record)
    size = (folder.record / folders.JOURNAL).stat().st_size
    return noted.ended and not noted.refused and noted.lines == size


def deliver(folder: RunFolder) -> str:
    """Send what the store in use has not. Returns the id of the run there."""
    about = folder.about()
    with folder.held():
        _end(folder)
    uri = mlflow.get_tracking_uri()
    known = Delivered.to(uri, folder.record).run_id
    wanted = Wanted(about["kind"], about["id"], about.get("name"), about.get("experiment"), there=known)
    with folder.delivering() as free:
        if not free:
            raise DataError("another process delivers it")
        try:
            started = starting.start(wanted)
        except NotThere:  # the store was emptied
            started = starting.start(Wanted(wanted.kind, wanted.folder_id, wanted.name, wanted.experiment))
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
            log.debug("again", exc_info=error)
            time.sleep(wait)
            wait = min(60, wait * 2)


def _end(folder: RunFolder) -> None:
    """Of a run whose process died without a word, say so in its journal."""
    record = folder.journal()
    record.mend()
    last = "begin"
    for line, _ in record.lines():
        last = line["op"] if line["op"] in ("begin", "end") else last
    if last != "end":
        message = f"its process ({folder.lease()}) ended without a word; fmtl train --resume {folder.root} goes on"
        record.append("tags", values={"fmtl.error": message})
        record.append("end", status="KILLED", outcome="interrupted", at=journal.now())
