"""``train``: a prepared dataset to one MLflow run with metrics, plots, checkpoints and a model."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fmtl import checkpoints, durable, models, training
from fmtl.batches import Batches
from fmtl.config import TrainSettings, build_from_file, to_yaml
from fmtl.dataset import PreparedDataset, open_dataset
from fmtl.errors import DataError, UsageError
from fmtl.hardware import choose_device
from fmtl.models import MultiTaskNet
from fmtl.optim import Recipe
from fmtl.preparation import check_sources
from fmtl.splits import SPLITS
from fmtl.tasks import Task
from fmtl.tracking import serving, store
from fmtl.tracking.run import Run, open_run
from fmtl.transforms import Preprocess

# A run may go on under other values of these, since they do not change what is learnt.
FREE_ON_RESUME = {"allow_stale", "device", "experiment", "run_name", "resume", "extra_plots"}


@dataclass(frozen=True)
class Setup:
    """All that a run needs, built and checked before anything is trained."""

    settings: TrainSettings
    dataset: PreparedDataset
    device: torch.device
    net: MultiTaskNet
    preprocess: Preprocess


def train(settings: TrainSettings) -> str:
    """Run the whole command. Returns the run's id."""
    if settings.resume:
        return _resume(settings)
    with open_run("train", name=_run_name(settings), experiment=settings.experiment) as run:
        setup = _set_up(settings)
        return _train(setup, run)


def train_variants(variants: Sequence[TrainSettings]) -> list[str]:
    """One run per variant. All datasets are checked first, so that a late one can't spoil a long comparison."""
    if len(variants) == 1:
        return [train(variants[0])]
    for folder in dict.fromkeys(settings.data for settings in variants):
        open_dataset(Path(folder))
    run_ids = []
    for number, settings in enumerate(variants, 1):
        print(f"variant {number} of {len(variants)}: {_run_name(settings)}", flush=True)
        run_ids.append(train(settings))
    return run_ids


def _run_name(settings: TrainSettings) -> str:
    return settings.run_name or f"{settings.backbone}-{settings.mode}"


def _set_up(settings: TrainSettings) -> Setup:
    settings = settings.resolved()
    device = choose_device(settings.device)
    dataset = open_dataset(Path(settings.data))
    if not settings.allow_stale and not settings.resume:
        check_sources(dataset)
    for split in SPLITS:
        if len(dataset.rows(split)) == 0:
            raise DataError(f"{dataset.folder}: the {split} split is empty; prepare more images or another fraction")
    if len(dataset.rows("train")) < 2:
        raise DataError(f"{dataset.folder}: 1 training image; BatchNorm needs 2 at least")
    spec = models.input_spec(settings.backbone)
    px = settings.px or min(dataset.px, spec.px)
    if px > dataset.px:
        raise UsageError(f"px: {px} is larger than the stored side {dataset.px}; prepare with px={px} or lower it")
    settings = settings.model_copy(update={"px": px})
    torch.manual_seed(settings.seed)
    num_classes = {task.name: task.num_classes for task in dataset.tasks}
    net = models.build(settings.backbone, num_classes, weights=settings.weights, px=px)
    if settings.freeze:
        net.freeze_backbone()
    image = dataset.manifest["image"]
    preprocess = Preprocess(dataset.px, image["fit"], image["background"], px, spec.mean, spec.std)
    return Setup(settings, dataset, device, net, preprocess)


def _train(setup: Setup, run: Run, *, resume: dict | None = None) -> str:
    settings, dataset = setup.settings, setup.dataset
    values = settings.model_dump(mode="json")
    durable.write_text(run.folder / "config.yaml", to_yaml(settings))
    run.log_params({k: v for k, v in values.items() if k not in ("resume", "run_name", "experiment")})
    run.set_tags({"fmtl.data": dataset.digest})
    if resume is None:
        run.log_dataset(
            name=dataset.manifest["source"]["table"],
            digest=dataset.digest,
            source=str(dataset.folder.resolve()),
            context="train",
        )
    stem = run.folder / "checkpoints" / f"{settings.backbone}_{settings.mode}"
    outcome = training.train(
        training.Job(
            net=setup.net,
            tasks=dataset.tasks,
            **{split: _batches(setup, split) for split in SPLITS},
            recipe=_recipe(settings),
            device=setup.device,
            settings={**values, "preprocess": setup.preprocess.to_json()},
            checkpoint_stem=stem if settings.save_checkpoints else None,
            run=run,
        ),
        resume=resume,
    )
    rows = dataset.table.iloc[dataset.rows("test")][["id", "path"]]
    training.write_artifacts(run.folder, outcome, dataset.tasks, rows=rows, extra_plots=settings.extra_plots)
    scores = outcome.final_metrics(dataset.tasks)
    model_id = serving.log_model(
        setup.net,
        backbone=settings.backbone,
        tasks=dataset.tasks,
        preprocess=setup.preprocess,
        epoch=outcome.best["epoch"],
    )
    run.log_metrics(scores, model_id=model_id)
    run.set_tags({"mlflow.note.content": _note(setup, run, outcome, scores)})
    print(
        f"test: accuracy {scores['test/avg/accuracy']:.3f}, F1 {scores['test/avg/f1']:.3f}, "
        f"{_averaged(dataset.tasks, scores)}, {len(rows)} images, weights of epoch {outcome.best['epoch']}"
    )
    print(f"run: {run.name} {run.run_id}")
    return run.run_id


