"""``train``: a prepared dataset to one MLflow run with metrics, plots, checkpoints and a model."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fmtl import machine
from fmtl.commands import publisher
from fmtl.commands.publisher import CheckpointFiles
from fmtl.dataset.freshness import check_sources
from fmtl.dataset.prepared import GROUP, PreparedDataset, open_dataset
from fmtl.dataset.splits import SPLITS
from fmtl.errors import DataError, FmtlError, UsageError
from fmtl.evaluation import label_issues
from fmtl.hardware import choose_device
from fmtl.loading.preprocess import Preprocess
from fmtl.metric_names import EPOCH, TRAIN_LOSS
from fmtl.model import backbones
from fmtl.model.backbones import InputSpec
from fmtl.reports import error_gallery, run_page, run_summary
from fmtl.reports.error_gallery import Gallery
from fmtl.settings.reading import build_from_file, to_yaml
from fmtl.settings.train import TrainSettings
from fmtl.settings.wording import command_line
from fmtl.storage import durable
from fmtl.tasks import AVERAGE, IGNORE_INDEX
from fmtl.tracking import doctor, earlier, pyfunc, store
from fmtl.tracking.record import journal
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.run import Run, open_run
from fmtl.tracking.store import RunRecord
from fmtl.training import checkpoints
from fmtl.training.progress import watch, watch_folds
from fmtl.training.run import Resumed, Training, TrainResult
from fmtl.training.setup import Setup, TrainPlan, set_up
from fmtl.training.stages import DatasetStages, counts_of

log = logging.getLogger(__name__)

# A run may go on under other values of these, since they do not change what is learnt.
FREE_ON_RESUME = {
    "allow_stale", "device", "experiment", "run_name", "resume", "extra_plots", "gallery", "offline", "run_folder",
}  # fmt: skip
NOT_LOGGED = ("resume", "run_name", "experiment", "offline", "run_folder")  # of where a run lies, not of what it is


@dataclass(frozen=True)
class Work:
    """All that a run needs, built and checked before anything is trained.

    Attributes:
        settings: With everything filled in that was found out.
    """

    settings: TrainSettings
    setup: Setup
    data: DatasetStages

    @property
    def dataset(self) -> PreparedDataset:
        return self.data.dataset


def train(settings: TrainSettings) -> str:
    """Run the whole command. Returns the run's id: of its folder where no store has it yet."""
    return train_whole(settings)[0]


def train_whole(settings: TrainSettings) -> tuple[str, RunFolder]:
    """``train``, which also returns the run's folder."""
    durable.sweep()
    if not settings.offline:
        doctor.mend_dead()
    with machine.memory_kept():
        if settings.resume:
            return _resume(settings.resume, settings)
        with open_run(
            "train",
            name=_run_name(settings),
            experiment=settings.experiment,
            folder=settings.run_folder,
            offline=settings.offline,
        ) as run:
            return _train(_prepare(settings), run), run.place


def train_variants(variants: Sequence[TrainSettings]) -> list[str]:
    """One run per variant. All are checked first, so that a late one can't spoil a long comparison.

    Raises:
        FmtlError: Of the first variant that failed; the others were trained nevertheless.
    """
    if len(variants) == 1:
        return [train(variants[0])]
    for settings in variants:
        _check(settings)
    run_ids, failures = [], []
    for number, settings in enumerate(variants, 1):
        name = _run_name(settings)
        log.info("variant %d of %d: %s", number, len(variants), name)
        try:
            run_ids.append(train(settings))
        except FmtlError as error:
            log.warning("variant %d, %s: %s", number, name, error)
            failures.append((name, error))
    if failures:
        log.warning("%d of %d variants failed: %s", len(failures), len(variants), ", ".join(n for n, _ in failures))
        raise failures[0][1]
    return run_ids


def _check(settings: TrainSettings) -> None:
    """Raise what ``train`` would raise before its first epoch; the network is built, and let go."""
    settings = settings.with_mode()
    choose_device(settings.device)
    dataset, _, plan = _plan(settings)
    backbones.from_plan(plan.network, dataset.tasks.num_classes)


def _run_name(settings: TrainSettings) -> str:
    return settings.run_name or f"{settings.backbone}-{settings.mode}"


def _plan(settings: TrainSettings) -> tuple[PreparedDataset, InputSpec, TrainPlan]:
    """What can be said without building anything; ``plan.network.px`` is the side of the input."""
    dataset = open_dataset(Path(settings.data))
    if not settings.allow_stale and not settings.resume:
        check_sources(dataset)
    _check_splits(dataset)
    spec = backbones.input_spec(settings.backbone)
    return dataset, spec, settings.resolve(dataset.tasks.names, px=_px(settings, dataset, spec.px))


