"""One delivery of a run folder to a store: what it has is passed over, so that it can be repeated at will."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby, zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

import mlflow
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # made at run time
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from fmtl.storage import durable
from fmtl.tracking import faults, store
from fmtl.tracking.delivery.limits import MAX_PARAM_LENGTH, MAX_TAG_LENGTH, METRICS, PARAMS, TAGS, chunks
from fmtl.tracking.delivery.sending_model import send_model
from fmtl.tracking.delivery.starting import Started
from fmtl.tracking.delivery.state import Delivered
from fmtl.tracking.record.folder import MODEL, RunFolder
from fmtl.tracking.record.journal import Line
from fmtl.tracking.record.lease import TAG as LEASE_TAG

TOGETHER = ("params", "metrics", "tags")  # lines that may share a request
CHECKPOINT_SECONDS = 300  # between two deliveries of a checkpoint while the training goes on


class Partial(Exception):
    """The store has another size of a file than was sent."""


class Refused(Exception):
    """The store does not take some files; everything else was delivered."""


class Delivery:
    """From a run folder to a run of a store.

    Args:
        started: The run there.
        uri: Address of the store.
        progressed: Called after each thing that the store took.
    """

    def __init__(
        self, folder: RunFolder, started: Started, uri: str, *, progressed: Callable[[], object] = lambda: None
    ):
        self.folder, self.started = folder, started
        self.client = mlflow.MlflowClient(uri)
        self.uri = uri
        self.state = Delivered.to(uri, folder.record)
        self._progressed = progressed
        if self.state.run_id != started.run_id:  # another run of that store than last time: it has nothing yet
            self.state = Delivered(self.state.path, self.state.store)
        self.state.run_id, self.state.experiment_id = started.run_id, started.experiment_id
        self.state.artifact_uri = started.artifact_uri
        self._params = set(started.params)
        self.state.save()

    def send(self, *, everything: bool = False) -> None:
        """Send what is new.

        Args:
            everything: Checkpoints too, however recently one was sent.

        Raises:
            Whatever the store raises. What it took before is noted.
            Refused: It took everything but some files.
        """
        journal = self.folder.journal()
        if everything and "refused" in self.state.model:
            self._send_model(self.state.model["refused"], self.state.model["lines"])
        for lines, after in _batches(journal.lines(self.state.lines)):
            kind = lines[0]["op"]
            if kind == "end":
                if not any(line["op"] == "begin" for line, _ in journal.lines(after)):  # else it was resumed
                    with contextlib.suppress(Refused):  # it ended all the same; what was refused is told below
                        self._send_files(everything=True)
                    self._end(lines[0])
            elif kind == "model":
                self._send_model(lines[0], self.state.lines)
            elif kind == "dataset":
                self._log_dataset(lines[0])
            elif kind in TOGETHER:
                self._log(lines)
            if kind in ("begin", "end"):
                self.state.ended = kind == "end"
            self._note(lines=after)
        self._send_files(everything=everything)

    def beat(self, lease: str) -> None:
        """Say that the run's process lives."""
        self.client.set_tag(self.started.run_id, LEASE_TAG, lease)

    def _note(self, *, lines: int | None = None) -> None:
        if lines is not None:
            self.state.lines = lines
        self.state.save()
        self._progressed()

    def _send_model(self, line: Line, at: int) -> None:
        """A store that does not take the model gets the rest all the same."""
        self.state.refused.pop(MODEL, None)
        try:
            send_model(line, self.client, self.folder, self.started, self.state, self._note, at=at)
        except Exception as error:
            if not _is_too_large(error):
                raise
            self.state.model["refused"] = line
            self.state.refused[MODEL] = faults.TOO_LARGE
        else:
            self.state.model.pop("refused", None)
        self.state.save()

    def _log(self, lines: list[Line]) -> None:
        """Params, metrics and tags, in as few requests as MLflow's limits allow."""
        metrics = [metric for line in lines if line["op"] == "metrics" for metric in _metrics(line)]
        params: dict[str, str] = {}
        tags: dict[str, str | None] = {}
        for line in lines:
            if line["op"] == "params":
                params |= {k: str(v)[:MAX_PARAM_LENGTH] for k, v in line["values"].items() if k not in self._params}
            elif line["op"] == "tags":
                tags |= line["values"]
        gone = [name for name, value in tags.items() if value is None]
        kept = [RunTag(name, str(value)[:MAX_TAG_LENGTH]) for name, value in tags.items() if value is not None]
        given = [Param(name, value) for name, value in params.items()]
        parts = zip_longest(chunks(metrics, METRICS), chunks(given, PARAMS), chunks(kept, TAGS), fillvalue=())
        for some_metrics, some_params, some_tags in parts:
            self.client.log_batch(self.started.run_id, some_metrics, some_params, some_tags)
        self._params |= set(params)
        for name in gone:
            store.delete_tag(self.client, self.started.run_id, name)

    def _log_dataset(self, line: Line) -> None:
        where = LocalArtifactDatasetSource(line["source"])
        dataset = MetaDataset(where, name=line["name"], digest=line["digest"])  # type: ignore[abstract]  # as MLflow's docs do
        context = InputTag("mlflow.data.context", line["context"])
        self.client.log_inputs(self.started.run_id, [DatasetInput(dataset._to_mlflow_entity(), [context])])

    def _send_files(self, *, everything: bool) -> None:
        """The run's files that the store has not, or has older; each is looked at there by its size."""
        if self.started.folder is not None and self.started.folder.resolve() == self.folder.files:
            return
        repository = get_artifact_repository(self.started.artifact_uri, tracking_uri=self.uri)
        for folder, paths in groupby(self.folder.deliverable(), key=lambda path: path.parent):
            sent = {}
            for path in paths:
                name = path.relative_to(self.folder.files).as_posix()
                if self._is_due(path, name, everything) and (what := self._send_file(repository, path, name)):
                    sent[name] = what
            if sent:
                self._check_sizes(repository, folder.relative_to(self.folder.files).as_posix(), sent)
                self.state.files |= sent
                self._note()
        if self.state.refused and everything:
            name, why = next(iter(self.state.refused.items()))
            raise Refused(f"{len(self.state.refused)} files were not taken, such as {name}: {why}")

    def _check_sizes(self, repository: Any, folder: str, sent: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise Partial where a store has not all of what it took."""
        there = {file.path: file.file_size for file in repository.list_artifacts(None if folder == "." else folder)}
        for name, what in sent.items():
            if there.get(name, -1) not in (what["size"], None):  # None: it can't say
                raise Partial(f"{name}: the store has {there.get(name, 'nothing')} of {what['size']} bytes")

    def _is_due(self, path: Path, name: str, everything: bool) -> bool:
        if name in self.state.refused and not everything:
            return False
        has = self.state.files.get(name)
        if has is None:
            return True
        stat = path.stat()
        if (stat.st_size, stat.st_mtime_ns) == (has["size"], has["mtime_ns"]):
            return False
        return everything or path.parent.name != "checkpoints" or time.time() - has["at"] > CHECKPOINT_SECONDS

    def _send_file(self, repository: Any, path: Path, name: str) -> dict[str, Any] | None:
        """Returns what was sent, as the state notes it; None if it was refused, or is not there any more."""
        parent = str(PurePosixPath(name).parent)
        with tempfile.TemporaryDirectory(prefix=durable.TEMPORARY_PREFIX, dir=self.folder.record) as held:
            copy = Path(held) / path.name  # what is sent stays as it is, even if a newer one takes its name meanwhile
            try:
                durable.link(path, copy)
            except FileNotFoundError:
                return None
            stat, content = copy.stat(), durable.sha256(copy)
            try:
                repository.log_artifact(str(copy), None if parent == "." else parent)
            except Exception as error:
                if _is_too_large(error):
                    self.state.refused[name] = faults.TOO_LARGE
                    self.state.save()
                    return None
                raise
        self.state.refused.pop(name, None)
        self._progressed()
        return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": content, "at": time.time()}

    def _end(self, line: Line) -> None:
        run_id = self.started.run_id
        store.delete_tag(self.client, run_id, "fmtl.error")  # of an earlier attempt, or of who took this one for dead
        tags = [RunTag("fmtl.outcome", line["outcome"])]
        if line.get("error"):
            tags.append(RunTag("fmtl.error", line["error"]))
        self.client.log_batch(run_id, tags=tags)
        self.client.set_terminated(run_id, line["status"], end_time=line["at"])
        store.delete_tag(self.client, run_id, LEASE_TAG)  # last: a run that has it is looked after by the next command


def _batches(lines: Iterable[tuple[Line, int]]) -> Iterator[tuple[list[Line], int]]:
    """Lines that go into the same requests, with the byte after them."""
    batch: list[Line] = []
    end, num_metrics = 0, 0
    for line, after in lines:
        together = line["op"] in TOGETHER
        if batch and (not together or num_metrics >= METRICS):
            yield batch, end
            batch, num_metrics = [], 0
        if not together:
            yield [line], after
            continue
        batch.append(line)
        end = after
        num_metrics += len(line["values"]) if line["op"] == "metrics" else 0
    if batch:
        yield batch, end


def _metrics(line: Mapping[str, Any]) -> list[Metric]:
    of = line.get("of", {})
    return [Metric(name, value, line["at"], line["step"], **of) for name, value in line["values"].items()]


def _is_too_large(error: Exception) -> bool:
    problem = faults.problem_of(error)
    return problem.refused and problem.what == faults.TOO_LARGE