def _batches(setup: Setup, split: str) -> Batches:
    training_split = split == "train"
    return Batches(
        setup.dataset,
        setup.dataset.rows(split),
        preprocess=setup.preprocess,
        batch_size=setup.settings.batch_size,
        shuffle=training_split,
        augment=training_split and setup.settings.augment,
        seed=setup.settings.seed,
    )


def _recipe(settings: TrainSettings) -> Recipe:
    return Recipe(
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        backbone_lr_scale=settings.backbone_lr_scale,
        optimizer=settings.optimizer,
        weight_decay=settings.weight_decay,
        schedule=settings.schedule,
        clip_norm=settings.clip_norm,
        seed=settings.seed,
    )


def _averaged(tasks: Sequence[Task], scores: dict[str, float]) -> str:
    """Which tasks the averages speak for."""
    without = [task.name for task in tasks if math.isnan(scores[f"test/{task.slug}/f1"])]
    left_out = f" (without any test label: {', '.join(without)})" if without else ""
    return f"mean over {len(tasks) - len(without)} tasks{left_out}"


def _note(setup: Setup, run: Run, outcome: training.Outcome, scores: dict[str, float]) -> str:
    settings, counts = setup.settings, setup.dataset.manifest["counts"]["splits"]
    table = "\n".join(
        f"| {task.name} | {task.num_classes} | {scores[f'test/{task.slug}/accuracy']:.3f} "
        f"| {scores[f'test/{task.slug}/f1']:.3f} |"
        for task in setup.dataset.tasks
    )
    return (
        f"**{settings.backbone}**, {settings.mode}, weights `{settings.weights}`, {settings.px} px, trained on "
        f"{counts['train']} photos of `{setup.dataset.manifest['source']['table']}`.\n\n"
        f"On {counts['test']} test photos, with the weights of epoch {outcome.best['epoch']} of {settings.epochs}: "
        f"average accuracy **{scores['test/avg/accuracy']:.3f}**, average macro-F1 **{scores['test/avg/f1']:.3f}**, "
        f"{_averaged(setup.dataset.tasks, scores)}.\n\n"
        f"| attribute | classes | accuracy | macro-F1 |\n|---|---|---|---|\n{table}\n\n"
        f"Register it: `fmtl register --run {run.run_id}`"
    )


def _resume(settings: TrainSettings) -> str:
    """Continue the run ``settings.resume`` after its last whole epoch, in that same MLflow run."""
    record = store.get_run(settings.resume)
    last_path = store.download(record.run_id, _checkpoint_name(record, "last"))
    last = checkpoints.load(last_path)
    (original,) = build_from_file(TrainSettings, {}, store.download(record.run_id, "config.yaml"))
    _refuse_changes(settings, original)
    free = {name: getattr(settings, name) for name in FREE_ON_RESUME if name in settings.model_fields_set}
    original = original.model_copy(update=free)
    if last["epoch"] >= original.epochs and record.tags.get("fmtl.outcome") == "completed":
        print(f"run {record.run_id}: all {original.epochs} epochs are done, nothing to do")
        return record.run_id
    with open_run("train", resume=record.run_id) as run:
        setup = _set_up(original.model_copy(update={"weights": "none"}))
        if setup.dataset.digest != record.tags.get("fmtl.data"):
            raise DataError(f"resume: run {record.run_id} was trained on another dataset than {setup.dataset.folder}")
        stem = run.folder / "checkpoints"
        if not (stem / last_path.name).exists():  # artifacts are remote: bring both checkpoints here
            stem.mkdir(parents=True, exist_ok=True)
            for which in ("best", "last"):
                shutil.copy(store.download(record.run_id, _checkpoint_name(record, which)), stem)
        run.set_tags({"fmtl.resumed_from": f"epoch {last['epoch']}"})
        logged = store.steps_of(record.run_id, "train/loss")
        training.log_epochs(run, [row for row in last["training"]["history"] if row["epoch"] not in logged])
        settings_now = setup.settings.model_copy(update={"weights": original.weights})
        return _train(replace(setup, settings=settings_now), run, resume=last)


def _checkpoint_name(record: store.RunRecord, which: str) -> str:
    return f"checkpoints/{record.param('backbone')}_{record.param('mode')}_{which}.pt"


def _refuse_changes(asked: TrainSettings, original: TrainSettings) -> None:
    changed = [
        f"{name}: the run has {getattr(original, name)!r}, got {getattr(asked, name)!r}"
        for name in sorted(asked.model_fields_set - FREE_ON_RESUME)
        if getattr(asked, name) != getattr(original, name)
    ]
    if changed:
        raise UsageError("resume: these settings can't change within a run:\n  - " + "\n  - ".join(changed))
