"""One run: a folder that holds all of it, and a store that gets it delivered; its recorded outcome is true."""

import contextlib
import faulthandler
import logging
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

import mlflow
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.autologging_utils import disable_autologging

from fmtl.errors import DataError, EnvironmentFault, Terminated, redacted
from fmtl.storage import durable
from fmtl.tracking import as_guest, opening, system_metrics
from fmtl.tracking.delivery import starting, trial
from fmtl.tracking.delivery.courier import START_SECONDS, Courier
from fmtl.tracking.delivery.sending import Delivery
from fmtl.tracking.delivery.starting import NotThere, Started, Wanted
from fmtl.tracking.delivery.state import Delivered
from fmtl.tracking.record import folder as folders
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.record.journal import now
from fmtl.tracking.record.lease import TAG as LEASE_TAG
from fmtl.tracking.record.lease import Lease
from fmtl.tracking.recording import Run

log = logging.getLogger(__name__)

_open: ContextVar[tuple[Run, ...]] = ContextVar("open runs", default=())  # of this thread, the innermost last


_foster: ContextVar[str | None] = ContextVar("run of another process", default=None)


@contextlib.contextmanager
def child_of(run_id: str) -> Iterator[None]:
    """Within it new runs are children of a run that another process holds."""
    before = _foster.set(run_id)
    try:
        yield
    finally:
        _foster.reset(before)


@contextlib.contextmanager
def open_run(
    kind: str,
    *,
    name: str | None = None,
    experiment: str | None = None,
    folder: str | None = None,
    offline: bool = False,
    resume: RunFolder | None = None,
    run_id: str | None = None,
    kept: Mapping[str, str] | None = None,
    is_abandoned: bool = False,
) -> Iterator[Run]:
    """Start a run, or adopt the one that ``mlflow run`` made; inside another run it becomes its child.

    Args:
        kind: The tag ``fmtl.kind``.
        name: Run name; MLflow draws one if None.
        experiment: Experiment name; ignored for an adopted or resumed run.
        folder: Of the run, where its artifacts are not on this disk; ``runs/<id>`` if None.
        offline: No store is asked; ``fmtl sync`` delivers the run later.
        resume: Folder of a run to go on with.
        run_id: Its id in the store.
        kept: See ``RunFolder.begin``.
        is_abandoned: Whoever worked on the run to be resumed is known to be gone, whatever the store says.

    Raises:
        EnvironmentFault: The store can't be used or the folder can't be written.
        DataError: Another process works on the run to be resumed.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(as_guest(soon=False))
        if not _open.get():
            stack.enter_context(disable_autologging())
        if resume:
            stack.enter_context(resume.held())
        run = _begin(kind, name, experiment, folder, offline, resume, run_id, kept, stack, is_abandoned)
        # MLflow takes an exception outside of its own `with` for success and a signal for nothing at all, so the
        # outcome is said here, whatever ends the block. It is a failure until the last line has been reached.
        status, outcome, message = "FAILED", "failed", None
        outer = _open.set((*_open.get(), run))
        try:
            yield run
            run.finish()
            status, outcome = "FINISHED", "completed"
        except (KeyboardInterrupt, Terminated):
            status, outcome = "KILLED", "interrupted"
            raise
        except BaseException as error:
            status, outcome = getattr(error, "status", status), getattr(error, "outcome", "failed")
            message = redacted(f"{type(error).__name__}: {error}")
            raise
        finally:
            _open.reset(outer)
            try:
                if status != "FINISHED":
                    run.give_up()
            finally:  # a second interrupt too leaves no run that looks alive
                run.end(status, outcome, message)


def adopted_run(kind: str) -> contextlib.AbstractContextManager:
    """The run that ``mlflow run`` made, if it did; commands that need no run of their own use this."""
    return open_run(kind) if os.environ.get("MLFLOW_RUN_ID") else contextlib.nullcontext()


def _begin(
    kind: str,
    name: str | None,
    experiment: str | None,
    folder: str | None,
    offline: bool,
    resume: RunFolder | None,
    run_id: str | None,
    kept: Mapping[str, str] | None,
    stack: contextlib.ExitStack,
    is_abandoned: bool,
) -> Run:
    """Everything before the work: the store's run, the folder, the thread that delivers."""
    mine, uri = Lease.mine(), mlflow.get_tracking_uri()
    adopted, parent = _adopted(experiment), None if resume else _parent()
    new = {"id": folders.new_id(), "kind": kind, "name": name, "experiment": experiment, "parent": parent,
           "adopted": None if resume else adopted, "context": resolve_tags({})}  # fmt: skip
    about = (resume.about() if resume else {}) or new
    courier, started = None, None
    if not offline:
        courier = Courier(mine)
        stack.callback(courier.leave)
        known = Delivered.to(uri, resume.record).run_id if resume else None
        wanted = Wanted(
            kind, about["id"], name, experiment, parent, there=run_id or known or about.get("adopted"),
            tags={LEASE_TAG: mine.json()}, is_abandoned=is_abandoned,
        )  # fmt: skip
        started = _started(courier, wanted, uri)
        if resume and adopted:
            with contextlib.suppress(Exception):  # a word on a page; the training is what matters
                courier.ask(lambda: starting.point_elsewhere(adopted), seconds=5)
    try:
        place = resume or _place(started, folder, about["id"])
        if not resume:
            stack.enter_context(place.held())
        journal = place.begin(about, kept)
        journal.append("begin", at=now())
        if resume:
            journal.append("tags", values={"fmtl.error": None})
        run = Run(kind, place, journal, started, courier)
        _crashes_told(place, stack)
        if courier and started:
            courier.deliver(Delivery(place, started, uri, progressed=courier.progressed))
    except BaseException as error:
        if courier and started:
            _fail(courier, started, error)
        raise
    if not _open.get() and system_metrics.are_wanted():  # of a child it would measure the same machine twice
        run.sampler = system_metrics.Sampler(journal)
        run.sampler.start()
    log.debug("run %s, files in %s", run.id, run.folder)
    return run


