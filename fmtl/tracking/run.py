"""One MLflow run, whose recorded outcome is true however it ends."""

import contextlib
import importlib.util
import logging
import math
import os
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

import mlflow
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # made at run time
from mlflow.exceptions import MlflowException
from PIL import Image

from fmtl.errors import EnvironmentFault, Terminated
from fmtl.tracking import as_guest, store

log = logging.getLogger(__name__)

MAX_TAG_LENGTH = 5000  # the strictest of MLflow's stores
MOST_WAITING = 64  # pictures not written yet, a megabyte each; beyond, training waits for the store


class Run:
    """What fmtl writes to an MLflow run.

    Attributes:
        run_id: MLflow's id.
        folder: Local folder of the run's artifacts. Where the artifact store is this machine's disk it is the
            store itself; else a staging folder that is uploaded when the run closes.
    """

    def __init__(self, active: mlflow.ActiveRun, folder: Path, background: Executor):
        self.run_id = active.info.run_id
        self.name = active.info.run_name
        self.folder = folder
        self._given_params = set(active.data.params)
        self._background = background
        self._waiting: deque[Future] = deque()

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log parameters; what ``mlflow run`` has logged already stands, since params can't be changed."""
        new = {k: "" if v is None else v for k, v in params.items() if k not in self._given_params}
        mlflow.log_params(new)
        self._given_params |= set(new)

    def log_metrics(
        self, metrics: Mapping[str, float | None], step: int | None = None, model_id: str | None = None
    ) -> None:
        """Log the finite metrics, to a logged model as well if its id is given.

        Undefined ones stay out: MLflow stores infinity as a huge number.
        """
        finite = {k: float(v) for k, v in metrics.items() if v is not None and math.isfinite(v)}
        mlflow.log_metrics(finite, step=step, model_id=model_id)

    def log_image(self, image: Image.Image, *, key: str, step: int) -> None:
        """A picture of a series: the run page shows the series under its key, with a slider over the steps.

        It is written in the background, so that training goes on while a distant store takes its time. A failure is
        raised by a later call or at the end of the run; MLflow's own background writing would only print it.
        """
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= MOST_WAITING):
            self._waiting.popleft().result()
        write = mlflow.MlflowClient().log_image
        self._waiting.append(self._background.submit(write, self.run_id, image, key=key, step=step, synchronous=True))

    def finish(self) -> None:
        """Wait until all pictures are written."""
        while self._waiting:
            self._waiting.popleft().result()

    def give_up(self, *, upload: bool) -> None:
        """Save the files there are, and drop the pictures that wait: an interrupt ends the run soon.

        Args:
            upload: ``folder`` is a staging folder.
        """
        self._background.shutdown(wait=False, cancel_futures=True)
        if dropped := sum(picture.cancelled() for picture in self._waiting):
            log.warning("%d pictures of the last epochs were not written", dropped)
        if upload:
            with contextlib.suppress(Exception):  # the first error is the one to report
                mlflow.log_artifacts(str(self.folder))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        mlflow.set_tags({k: str(v)[:MAX_TAG_LENGTH] for k, v in tags.items()})

    def log_dataset(self, *, name: str, digest: str, source: str, context: str) -> None:
        """Reference a prepared dataset by digest; no data is copied."""
        where = LocalArtifactDatasetSource(source)
        dataset = MetaDataset(where, name=name, digest=digest)  # type: ignore[abstract]  # as MLflow's docs do
        mlflow.log_input(dataset, context=context)


@contextlib.contextmanager
def open_run(
    kind: str, *, name: str | None = None, experiment: str | None = None, resume: str | None = None
) -> Iterator[Run]:
    """Start a run, or adopt the one that ``mlflow run`` made; inside another run it becomes its child.

    Args:
        kind: The tag ``fmtl.kind``.
        name: Run name; MLflow draws one if None.
        experiment: Experiment name; ignored for an adopted or resumed run.
        resume: Id of a run to continue.

    Raises:
        EnvironmentFault: The store can't be reached or its artifacts can't be written from here.
    """
    active = _start(name, experiment, resume)
    # MLflow takes an exception outside of its own `with` for success and a signal for nothing at all, so the outcome is
    # said here, whatever ends the block: the status for MLflow's page, the tag for readers (`mlflow run` overwrites the
    # status with its exit code). It is FAILED until the last line of the block has been reached.
    status = "FAILED"
    run = None
    staging = contextlib.ExitStack()
    try:
        staging.enter_context(as_guest())
        local = _local_artifact_folder(active)
        log.debug("run %s, artifacts %s", active.info.run_id, local or "through a server")
        mlflow.set_tags({"fmtl.kind": kind})
        if "fmtl.error" in active.data.tags:  # of the attempt that this one continues
            mlflow.delete_tag("fmtl.error")
        folder = local or Path(staging.enter_context(tempfile.TemporaryDirectory(prefix="fmtl-")))
        background = staging.enter_context(ThreadPoolExecutor(max_workers=1))  # one: a series in its order
        run = Run(active, folder, background)
        yield run
        run.finish()
        if local is None:
            mlflow.log_artifacts(str(run.folder))
        mlflow.set_tags({"fmtl.outcome": "completed"})
        status = "FINISHED"
    except (KeyboardInterrupt, Terminated):
        status = "KILLED"
        with contextlib.suppress(MlflowException):
            mlflow.set_tags({"fmtl.outcome": "interrupted"})
        raise
    except Exception as error:
        message = f"{type(error).__name__}: {error}"[:MAX_TAG_LENGTH]
        with contextlib.suppress(MlflowException):  # the store may be the failure
            mlflow.set_tags({"fmtl.outcome": getattr(error, "outcome", "failed"), "fmtl.error": message})
        if isinstance(error, MlflowException):
            raise store.fault(error) from error
        raise
    finally:
        try:
            if status != "FINISHED" and run is not None:
                run.give_up(upload=local is None)
            staging.close()
        finally:  # a second interrupt too leaves no run that looks alive
            _end(status)


