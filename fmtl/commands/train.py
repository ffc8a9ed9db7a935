"""``train``: a prepared dataset to one MLflow run with metrics, plots, checkpoints and a model."""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fmtl import hardware, interruption, machine
from fmtl.commands import publisher
from fmtl.commands.choosing import inherited
from fmtl.commands.choosing.photos import write_splits
from fmtl.commands.publisher import CheckpointFiles, Keeper
from fmtl.commands.training import beginning, budget, calling, followers, resuming
from fmtl.commands.training.budget import Limit
from fmtl.commands.training.work import Work, check, prepare
from fmtl.dataset.prepared import GROUP, PreparedDataset
from fmtl.errors import DataError, EnvironmentFault, FmtlError, Terminated
from fmtl.evaluation import label_issues
from fmtl.metric_names import COSTS, EPOCH, SPEED
from fmtl.model.confidence import NEVER, Confidence, acceptance
from fmtl.reports import error_gallery, run_page, run_summary
from fmtl.reports.error_gallery import Gallery
from fmtl.settings.reading import to_yaml
from fmtl.settings.train import TrainSettings
from fmtl.settings.wording import command_line
from fmtl.storage import durable
from fmtl.tasks import AVERAGE
from fmtl.together import collectives, ranks
from fmtl.tracking import doctor, earlier, pyfunc
from fmtl.tracking.record.folder import RunFolder
from fmtl.tracking.recording import Run
from fmtl.tracking.run import open_run
from fmtl.training import checkpoints
from fmtl.training.checkpoints import Checkpoint
from fmtl.training.progress import watch, watch_folds
from fmtl.training.run import EpochRecord, TrainResult

log = logging.getLogger(__name__)

NOT_LOGGED = (
    *resuming.BEGINNING,
    "run_name",
    "experiment",
    "offline",
    "run_folder",
    "checkpoint_minutes",
    "budget",
)  # of where a run lies, not of what it is


@dataclass(frozen=True, kw_only=True)
class Occasion:
    """How a training comes about.

    Attributes:
        number: Of the variant, from 1.
        is_abandoned: Whoever worked at the run that is to go on is known to be gone.
        begun: Called with the run's id.
        at_epoch: Called with each epoch, when it is kept; what it raises ends the training.
    """

    number: int = 1
    is_abandoned: bool = False
    begun: Callable[[str], object] = lambda run_id: None
    at_epoch: Callable[[EpochRecord], None] | None = None


ORDINARY = Occasion()


def train(settings: TrainSettings, *, since: float | None = None) -> str:
    """Run the whole command. Returns the run's id: of its folder where no store has it yet.

    Args:
        since: When it began, by the monotonic clock; now if not given.
    """
    return train_whole(settings, since=since)[0]


def train_whole(
    settings: TrainSettings, *, since: float | None = None, occasion: Occasion = ORDINARY
) -> tuple[str, RunFolder]:
    """``train``, which also returns the run's folder."""
    since = time.monotonic() if since is None else since
    durable.sweep()
    if not settings.offline:
        doctor.mend_dead()
    with machine.memory_kept():
        if settings.resume:
            return _resume(settings.resume, settings, occasion)
        settings, limit = budget.settled(inherited.settled(settings), since=since)
        with _opened(settings, occasion) as run, _told(run):
            return _train(prepare(settings), run, limit=limit, occasion=occasion), run.place


@contextlib.contextmanager
def _opened(settings: TrainSettings, occasion: Occasion, *, source: str = "") -> Iterator[Run]:
    """A new run.

    Args:
        source: The run that it goes on from.
    """
    # There before anything else of the run, so that one that is killed meanwhile can begin anew.
    kept = {earlier.SETTINGS: to_yaml(_values(settings))} | followers.launch(occasion.number)
    if source:
        kept[resuming.SOURCE] = json.dumps({"run": source})
    with open_run(
        "train",
        name=_run_name(settings),
        experiment=settings.experiment,
        folder=settings.run_folder,
        offline=settings.offline,
        kept=kept,
    ) as run:
        occasion.begun(run.id)
        yield run