def _started(courier: Courier, wanted: Wanted, uri: str) -> Started:
    """The store's run, asked for in the courier's thread.

    Raises:
        EnvironmentFault: With the way out for a training.
    """
    seconds = START_SECONDS if uri.startswith("http") else START_SECONDS + opening.PATIENCE_SECONDS
    gone = RuntimeError("the store answered too late")

    def ask(asked: Wanted) -> Started:
        return courier.ask(
            lambda: _start(asked, tried=wanted.kind == "train"),
            seconds=seconds,
            undo=lambda late: starting.give_up(late, gone),
        )

    try:
        try:
            return ask(wanted)
        except NotThere:  # the store was emptied, or is another one than last time
            return ask(replace(wanted, there=None))
    except EnvironmentFault as error:
        if wanted.kind != "train":
            raise
        raise type(error)(f"{error}{trial.WAY_OUT}") from None


def _start(wanted: Wanted, *, tried: bool) -> Started:
    """In the courier's thread: ask the store for the run, and try it if hours depend on it."""
    started = starting.start(wanted)
    if tried:
        try:
            trial.check_artifacts(started)
        except BaseException as error:
            starting.give_up(started, error)
            raise
    return started


def _fail(courier: Courier, started: Started, error: BaseException) -> None:
    """Of a run that could not begin, leave none that looks alive."""
    with contextlib.suppress(Exception):  # the first error is the one to report
        courier.ask(lambda: starting.give_up(started, error), seconds=5)


def _parent() -> str | None:
    """The run that this one is a child of: ours around it, or the user's own."""
    if inner := _open.get():
        return inner[-1].run_id
    if foster := _foster.get():
        return foster
    active = mlflow.active_run()
    return active.info.run_id if active else None


def _adopted(experiment: str | None) -> str | None:
    """Id of the run that ``mlflow run`` made for this process; a second run would leave it empty.

    An empty variable, as templates leave it, is none.
    """
    if _open.get() or mlflow.active_run() or not (run_id := os.environ.get("MLFLOW_RUN_ID")):
        return None
    del os.environ["MLFLOW_RUN_ID"]  # as MLflow does: later runs of this process are their own
    if experiment:
        log.info("experiment=%s is ignored: 'mlflow run' has chosen one (--experiment-name)", experiment)
    return run_id


def _place(started: Started | None, folder: str | None, folder_id: str) -> RunFolder:
    if started and started.folder is not None and folder is None:
        return RunFolder.of_artifacts(started.folder)
    root = Path(folder) if folder else folders.RUNS / folder_id
    begun = {folders.RECORD} if not (root / folders.RECORD / folders.JOURNAL).exists() else set()  # and killed at once
    if folder and root.is_dir() and {path.name for path in root.iterdir()} - begun:
        raise DataError(f"{root}: is not empty; name a folder that is not there yet, or resume the run in it",
                        where="run_folder")  # fmt: skip
    try:
        durable.check_writable(root)
    except EnvironmentFault as error:
        raise EnvironmentFault(f"run_folder: {error}") from error
    return RunFolder.lasting(root)


def _crashes_told(place: RunFolder, stack: contextlib.ExitStack) -> None:
    """What kills the interpreter itself leaves its last words in the record, where nobody listens for them yet."""
    if faulthandler.is_enabled():
        return
    words = stack.enter_context((place.record / folders.CRASH).open("w"))
    faulthandler.enable(words)
    stack.callback(faulthandler.disable)