def _prepare(settings: TrainSettings) -> Work:
    settings = settings.with_mode()
    device = choose_device(settings.device)
    dataset, spec, plan = _plan(settings)
    px = plan.network.px
    counts = counts_of(dataset) if settings.class_weights else {}
    setup = set_up(plan, dataset.tasks, device=device, num_images=len(dataset.rows("train")), counts=counts)
    found = {"px": px, "batch_size": setup.batch_size}
    found |= {name: getattr(setup.execution, name) for name in ("precision", "channels_last")}
    if {"auto", None} & {settings.precision, settings.channels_last, settings.batch_size}:
        layout = "channels last" if setup.execution.channels_last else "channels first"
        log.info("%s: %s, %s, batches of %d", device.type, setup.execution.precision, layout, setup.batch_size)
    image = dataset.manifest["image"]
    preprocess = Preprocess(
        dataset.px, image["fit"], image["background"], px, spec.mean, spec.std, image.get("profiles", False)
    )
    data = DatasetStages(setup=setup, dataset=dataset, preprocess=preprocess)
    return Work(settings.model_copy(update=found), setup, data)


def _check_splits(dataset: PreparedDataset) -> None:
    """Raise DataError where a split can't do its part."""
    where = str(dataset.folder)
    for split in SPLITS:
        if len(dataset.rows(split)) == 0:
            raise DataError(f"the {split} split is empty; prepare more images or another fraction", where=where)
        if split != "test" and (dataset.targets[dataset.rows(split)] == IGNORE_INDEX).all():
            raise DataError(f"no image of the {split} split has a label", where=where)
    if len(dataset.rows("train")) < 2:
        raise DataError("1 training image; BatchNorm needs 2 at least", where=where)


