"""One delivery of a run folder to a store: what it has is passed over, so that it can be repeated at will."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

import mlflow
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # made at run time
from mlflow.entities import DatasetInput, InputTag, LoggedModelOutput, LoggedModelStatus, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking.context.registry import resolve_tags

from fmtl.storage import durable
from fmtl.tracking import faults, model_files, store
from fmtl.tracking.delivery.starting import Started
from fmtl.tracking.delivery.state import Delivered
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.record.journal import Line
from fmtl.tracking.record.lease import TAG as LEASE_TAG

METRICS, PARAMS, TAGS = 1000, 100, 100  # in one request, at most: MLflow's own limits
MAX_TAG_LENGTH, MAX_PARAM_LENGTH = 5000, 6000  # the strictest of MLflow's stores
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

    @property
    def is_complete(self) -> bool:
        """Whether the store has everything, the end of the run included."""
        return self.state.ended and not self.state.refused

    def send(self, *, everything: bool = False) -> None:
        """Send what is new.

        Args:
            everything: Checkpoints too, however recently one was sent.

        Raises:
            Whatever the store raises. What it took before is noted.
            Refused: It took everything but some files.
        """
        journal = self.folder.journal()
        for lines, after in _batches(journal.lines(self.state.lines)):
            kind = lines[0]["op"]
            if kind == "end":
                if not any(line["op"] == "begin" for line, _ in journal.lines(after)):  # else it was resumed
                    self._send_files(everything=True)
                    self._end(lines[0])
            elif kind == "model":
                self._send_model(lines[0])
            elif kind == "dataset":
                self._log_dataset(lines[0])
            elif kind != "begin":
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
        parts = zip_longest(_chunks(metrics, METRICS), _chunks(given, PARAMS), _chunks(kept, TAGS), fillvalue=())
        for some_metrics, some_params, some_tags in parts:
            self.client.log_batch(self.started.run_id, some_metrics, some_params, some_tags)
        self._params |= set(params)
        for name in gone:
            self._delete_tag(name)

    def _delete_tag(self, name: str) -> None:
        try:
            self.client.delete_tag(self.started.run_id, name)
        except MlflowException as error:  # it is not there
            if error.error_code not in store.NOT_FOUND:
                raise

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
        sent: dict[str, dict[str, int]] = {}
        for path in self.folder.deliverable():
            name = path.relative_to(self.folder.files).as_posix()
            if not self._is_due(path, name, everything):
                continue
            size = self._send_file(repository, path, name)
            if size is not None:
                sent.setdefault(str(PurePosixPath(name).parent), {})[name] = size
        for folder, sizes in sent.items():
            self._check_sizes(repository, folder, sizes)
        if self.state.refused and everything:
            name, why = next(iter(self.state.refused.items()))
            raise Refused(f"{len(self.state.refused)} files were not taken, such as {name}: {why}")

    def _check_sizes(self, repository: Any, folder: str, sizes: Mapping[str, int]) -> None:
        """Raise Partial where a store has not all of what it took."""
        there = {file.path: file.file_size for file in repository.list_artifacts(None if folder == "." else folder)}
        wrong = [name for name, size in sizes.items() if there.get(name, -1) not in (size, None)]  # None: it can't say
        if wrong:
            for name in wrong:
                self.state.files.pop(name, None)
            self.state.save()
            raise Partial(f"{wrong[0]}: the store has {there.get(wrong[0], 'nothing')} of {sizes[wrong[0]]} bytes")

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

    def _send_file(self, repository: Any, path: Path, name: str) -> int | None:
        """Returns the size of what was sent; None if it was refused, or is not there any more."""
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
                problem = faults.problem_of(error)
                if problem.refused and problem.what == faults.TOO_LARGE:
                    self.state.refused[name] = problem.what
                    self.state.save()
                    return None
                raise
        self.state.refused.pop(name, None)
        self.state.files[name] = {
            "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": content, "at": time.time(),
        }  # fmt: skip
        self._note()
        return stat.st_size

    def _send_model(self, line: Line) -> None:
        """The model folder as a logged model: whole before it is called ready, then the run names it."""
        run_id, known = self.started.run_id, self.state.model
        if known.get("epoch") != line["epoch"] or known.get("lines") != self.state.lines:
            known.clear()
        if known.get("is_whole") or not self.folder.model.is_dir():
            return
        if "id" not in known:
            known |= {"id": self._new_model(line), "epoch": line["epoch"], "lines": self.state.lines}
            self._note()
        model = self.client.get_logged_model(known["id"])
        outputs = self.client.get_run(run_id).outputs
        if known["id"] not in {output.model_id for output in (outputs.model_outputs if outputs else ())}:
            self.client.log_outputs(run_id, [LoggedModelOutput(known["id"], step=line["epoch"])])
        with tempfile.TemporaryDirectory(prefix=durable.TEMPORARY_PREFIX, dir=self.folder.record) as temporary:
            folder = Path(temporary) / "model"
            _copy_with_ids(self.folder.model, folder, model.artifact_location, run_id, known["id"])
            known["manifest"] = model_files.write_manifest(folder)
            target = store.local_folder(model.artifact_location)
            if target is not None:
                _move(folder, target)
            else:
                self.client.log_model_artifacts(known["id"], str(folder))
        self.client.finalize_logged_model(known["id"], LoggedModelStatus.READY)
        points = [
            Metric(name, value, line["at"], 0, model_id=known["id"], run_id=run_id)
            for name, value in line["metrics"].items()
        ]
        for some in _chunks(points, METRICS):
            self.client.log_batch(run_id, metrics=some)
        tags = [RunTag(store.MODEL_TAG, known["id"]), RunTag(store.MANIFEST_TAG, known["manifest"])]
        self.client.log_batch(run_id, tags=tags)
        known["is_whole"] = True
        self._note()
        if self.folder.model.parent == self.folder.record:
            shutil.rmtree(self.folder.model)  # the store on this disk has it now

    def _new_model(self, line: Line) -> str:
        tags = resolve_tags({"fmtl.run": self.started.run_id, **line.get("tags", {})})
        params = {name: str(value)[:MAX_PARAM_LENGTH] for name, value in line["params"].items()}
        made = self.client.create_logged_model(
            self.started.experiment_id, name="model", source_run_id=self.started.run_id, tags=tags, params=params
        )
        return made.model_id

    def _end(self, line: Line) -> None:
        run_id = self.started.run_id
        self.client.set_tag(run_id, "fmtl.outcome", line["outcome"])
        self.client.set_terminated(run_id, line["status"], end_time=line["at"])
        self._delete_tag(LEASE_TAG)  # last: a run that has it is looked after by the next command


def _batches(lines: Iterable[tuple[Line, int]]) -> Iterator[tuple[list[Line], int]]:
    """Lines that go into the same requests, with the byte after them."""
    batch: list[Line] = []
    end, num_metrics = 0, 0
    for line, after in lines:
        together = line["op"] in ("params", "metrics", "tags")
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
    return [Metric(name, value, line["at"], line["step"]) for name, value in line["values"].items()]


def _chunks(items: list, size: int) -> Iterator[list]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _copy_with_ids(source: Path, target: Path, artifact_path: str, run_id: str, model_id: str) -> None:
    """The model folder once more, without its bytes: with links, and a description that says whose it is."""
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
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