def _values(settings: TrainSettings) -> dict[str, Any]:
    """As a file keeps them: a run that is made of that file is one of its own."""
    return settings.model_dump(mode="json", exclude=resuming.BEGINNING)


def train_variants(variants: Sequence[TrainSettings], *, since: float | None = None) -> list[str]:
    """One run per variant. All are checked first, so that a late one can't spoil a long comparison.

    Args:
        since: When the command began, by the monotonic clock; now if not given.

    Raises:
        FmtlError: Of the first variant that failed; the others were trained nevertheless.
    """
    with followers.together(variants) as leads:
        return _all_of(variants, since) if leads else []


def _all_of(variants: Sequence[TrainSettings], since: float | None) -> list[str]:
    if len(variants) == 1:
        return _unless_done(variants[0], since=since)
    variants = [inherited.settled(settings) for settings in variants]
    for settings in variants:
        check(budget.fastest(settings))
    run_ids, failures = [], []
    for number, settings in enumerate(variants, 1):
        name = _run_name(settings)
        log.info("variant %d of %d: %s", number, len(variants), name)
        try:
            run_ids += _unless_done(settings, number=number)
        except FmtlError as error:
            if ranks.here().size > 1:  # the others have left
                raise
            log.warning("variant %d, %s: %s", number, name, error)
            failures.append((name, error))
    if failures:
        log.warning("%d of %d variants failed: %s", len(failures), len(variants), ", ".join(n for n, _ in failures))
        raise failures[0][1]
    return run_ids


def _unless_done(settings: TrainSettings, *, number: int = 1, since: float | None = None) -> list[str]:
    """Train, or go on where torchrun has started the processes again. Returns the run's id, if one is to be trained."""
    to_do = followers.again(settings, number)
    if to_do is None:
        return []
    occasion = Occasion(number=number, is_abandoned=to_do is not settings)
    with calling.of_variant(number):
        return [train_whole(to_do, since=since, occasion=occasion)[0]]


def _run_name(settings: TrainSettings) -> str:
    return settings.run_name or f"{settings.backbone}-{settings.mode}"


def _train(
    work: Work,
    run: Run,
    *,
    last: Checkpoint | None = None,
    best: Checkpoint | None = None,
    recorded: Collection[int] = (),
    limit: Limit | None = None,
    occasion: Occasion = ORDINARY,
) -> str:
    """Train, and write all that belongs to the run.

    Args:
        limit: When it is to be over.
        last, best: Checkpoints of an earlier attempt, or of the run that this one goes on from.
        recorded: Epochs whose metrics are recorded already.
    """
    settings, dataset = work.settings, work.dataset
    values = _values(settings)
    files = _files(work, run)
    _log_settings(run, values, dataset, is_new=last is None, limit=limit, number=occasion.number)
    training = beginning.begun(work, last, best)
    keeper = None
    if settings.save_checkpoints:
        run.check_size(checkpoints.size_of(work.setup.net))
        more = {"machine": hardware.decisive(work.setup.device), "before": resuming.before(last)}
        keeper = Keeper(files, training, more=more, minutes=settings.checkpoint_minutes)
    publishers = [publisher.metrics_to(run, but=recorded)]
    if settings.extra_plots:
        publishers.append(publisher.frames_to(run, dataset.tasks))
    publishers.append(publisher.lines_to(log.info, settings.epochs, training.history.chosen_by))
    if occasion.at_epoch:
        publishers.append(occasion.at_epoch)
    publisher.publish(
        training, publishers, keeper=keeper, on_skip=publisher.skipped_to(run.folder / "skipped"),
        ends_after=limit.ends_after if limit else None,
    )  # fmt: skip
    files.settle()
    groups = dataset.table[GROUP].to_numpy()[dataset.rows("val")]
    result = training.finish(work.data.test(), watch, val=work.data.val(), groups=groups)
    collectives.dismiss()
    interruption.check()
    rows = dataset.table.iloc[dataset.rows("test")][["id", "path", GROUP]]
    write_splits(run.folder, dataset)
    run_page.write(run.folder, result, rows=rows, draw=settings.extra_plots)
    interruption.check()
    errors = _gallery(work, run, result) if settings.gallery else None
    interruption.check()
    _log_costs(run, work, result)
    confidence = _confidence(result, settings.precision_at)
    _log_model(work, run, result, confidence)
    interruption.check()  # also one whose error a callback has swallowed
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


