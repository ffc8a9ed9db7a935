"""``train``: a prepared dataset to one MLflow run with metrics, plots, checkpoints and a model."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fmtl import machine
from fmtl.commands import publisher
from fmtl.commands.publisher import CheckpointFiles
from fmtl.commands.training import resuming
from fmtl.commands.training.work import Work, check, prepare
from fmtl.dataset.prepared import GROUP, PreparedDataset
from fmtl.errors import DataError, FmtlError
from fmtl.evaluation import label_issues
from fmtl.metric_names import EPOCH
from fmtl.reports import error_gallery, run_page, run_summary
from fmtl.reports.error_gallery import Gallery
from fmtl.settings.reading import build_from_file, to_yaml
from fmtl.settings.train import TrainSettings
from fmtl.settings.wording import command_line
from fmtl.storage import durable
from fmtl.tasks import AVERAGE
from fmtl.tracking import doctor, pyfunc
from fmtl.tracking.record import journal
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.recording import Run
from fmtl.tracking.run import open_run
from fmtl.training import checkpoints
from fmtl.training.progress import watch, watch_folds
from fmtl.training.run import Resumed, Training, TrainResult

log = logging.getLogger(__name__)

NOT_LOGGED = ("resume", "run_name", "experiment", "offline", "run_folder")  # of where a run lies, not of what it is


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
            return _train(prepare(settings), run), run.place


def train_variants(variants: Sequence[TrainSettings]) -> list[str]:
    """One run per variant. All are checked first, so that a late one can't spoil a long comparison.

    Raises:
        FmtlError: Of the first variant that failed; the others were trained nevertheless.
    """
    if len(variants) == 1:
        return [train(variants[0])]
    for settings in variants:
        check(settings)
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


def _run_name(settings: TrainSettings) -> str:
    return settings.run_name or f"{settings.backbone}-{settings.mode}"


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
    folder, record = resuming.find(which)
    tags = record.tags if record else journal.tags_of(folder.journal().lines())
    run_id = record.run_id if record else None
    (original,) = build_from_file(TrainSettings, {}, folder.files / "config.yaml")
    stem = folder.files / "checkpoints" / f"{original.backbone}_{original.mode}"
    last = checkpoints.load(CheckpointFiles(stem, {}).path("last"))
    resuming.refuse_changes(settings, original)
    free = {name: getattr(settings, name) for name in resuming.FREE if name in settings.model_fields_set}
    original = original.model_copy(update=free)
    if tags.get("fmtl.outcome") == "completed":
        print(f"run {run_id or folder.root.name}: it completed after {last['epoch']} epochs, nothing to do")
        return run_id or folder.root.name, folder
    with open_run("train", offline=original.offline, resume=folder, run_id=run_id) as run:
        work = prepare(original.model_copy(update={"weights": "none"}))
        if work.dataset.digest != tags.get("fmtl.data"):
            raise DataError(f"run {run.id} was trained on another dataset than {work.dataset.folder}", where="resume")
        run.set_tags({"fmtl.resumed_from": f"epoch {last['epoch']}"})
        logged = resuming.logged_epochs(folder, record)
        run.note_steps(logged)
        publisher.log_epochs(run, [row for row in last["training"]["history"] if row[EPOCH] not in logged])
        settings_now = work.settings.model_copy(update={"weights": original.weights})
        return _train(replace(work, settings=settings_now), run, last=last), folder
