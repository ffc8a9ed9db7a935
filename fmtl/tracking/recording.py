"""What a training writes to a run: into its folder, from which a thread delivers it to a store."""

import contextlib
import logging
import math
import re
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from mlflow.tracking.multimedia import compress_image_size
from PIL import Image

from fmtl.errors import EnvironmentFault, Terminated, redacted
from fmtl.storage import durable
from fmtl.tracking import store, system_metrics
from fmtl.tracking.delivery import state, trial
from fmtl.tracking.delivery.courier import Courier, NoAnswer
from fmtl.tracking.delivery.limits import MAX_TAG_LENGTH
from fmtl.tracking.delivery.starting import Started
from fmtl.tracking.faults import Problem
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.record.journal import Journal, now

log = logging.getLogger(__name__)

MOST_WAITING = 64  # pictures not written yet, a megabyte each; beyond, training waits for the disk
AT_END = ("metrics", 0)  # what a line says that is of the end of a run, not of an epoch
COPIES = ("prepare", "compare", "register", "predict", "main")  # kinds whose files are elsewhere, too
INTERRUPTED_SECONDS = 10  # of waiting for a store that makes no progress, where somebody wants the end


class Run:
    """What fmtl writes to a run: into its folder, from which a thread delivers it to a store.

    Attributes:
        run_id: MLflow's id; None where no store has it yet.
        folder: Local folder of the run's files. Where the artifact store is this machine's disk it is the store itself.
        place: The same folder and its record.
    """

    is_recorded = True

    def __init__(self, kind: str, place: RunFolder, journal: Journal, started: Started | None, courier: Courier | None):
        about = place.about()
        self.kind = kind
        self.run_id = started.run_id if started else None
        self.name = started.name if started else str(about.get("name") or about.get("id"))
        self.place, self.folder = place, place.files
        self._journal, self._courier, self._started = journal, courier, started
        self._given_params = set(started.params) if started else set()
        self._background: Executor = ThreadPoolExecutor(max_workers=1)  # one: a series in its order
        self._waiting: deque[Future] = deque()
        self.sampler: system_metrics.Sampler | None = None

    @property
    def id(self) -> str:
        """What ``--resume`` and ``fmtl sync`` take."""
        return self.run_id or self.place.root.name

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log parameters; what ``mlflow run`` has logged already stands, since params can't be changed."""
        new = {k: "" if v is None else str(v) for k, v in params.items() if k not in self._given_params}
        self._given_params |= set(new)
        if new:
            self._say("params", values=new)

    def log_metrics(
        self, metrics: Mapping[str, float | None], step: int | None = None, of: Mapping[str, str] | None = None
    ) -> int:
        """Log the finite metrics. Returns their time, in ms since 1970.

        Undefined ones stay out: MLflow stores infinity as a huge number.

        Args:
            of: ``model_id``, ``dataset_name`` and ``dataset_digest``, where they are another model's, on other data.
        """
        at = now()
        if finite := _finite(metrics):
            self._say("metrics", values=finite, step=step or 0, at=at, **({"of": dict(of)} if of else {}))
        return at

    def log_model(self, save: Callable[[Path], object], *, epoch: int, metrics: Mapping[str, float | None]) -> None:
        """Log the finished model, and the scores that belong to it and to the run: those first.

        What this run had said of both before it was interrupted is not said again.

        Args:
            save: Writes the model into a folder.
        """
        scores, said = _finite(metrics), [line for line, _ in self._journal.lines()]
        if any(line["op"] == "model" and (line["epoch"], line["metrics"]) == (epoch, scores) for line in said):
            return
        told = [line for line in said if (line["op"], line.get("step")) == AT_END]
        told += [found.scores for found in state.all_of(self.place.record)]
        before = [line["at"] for line in told if line.get("values") == scores]
        at = before[0] if before else self.log_metrics(metrics)
        with durable.publishing(self.place.model) as temporary:
            save(temporary)
        params = {k: v for line in said if line["op"] == "params" for k, v in line["values"].items()}
        self._say("model", epoch=epoch, params=params, metrics=scores, at=at)

    def log_image(self, image: Image.Image, *, key: str, step: int) -> None:
        """A picture of a series: the run page shows the series under its key, with a slider over the steps.

        It is written in the background, so that training goes on meanwhile. A failure is raised by a later call or at
        the end of the run.
        """
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= MOST_WAITING):
            self._waiting.popleft().result()
        if not self._waiting and step <= 1:
            self.set_tags({"mlflow.loggedImages": "true"})
        self._waiting.append(self._background.submit(_write_picture, self.folder, image, key, step))

    def set_tags(self, tags: Mapping[str, str | None]) -> None:
        """Set tags; None takes one away."""
        self._say("tags", values={k: v if v is None else redacted(str(v))[:MAX_TAG_LENGTH] for k, v in tags.items()})

    def log_dataset(self, *, name: str, digest: str, source: str, context: str) -> None:
        """Reference a prepared dataset by digest; no data is copied."""
        self._say("dataset", name=name, digest=digest, source=source, context=context)

    def check_size(self, num_bytes: int) -> None:
        """Raise EnvironmentFault where the store does not take files of so many bytes."""
        if self._courier and self._started:
            started = self._started
            with contextlib.suppress(NoAnswer):  # it is busy, or gone by now: that is no reason not to train
                self._courier.ask(lambda: trial.check_size(started, num_bytes))

    def note_steps(self, steps: Iterable[int]) -> None:
        """Of a run that goes on: the epochs whose metrics a store has from before this journal began."""
        self._say("there", steps=sorted(steps))

    def finish(self) -> None:
        """Wait until all pictures are written."""
        while self._waiting:
            self._waiting.popleft().result()
        self._background.shutdown()

    def give_up(self) -> None:
        """Drop the pictures that wait: an interrupt ends the run soon."""
        self._background.shutdown(wait=False, cancel_futures=True)
        if dropped := sum(picture.cancelled() for picture in self._waiting):
            log.warning("%d pictures of the last epochs were not written", dropped)
        for picture in self._waiting:
            if not picture.cancelled():
                with contextlib.suppress(Exception):  # the first error is the one to report
                    picture.result()

    def end(self, status: str, outcome: str, error: str | None) -> None:
        """Record the end, and wait a while for the delivery."""
        told = redacted(error)[:MAX_TAG_LENGTH] if error else None
        try:
            self._say("end", status=status, outcome=outcome, error=told, at=now())
        except EnvironmentFault as fault:
            if outcome == "completed":
                raise
            log.warning("%s", fault)  # what ended the run is the error to report
        if self.sampler:
            self.sampler.finish()
        if self._courier is None:
            log.info("the run is in %s; to deliver it to a store: fmtl sync --run %s", self.place.root, self.id)
            return
        try:
            problem = self._courier.finish(patience=INTERRUPTED_SECONDS if status == "KILLED" else None)
        except (KeyboardInterrupt, Terminated):  # of the waiting, not of the work, which is done
            problem = Problem("interrupted")
        if problem is not None:
            where = self.place.root.name if self.place.files == self.place.root else self.place.root
            log.warning(
                "not everything was delivered to %s: %s. The run is whole in %s; when that is mended: "
                "fmtl sync --run %s", store.address(), problem, self.place.root, where,
            )  # fmt: skip
        elif self.kind in COPIES and self.place.files == self.place.root:
            self.place.remove()  # a second copy of what the command has written elsewhere
            with contextlib.suppress(OSError):
                self.place.root.parent.rmdir()

    def _say(self, op: str, **content: object) -> None:
        self._journal.append(op, **content)
        if self._courier:
            self._courier.wake()


