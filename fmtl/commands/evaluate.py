"""``evaluate``: a model's test on a dataset that it was not trained on, as a training tests its own."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from fmtl.catalogue.values import words
from fmtl.commands.choosing import models
from fmtl.commands.choosing.photos import SPLITS_OF_PHOTOS, learnt_by, photos_of, sees
from fmtl.dataset.prepared import GROUP, PreparedDataset, open_dataset
from fmtl.errors import DataError
from fmtl.metric_names import calibration_error
from fmtl.model.labeller import OK
from fmtl.model.predictor import Predictor
from fmtl.reports import run_page, run_summary
from fmtl.settings.schema import EvaluateSettings
from fmtl.tasks import AVERAGE, IGNORE_INDEX, Label, Task, Tasks
from fmtl.tracking import logged_models
from fmtl.tracking.run import open_run
from fmtl.training import evaluating
from fmtl.training.history import split_metrics
from fmtl.training.run import TrainResult

ALL = "all"
LOGGED = "models:/m-"  # begins the address of a logged model
SHOWN = 5  # labels that a model does not know


@dataclass
class _Photos:
    """Rows of a dataset that a model is tested on.

    Attributes:
        notes: What is left out, and what can't be known, in words.
    """

    rows: np.ndarray
    notes: list[str] = field(default_factory=list)


def evaluate(settings: EvaluateSettings) -> TrainResult:
    """Run the whole command; prints the scores and records one MLflow run.

    Raises:
        DataError: The model or the dataset is not there, or they have no attribute or photo in common.
    """
    dataset = open_dataset(settings.data)
    precision = None if settings.precision == "model" else settings.precision
    model, _ = models.load(settings.model, device=settings.device, precision=precision)
    tasks = _common(model.tasks, dataset)
    uri = models.uri_of(settings.model)
    address = logged_models.lasting_address(uri) if uri.startswith("models:/") else uri
    with open_run("evaluate", name=f"evaluate-{dataset.folder.name}", experiment=settings.experiment) as run:
        run.log_params(settings.model_dump(mode="json", exclude={"experiment"}))
        run.set_tags({"fmtl.data": dataset.digest, "fmtl.model": address})
        source = dataset.manifest["source"]["table"]
        run.log_dataset(name=source, digest=dataset.digest, source=str(dataset.folder.resolve()), context="test")
        photos = _unseen(dataset, settings, address)
        result = _result(model, tasks, dataset, photos, settings.batch_size)
        of = {"dataset_name": source, "dataset_digest": dataset.digest}
        if address.startswith(LOGGED):
            of["model_id"] = address.removeprefix("models:/")
        errors = {calibration_error("test", task): after for task, (_, after) in result.calibration_errors.items()}
        run.log_metrics(split_metrics("test", result.test, tasks) | errors, of=of)
        run.log_metrics({"images/test": len(photos.rows)})
        rows = dataset.table.iloc[photos.rows][["id", "path", GROUP]]
        run_page.write_test(run.folder, result, rows=rows, draw=settings.extra_plots)
        note = run_summary.of_evaluation(
            result, model=settings.model, data=settings.data, num_photos=len(photos.rows), left_out=photos.notes
        )
        run.set_tags({"mlflow.note.content": note})
    average = result.test.scores[AVERAGE]
    print(
        f"accuracy {average['accuracy']:.3f}, F1 {average['f1']:.3f}, {run_summary.averaged(result)}, "
        f"{len(photos.rows)} images"
    )
    print("\n".join([*(f"left out: {told}" for told in photos.notes), f"run: {run.name} {run.id}"]))
    return result


def _result(
    model: Predictor, tasks: Tasks, dataset: PreparedDataset, photos: "_Photos", batch_size: int
) -> TrainResult:
    """The test, as that of a training without any epoch."""
    probs = _probs(model, dataset, photos, batch_size)
    targets = {task.name: _targets(task, dataset, photos) for task in tasks}
    thresholds = {name: values for name, values in model.thresholds.items() if name in targets}
    found = evaluating.of_probs({name: probs[name] for name in targets}, targets, thresholds)
    return TrainResult([], {}, found.averaged_over(tasks), tasks, "")


def _common(tasks: Tasks, dataset: PreparedDataset) -> Tasks:
    """Tasks of a model that a dataset has labels for."""
    found = [task for task in tasks if _own(task, dataset) is not None]
    kept = Tasks(t for t in found if not t.applies_to or t.applies_to in [o.name for o in found])
    if not kept.attributes:
        raise DataError(
            f"it has none of the attributes that the model tells ({', '.join(tasks.attributes)}); it has "
            f"{', '.join(dataset.tasks.attributes)}", where=str(dataset.folder),
        )  # fmt: skip
    return kept


def _own(task: Task, dataset: PreparedDataset) -> Task | None:
    """A dataset's task of the same name, or but for its case."""
    alike = [own for own in dataset.tasks if own.name.casefold() == task.name.casefold() and own.is_set == task.is_set]
    return next((own for own in alike if own.name == task.name), alike[0] if alike else None)