@contextlib.contextmanager
def _told(run: Run) -> Iterator[None]:
    """Where the run is, and, if it ends before its time, how it goes on."""
    log.info("run %s %s, in %s", run.name, run.id, run.place.root)
    try:
        with collectives.named_failures():
            yield
    except (KeyboardInterrupt, Terminated, EnvironmentFault, MemoryError, OSError):
        print(f"to go on: fmtl train --resume {run.id}", flush=True)
        raise


def _files(work: Work, run: Run) -> CheckpointFiles:
    settings = work.settings
    stem = run.folder / "checkpoints" / f"{settings.backbone}_{settings.mode}"
    return CheckpointFiles(
        stem, {**_values(settings), "preprocess": work.data.preprocess.to_json()}
    )  # fmt: skip


def _confidence(result: TrainResult, precision_at: float | None) -> Confidence:
    """What the model is to know of its confidences: chosen on validation."""
    if precision_at is None or result.val is None:
        return Confidence(result.temperatures)
    val = result.val
    judged = acceptance.judged(result.tasks, val.probs, val.thresholds, val.targets)
    accepted_from = {name: acceptance.accepted_from(*pair, precision_at) for name, pair in judged.items()}
    never = [name for name, value in accepted_from.items() if value == NEVER]
    if never:
        log.warning(
            "precision_at: at no confidence a share of %g is right on validation: %s; none of it will be accepted",
            precision_at, ", ".join(never),
        )  # fmt: skip
    return Confidence(result.temperatures, accepted_from, precision_at)


def _log_model(work: Work, run: Run, result: TrainResult, confidence: Confidence) -> None:
    """Log the best epoch's network, and the scores of its test."""

    def save(folder: Path) -> None:
        pyfunc.save_model(
            folder,
            work.setup.net,
            backbone=work.settings.backbone,
            tasks=work.dataset.tasks,
            preprocess=work.data.preprocess,
            confidence=confidence,
        )

    run.log_model(save, epoch=result.best_epoch, metrics=result.final_metrics)


def _log_costs(run: Run, work: Work, result: TrainResult) -> None:
    net, speeds = work.setup.net, [row["images_per_second"] for row in result.history]
    run.log_metrics({SPEED: sum(speeds) / len(speeds) / hardware.num_devices(work.setup.device)})
    weights = [tensor.numel() * tensor.element_size() for tensor in net.state_dict().values()]
    costs = (
        sum(weight.numel() for weight in net.parameters()),
        sum(weights) / 1e6,
        sum(row["epoch_seconds"] for row in result.history) / 60,
        len(next(iter(result.test.probs.values()))) / result.test_seconds,
    )
    run.log_metrics(dict(zip(COSTS, map(float, costs), strict=True)))


def _log_settings(
    run: Run, values: dict[str, Any], dataset: PreparedDataset, *, is_new: bool, limit: Limit | None, number: int
) -> None:
    durable.write_text(run.folder / "config.yaml", to_yaml(values))
    run.log_params(
        {k: v for k, v in values.items() if k not in NOT_LOGGED} | ({"budget": limit.budget} if limit else {})
    )
    run.set_tags({"fmtl.data": dataset.digest} | followers.tags(number))
    if is_new:
        source = str(dataset.folder.resolve())
        run.log_dataset(name=dataset.manifest["source"]["table"], digest=dataset.digest, source=source, context="train")


def _defaults(settings: TrainSettings) -> dict[str, Any]:
    """What needs no option when the run is repeated. What was found by trial has one: elsewhere it might differ."""
    of_the_run = {name: getattr(settings, name) for name in resuming.BEGINNING}
    asked = TrainSettings(mode=settings.mode, objective=settings.objective)
    return asked.with_mode().model_dump() | of_the_run | {"mode": "tuned", "objective": "both"}


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


