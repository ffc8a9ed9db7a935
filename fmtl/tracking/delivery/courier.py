"""The thread that delivers a run folder while the training goes on: it alone speaks to the store."""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as TookTooLong
from pathlib import Path
from typing import Any, TypeVar

from fmtl.errors import EnvironmentFault, redacted
from fmtl.tracking import faults, opening
from fmtl.tracking.delivery.sending import Delivery, Partial, Refused
from fmtl.tracking.faults import Problem
from fmtl.tracking.record import lease
from fmtl.tracking.record.journal import now

log = logging.getLogger(__name__)

T = TypeVar("T")
START_SECONDS = 30  # for the first answers of a store
PATIENCE_SECONDS = 20  # at the end, without any progress
MOST_SECONDS = 1800  # at the end, for one large file
LOCKED_SECONDS = 120  # at the end, for a database that another program keeps locked
UNWELL_SECONDS = 24  # at the end, for a server that answers with errors now and then
LOOK_SECONDS = 1.0  # between two looks at it
LONGEST_WAIT = 60.0  # between two tries


class NoAnswer(EnvironmentFault):
    """The store did not answer in time."""


class Courier:
    """Runs in a thread of its own, which ends with the process.

    Attributes:
        problem: Why the last try failed; None if it did not.
    """

    def __init__(self, my_lease: lease.Lease):
        self.problem: Problem | None = None
        self._lease = my_lease
        self._wake = threading.Event()
        self._done = threading.Event()
        self._jobs: list[tuple[Callable[[], Any], Future, Callable[[Any], object]]] = []
        self._delivery: Delivery | None = None
        self._closing = self._leaving = self._was_unwell = False
        self._is_well = True
        self._uploads = _Uploads() if Path("/proc/self/fdinfo").is_dir() else None
        self._progress = self._beaten = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="fmtl-courier", daemon=True)
        self._thread.start()

    def ask(
        self,
        question: Callable[[], T],
        *,
        seconds: float = START_SECONDS,
        undo: Callable[[T], object] = lambda answer: None,
    ) -> T:
        """The answer to a question that the thread asks between two deliveries.

        Args:
            undo: What to do with an answer that comes when nobody waits for it any more.

        Raises:
            NoAnswer: There was none in time.
            Whatever the question raises.
        """
        answer: Future = Future()
        self._jobs.append((question, answer, undo))
        self._wake.set()
        try:
            return answer.result(timeout=seconds)
        except TookTooLong:
            if answer.done() and not answer.cancelled():  # the question itself took too long
                raise
            raise NoAnswer(str(faults.fault(EnvironmentFault(f"it did not answer in {seconds:.0f} s")))) from None
        finally:
            answer.cancel()  # of no effect on one that was given

    def deliver(self, delivery: Delivery) -> None:
        """From now on deliver this."""
        self._delivery = delivery
        self._wake.set()

    def progressed(self) -> None:
        self._progress = time.monotonic()

    def wake(self) -> None:
        """There is something new."""
        self._wake.set()

    def finish(self, *, patience: float | None = None) -> Problem | None:
        """Wait until everything is delivered, as long as there is progress. Returns why it is not.

        A server that answers with errors now and then makes progress for hours: its time is bounded.
        """
        patience = PATIENCE_SECONDS if patience is None else patience
        self._closing = True
        self._progress = begun = time.monotonic()
        self._wake.set()
        threading.Thread(target=self._look, daemon=True).start()
        told = False
        while not self._done.wait(0.05) and self._thread.is_alive():
            now = time.monotonic()
            if self._was_unwell and now - begun > max(patience, UNWELL_SECONDS):
                break
            if not told and now - begun > PATIENCE_SECONDS:
                log.info("delivering to the store; an interrupt leaves the rest to 'fmtl sync'")
                told = True
            if now - self._progress > self._may_wait(patience) or now - begun > MOST_SECONDS:
                break
        self.leave()
        if self._done.is_set():
            return None
        return self.problem or Problem("it does not answer in time")

    def _may_wait(self, patience: float) -> float:
        """Seconds without progress: more for a locked database, and for a store that was long in taking a file."""
        if self.problem is not None and "locked" in self.problem.what:
            return max(patience, LOCKED_SECONDS)
        if patience < PATIENCE_SECONDS or self.problem is not None:
            return patience
        if self._uploads is None:  # not Linux: a busy store can't be told from one that does not get on
            return MOST_SECONDS if self._is_well else patience
        return max(patience, 2 * self._uploads.seconds)

    def leave(self) -> None:
        """Deliver nothing more than what is on its way."""
        self._leaving = True
        self._wake.set()

    def _run(self) -> None:
        pause = 0.0
        while not self._leaving:
            self._wake.wait(timeout=max(0.1, pause - time.monotonic()) if pause else lease.BEAT_SECONDS)
            self._wake.clear()
            self._answer()
            if self._leaving:
                return
            if self._delivery is None or (not self._closing and time.monotonic() < pause):
                continue
            pause = self._try(self._delivery)
            if self._done.is_set():
                return

    def _answer(self) -> None:
        while self._jobs:
            question, answer, undo = self._jobs.pop(0)
            try:
                found = question()
            except BaseException as error:
                with contextlib.suppress(InvalidStateError):
                    answer.set_exception(error)
                continue
            try:
                answer.set_result(found)
            except InvalidStateError:
                with contextlib.suppress(Exception):
                    undo(found)

    def _try(self, delivery: Delivery) -> float:
        """Returns when to try again; 0: when there is something new."""
        closing = self._closing
        try:
            with delivery.folder.delivering() as free:
                if not free:
                    raise EnvironmentFault("another process delivers this run")
                delivery.send(everything=closing)
            if time.monotonic() - self._beaten > lease.BEAT_SECONDS and not delivery.state.ended:
                delivery.beat(self._lease.json(beat=now()))
                self._beaten = time.monotonic()
            self.problem = None
            self._tries = 0
            if closing:
                self._done.set()
            return 0.0
        except Exception as error:
            log.debug("delivery failed: %s", redacted(str(error)))
            if self.problem is None and not closing:
                log.warning("%s; the training goes on, and what is missing is sent later", faults.fault(error))
            self.problem = faults.problem_of(error)
            self._tries += 1
            if closing and self._tries > 1 and isinstance(error, Refused | Partial):
                self.leave()
            wait = min(LONGEST_WAIT, 2.0**self._tries / 2) * random.uniform(0.8, 1.2)
            return time.monotonic() + (min(wait, 5.0) if closing else wait)

    _tries = 0

    def _look(self) -> None:
        """How the server is and whether a file is on its way, asked by a thread that waits for no upload."""
        while not self._done.is_set() and not self._leaving:
            if self._delivery:
                found = opening.state_of_server(self._delivery.uri)
                self._is_well = found == "well"
                self._was_unwell = self._was_unwell or found == "unwell"
                if self._uploads and self._uploads.moved(self._delivery.folder.root):
                    self.progressed()
            self._done.wait(LOOK_SECONDS)


class _Uploads:
    """How far this process has read the files that it sends, as Linux shows it.

    A file that is sent again since the server did not take it comes no farther than before, and of small ones a look
    now and then sees some for the first time at each try: only whole megabytes count.

    Attributes:
        seconds: That the file took which is on its way, or was last.
    """

    def __init__(self) -> None:
        self._farthest: dict[str, int] = {}
        self._began: dict[str, float] = {}
        self.seconds = 0.0

    def moved(self, root: Path) -> bool:
        """Whether a file below a folder was read farther than ever before."""
        found = False
        for descriptor in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                path = str(descriptor.readlink())
                if not path.startswith(f"{root}/"):
                    continue
                info = Path(f"/proc/self/fdinfo/{descriptor.name}").read_text(encoding="utf-8")
                at, name = int(info.split()[1]) >> 20, Path(path).name  # each try sends a copy elsewhere
                if at > self._farthest.get(name, 0):
                    self._farthest[name] = at
                    self.seconds = time.monotonic() - self._began.setdefault(name, time.monotonic())
                    found = True
        return found