def _px(settings: TrainSettings, dataset: PreparedDataset, weights_px: int) -> int:
    """Side of the input. ``auto``: the median side of the photos, rounded up to a multiple of 32."""
    most = min(dataset.px, weights_px)
    if settings.px == "auto":
        return min(most, -(-dataset.source_px // 32) * 32)
    if settings.px is not None and settings.px > dataset.px:
        raise UsageError(
            f"px: {settings.px} is larger than the stored side {dataset.px}; prepare with px={settings.px} or lower it"
        )
    return settings.px or most


def _train(work: Work, run: Run, *, last: dict[str, Any] | None = None) -> str:
    """Train, and write all that belongs to the run.

    Args:
        last: The last checkpoint of an earlier attempt.
    """
    settings, dataset = work.settings, work.dataset
    values = settings.model_dump(mode="json")
    files = CheckpointFiles(
        run.folder / "checkpoints" / f"{settings.backbone}_{settings.mode}",
        {**values, "preprocess": work.data.preprocess.to_json()},
    )
    _log_settings(run, values, dataset, is_new=last is None)
    training = _training(work, files, last)
    if settings.save_checkpoints:
        run.check_size(checkpoints.size_of(work.setup.net))
    publishers = [files.of(training)] if settings.save_checkpoints else []
    publishers.append(publisher.metrics_to(run))
    if settings.extra_plots:
        publishers.append(publisher.frames_to(run, dataset.tasks))
    publishers.append(publisher.lines_to(log.info, settings.epochs))
    publisher.publish(training, publishers)
    result = training.finish(work.data.test(), watch)
    rows = dataset.table.iloc[dataset.rows("test")][["id", "path"]]
    run_page.write(run.folder, result, rows=rows, draw=settings.extra_plots)
    errors = _gallery(work, run, result) if settings.gallery else None
    _log_model(work, run, result)
    command = command_line("train", settings.model_dump(), _defaults(settings))
    note = run_summary.of_training(dataset, values, result, errors, command=command, run_id=run.id)
    run.set_tags({"mlflow.note.content": note})
    average = result.test.scores[AVERAGE]
    print(
        f"test: accuracy {average['accuracy']:.3f}, F1 {average['f1']:.3f}, "
        f"{run_summary.averaged(result)}, {len(rows)} images, weights of epoch {result.best_epoch}"
    )
    print(f"run: {run.name} {run.id}")
    return run.id


def _log_model(work: Work, run: Run, result: TrainResult) -> None:
    """Log the best epoch's network, and the scores of its test."""

    def save(folder: Path) -> None:
        pyfunc.save_model(
            folder,
            work.setup.net,
            backbone=work.settings.backbone,
            tasks=work.dataset.tasks,
            preprocess=work.data.preprocess,
        )

    run.log_model(save, epoch=result.best_epoch, metrics=result.final_metrics)


def _training(work: Work, files: CheckpointFiles, last: dict[str, Any] | None) -> Training:
    """From the beginning, or from where the last checkpoint left it."""
    resumed, done = None, 0
    if last:
        work.setup.net.load_state_dict(last["model"])
        done, state = last["epoch"], last["training"]
        best = checkpoints.load(files.path("best"))["model"]
        resumed = Resumed(history=state["history"], updater=state["updater"], best_weights=best)
    setup = work.setup
    stages = work.data.stages(done=done)
    return Training(setup.net, setup.tasks, stages, loss=setup.loss, device=setup.device, resumed=resumed)


def _log_settings(run: Run, values: dict[str, Any], dataset: PreparedDataset, *, is_new: bool) -> None:
    durable.write_text(run.folder / "config.yaml", to_yaml(values))
    run.log_params({k: v for k, v in values.items() if k not in NOT_LOGGED})
    run.set_tags({"fmtl.data": dataset.digest})
    if is_new:
        source = str(dataset.folder.resolve())
        run.log_dataset(name=dataset.manifest["source"]["table"], digest=dataset.digest, source=source, context="train")


def _defaults(settings: TrainSettings) -> dict[str, Any]:
    """What needs no option when the run is repeated. What was found by trial has one: elsewhere it might differ."""
    return TrainSettings(mode=settings.mode).with_mode().model_dump() | {"resume": settings.resume, "mode": "tuned"}


def _gallery(work: Work, run: Run, result: TrainResult) -> Gallery:
    settings, dataset = work.settings, work.dataset
    doubtful = label_issues.find(
        # Only weights that were not trained here may be another run's too.
        work.data.features(keep=settings.freeze and settings.cache_features),
        dataset.targets,
        dataset.tasks,
        groups=dataset.table[GROUP].to_numpy(),
        seed=settings.seed,
        watch=watch_folds,
    )
    return error_gallery.write(
        run.folder / "gallery",
        net=work.setup.net,
        dataset=dataset,
        preprocess=work.data.preprocess,
        test=result.test,
        suspect_labels=doubtful,
        title=run.name,
    )


def _resume(which: str, settings: TrainSettings) -> tuple[str, RunFolder]:
    """Continue a run after its last whole epoch, in that same run."""
    folder, record = _earlier(which)
    tags = record.tags if record else journal.tags_of(folder.journal().lines())
    run_id = record.run_id if record else None
    (original,) = build_from_file(TrainSettings, {}, folder.files / "config.yaml")
    stem = folder.files / "checkpoints" / f"{original.backbone}_{original.mode}"
    last = checkpoints.load(CheckpointFiles(stem, {}).path("last"))
    _refuse_changes(settings, original)
    free = {name: getattr(settings, name) for name in FREE_ON_RESUME if name in settings.model_fields_set}
    original = original.model_copy(update=free)
    if tags.get("fmtl.outcome") == "completed":
        print(f"run {run_id or folder.root.name}: it completed after {last['epoch']} epochs, nothing to do")
        return run_id or folder.root.name, folder
    with open_run("train", offline=original.offline, resume=folder, run_id=run_id) as run:
        work = _prepare(original.model_copy(update={"weights": "none"}))
        if work.dataset.digest != tags.get("fmtl.data"):
            raise DataError(f"run {run.id} was trained on another dataset than {work.dataset.folder}", where="resume")
        run.set_tags({"fmtl.resumed_from": f"epoch {last['epoch']}"})
        logged = _logged_epochs(folder, record)
        publisher.log_epochs(run, [row for row in last["training"]["history"] if row[EPOCH] not in logged])
        settings_now = work.settings.model_copy(update={"weights": original.weights})
        return _train(replace(work, settings=settings_now), run, last=last), folder


def _earlier(which: str) -> tuple[RunFolder, RunRecord | None]:
    """The folder of the run to be resumed, and what the store says of it where the folder does not."""
    folder = earlier.find_here(which)
    if folder and journal.tags_of(folder.journal().lines()).get("fmtl.data"):
        return folder, None
    record = store.get_run(which)
    return earlier.bring(record), record


def _logged_epochs(folder: RunFolder, record: RunRecord | None) -> set[int]:
    """Those whose metrics are recorded already."""
    lines = [line for line, _ in folder.journal().lines() if line["op"] == "metrics" and TRAIN_LOSS in line["values"]]
    return {line["step"] for line in lines} | (store.steps_of(record.run_id, TRAIN_LOSS) if record else set())


def _refuse_changes(asked: TrainSettings, original: TrainSettings) -> None:
    changed = [
        f"{name}: the run has {getattr(original, name)!r}, got {getattr(asked, name)!r}"
        for name in sorted(asked.model_fields_set - FREE_ON_RESUME)
        if getattr(asked, name) not in ("auto", getattr(original, name))
    ]
    if changed:
        raise UsageError("resume: these settings can't change within a run:\n  - " + "\n  - ".join(changed))