def _start(name: str | None, experiment: str | None, resume: str | None) -> mlflow.ActiveRun:
    # Three ways to a run. Inside another one (main, or a notebook's own) it is a child, so that they lie together.
    # Under `mlflow run` there is one already, named by MLFLOW_RUN_ID: a second would leave it empty. Else a new one.
    parent = mlflow.active_run()
    nested = parent is not None
    adopted = "MLFLOW_RUN_ID" in os.environ and not nested
    with store.reachable():
        if adopted and experiment:
            log.info("experiment=%s is ignored: 'mlflow run' has chosen one (--experiment-name)", experiment)
        chosen = parent.info.experiment_id if parent else None
        if not (nested or adopted or resume):
            chosen = store.choose_experiment(experiment)
        # One sampler a process: of a child it would measure the same machine twice.
        metrics_wanted = not nested and importlib.util.find_spec("psutil") is not None
        return mlflow.start_run(
            run_id=resume,
            experiment_id=chosen,
            run_name=name,
            nested=nested,
            log_system_metrics=metrics_wanted or None,
        )


@as_guest()
def _end(status: str) -> None:
    """End the active run. Of a failed run, the first error is the one to report."""
    try:
        mlflow.end_run(status)
    except MlflowException as error:
        if status == "FINISHED":
            raise store.fault(error) from error


def adopted_run(kind: str) -> contextlib.AbstractContextManager:
    """The run that ``mlflow run`` made, if it did; commands that need no run of their own use this."""
    return open_run(kind) if "MLFLOW_RUN_ID" in os.environ else contextlib.nullcontext()


def _local_artifact_folder(active: mlflow.ActiveRun) -> Path | None:
    """The artifact folder on this machine's disk; None where artifacts go through a server or to a bucket."""
    uri = urlparse(active.info.artifact_uri)
    if uri.scheme == "mlflow-artifacts" and not mlflow.get_tracking_uri().startswith("http"):
        raise EnvironmentFault(
            f"experiment '{store.experiment_name(active.info.experiment_id)}' was created by an MLflow server, so "
            "its artifacts can only be written through that server. Either export "
            "MLFLOW_TRACKING_URI=http://127.0.0.1:5000 while it runs, or choose another experiment "
            "(mlflow run --experiment-name NAME, or export MLFLOW_EXPERIMENT_NAME=NAME)"
        )
    if uri.scheme not in ("", "file"):
        return None
    folder = Path(url2pathname(unquote(uri.path)) if uri.scheme else active.info.artifact_uri)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFault(f"{folder}: the run's artifact folder can't be made ({error.strerror})") from error
    return folder


class Recorded(Protocol):
    """What a training writes to: a ``Run``, or ``Unrecorded``."""

    run_id: str | None
    folder: Path

    def log_params(self, params: Mapping[str, object]) -> None: ...

    def log_metrics(
        self, metrics: Mapping[str, float | None], step: int | None = None, model_id: str | None = None
    ) -> None: ...

    def log_image(self, image: Image.Image, *, key: str, step: int) -> None: ...

    def set_tags(self, tags: Mapping[str, str]) -> None: ...


class Unrecorded:
    """What ``Run`` offers, for those who want nothing recorded; files go to a folder that is removed at the end."""

    run_id: str | None = None

    def __init__(self, folder: Path):
        self.folder = folder

    def log_params(self, params: Mapping[str, object]) -> None:
        pass

    def log_metrics(
        self, metrics: Mapping[str, float | None], step: int | None = None, model_id: str | None = None
    ) -> None:
        pass

    def log_image(self, image: Image.Image, *, key: str, step: int) -> None:
        pass

    def set_tags(self, tags: Mapping[str, str]) -> None:
        pass


@contextlib.contextmanager
def unrecorded() -> Iterator[Unrecorded]:
    with tempfile.TemporaryDirectory(prefix="fmtl-") as folder:
        yield Unrecorded(Path(folder))