def _resume(which: str, asked: TrainSettings, occasion: Occasion) -> tuple[str, RunFolder]:
    """Go on with a run where it stands, in that same run, or in one of its own."""
    found = resuming.find(which)
    if asked.fork or asked.extend_to is not None:
        return _fork(found, asked, occasion)
    settings = resuming.unchanged(asked, found.settings)
    if found.is_complete:
        print(f"run {found.name}: it completed, nothing to do; --extend-to N trains on, in a run of its own")
        return found.name, found.folder
    with open_run(
        "train", offline=settings.offline, resume=found.folder, run_id=found.record.run_id if found.record else None,
        is_abandoned=occasion.is_abandoned,
    ) as run, _told(run):  # fmt: skip
        last = found.last()
        if last is None and found.source:
            return _go_on_from(resuming.find(found.source), settings, run), found.folder
        best = resuming.best_of(found, last, is_held=True) if last else None
        unweighted = settings.model_copy(update={"weights": "none"} if last else {})
        work = prepare(unweighted, spec=resuming.seen_by(last), last=last)
        if found.tags.get("fmtl.data", work.dataset.digest) != work.dataset.digest:
            raise DataError(f"run {run.id} was trained on another dataset than {work.dataset.folder}", where="resume")
        logged = resuming.logged_epochs(found.folder, found.record)
        run.note_steps(logged)
        if last is None:
            log.info("it had not come to a first checkpoint, and begins anew")
        else:
            resuming.tell(run, last, hardware.decisive(work.setup.device), found.tags)
            publisher.log_epochs(run, [row for row in last.training["history"] if row[EPOCH] not in logged])
        work = replace(work, settings=work.settings.model_copy(update={"weights": settings.weights}))
        occasion.begun(run.id)  # not before: what can't go on is not what was asked for
        return _train(work, run, last=last, best=best, recorded=logged, occasion=occasion), found.folder


def _fork(found: resuming.Earlier, asked: TrainSettings, occasion: Occasion) -> tuple[str, RunFolder]:
    """Go on from a run in one of its own: with more epochs, or under changed settings."""
    settings = resuming.of_fork(asked, found.settings, done=found.whole().epoch)
    with _opened(settings, occasion, source=found.name) as run, _told(run):
        return _go_on_from(found, settings, run), run.place


def _go_on_from(found: resuming.Earlier, settings: TrainSettings, run: Run) -> str:
    """Take weights and history of another run over, and train on in this one."""
    source = found.whole()
    best = resuming.best_of(found, source, is_held=False)
    last = resuming.first_of_fork(source)
    work = prepare(settings.model_copy(update={"weights": "none"}), spec=resuming.seen_by(source), last=last)
    if found.tags.get("fmtl.data") != work.dataset.digest:
        raise DataError(
            f"run {found.name} was trained on another dataset than {work.dataset.folder}; epochs on other photos can't "
            "be compared with its own", where="fork",
        )  # fmt: skip
    work = replace(work, settings=work.settings.model_copy(update={"weights": found.settings.weights}))
    if settings.save_checkpoints:
        files = _files(work, run)
        if best:
            files.save_best(best.model, work.setup.tasks, best.metrics)
        files.save_last(last.model, work.setup.tasks, last.metrics, last.training)
    run.set_tags({"fmtl.forked_from": found.name})
    first, until = source.epoch + 1, settings.epochs
    which = f"epochs {first} to {until} have a schedule of their own"
    which = which if until > first else f"epoch {first} has a schedule of its own"
    log.info("it goes on from run %s after epoch %d: %s (%s)", found.name, source.epoch, which, work.settings.schedule)
    recorded = resuming.logged_epochs(run.place, None)
    publisher.log_epochs(run, [row for row in last.training["history"] if row[EPOCH] not in recorded])
    return _train(work, run, last=last, best=best, recorded=recorded)