class Recorded(Protocol):
    """What a training writes to: a ``Run``, or ``Unrecorded``."""

    is_recorded: bool
    run_id: str | None
    folder: Path

    def log_params(self, params: Mapping[str, object]) -> None: ...

    def log_metrics(self, metrics: Mapping[str, float | None], step: int | None = None) -> object: ...

    def log_model(self, save: Callable[[Path], object], *, epoch: int, metrics: Mapping[str, float | None]) -> None: ...

    def log_image(self, image: Image.Image, *, key: str, step: int) -> None: ...

    def set_tags(self, tags: Mapping[str, str | None]) -> None: ...


class Unrecorded:
    """What ``Run`` offers, for those who want nothing recorded; files go to a folder that is removed at the end."""

    is_recorded = False
    run_id: str | None = None

    def __init__(self, folder: Path):
        self.folder = folder

    def log_params(self, params: Mapping[str, object]) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, float | None], step: int | None = None) -> None:
        pass

    def log_model(self, save: Callable[[Path], object], *, epoch: int, metrics: Mapping[str, float | None]) -> None:
        pass

    def log_image(self, image: Image.Image, *, key: str, step: int) -> None:
        pass

    def set_tags(self, tags: Mapping[str, str | None]) -> None:
        pass


@contextlib.contextmanager
def unrecorded() -> Iterator[Unrecorded]:
    with durable.temporary_folder() as folder:
        yield Unrecorded(folder)


def _write_picture(folder: Path, image: Image.Image, key: str, step: int) -> None:
    """As ``MlflowClient.log_image`` names them: the run page finds the series, and the small ones, by these names."""
    name = f"{re.sub('/', '~', key)}+step+{step}+timestamp+{now()}+{uuid.uuid4()}"
    for path, picture in ((f"{name}.png", image), (f"{name}+compressed.webp", compress_image_size(image))):
        with durable.replacing(folder / "images" / path, sync=False) as temporary:
            picture.save(temporary)


def _finite(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {k: float(v) for k, v in metrics.items() if v is not None and math.isfinite(v)}