def _unseen(dataset: PreparedDataset, settings: EvaluateSettings, address: str) -> _Photos:
    """Photos of the split without those that the model learnt from."""
    rows = np.arange(len(dataset.table)) if settings.split == ALL else dataset.rows(settings.split)
    learnt = learnt_by(address) if address.startswith(LOGGED) else None
    if learnt is None:
        told = f"nothing: it is not known on which photos the model was trained (its run has no {SPLITS_OF_PHOTOS}); "
        return _Photos(rows, [told + "if some of these are among them, the scores flatter it"])
    unseen = np.array([sha256 not in learnt for sha256 in dataset.photo_hashes[rows]], bool)
    if not unseen.any():
        raise DataError(
            f"the model was trained on or chosen by every photo of split={settings.split}", where=str(dataset.folder)
        )
    left_out = int((~unseen).sum())
    notes = [f"{left_out} photos that the model was trained on or chosen by"] if left_out else []
    return _Photos(rows[unseen], notes)


def _probs(model: Predictor, dataset: PreparedDataset, photos: _Photos, batch_size: int) -> dict[str, np.ndarray]:
    """``(N, K)`` by task name; photos that can't be read any more are taken out."""
    is_stored = sees(model.preprocess, dataset)
    batches = _stored(dataset, photos.rows, batch_size) if is_stored else None
    if batches is None:
        _, sources = photos_of(dataset, photos.rows)
        batches = model.decoded_batches(sources, batch_size)
    parts, good = [], []
    with tqdm(total=len(photos.rows), desc="evaluate", unit=" images", disable=None) as bar:
        for status, pixels in batches:
            good += [told == OK for told in status]
            if len(pixels):
                parts.append(model.probs(pixels))
            bar.update(len(status))
    if not parts:
        raise DataError("none of its photos can be read where they were", where=str(dataset.folder))
    if unread := len(good) - sum(good):
        photos.rows = photos.rows[np.array(good, bool)]
        photos.notes.append(f"{unread} photos that can't be read where they were")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _stored(dataset: PreparedDataset, rows: np.ndarray, batch_size: int) -> Iterator[tuple[list[str], np.ndarray]]:
    for start in range(0, len(rows), batch_size):
        some = rows[start : start + batch_size]
        yield [OK] * len(some), dataset.pixels(some)


def _targets(task: Task, dataset: PreparedDataset, photos: _Photos) -> np.ndarray:
    """Labels of a dataset as a model's classes; of those that are none what is known stays unknown, and is said."""
    own = _own(task, dataset)
    assert own is not None
    values = dataset.tasks.by_name(dataset.targets[photos.rows])[own.name].reshape(-1, len(own.columns))
    class_of, unknown = words.class_of(task), Counter[str]()

    def known(word: str) -> str:
        found = class_of(word)
        if found is None:
            unknown[word] += 1
        return found or ""

    labels: list[Label | None] = []
    for row in values.tolist():
        label = own.label(row)
        labels.append(tuple(map(known, label)) if isinstance(label, tuple) else None if label is None else known(label))
    found = np.array(task.targets(labels), np.int64).reshape(len(labels), len(task.columns))
    if unknown:
        shown = ", ".join(f"{word} ({count})" for word, count in unknown.most_common(SHOWN))
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        photos.notes.append(f"{unknown.total()} labels of {task.name} that the model has no class for: {shown}{more}")
    if not (found != IGNORE_INDEX).any():
        photos.notes.append(f"{task.name}: no photo has a label of it")
    return found if task.is_set else found[:, 0]
