"""``train``: a prepared dataset to one MLflow run with metrics, plots, checkpoints and a model."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fmtl import artifacts, checkpoints, durable, features, gallery, losses, models, notes, probe, suspects, training
from fmtl.batches import Batches, Features, Photos, Source
from fmtl.config import TrainSettings, build_from_file, to_yaml
from fmtl.dataset import PreparedDataset, class_counts, open_dataset
from fmtl.engine import Paced
from fmtl.errors import DataError, UsageError
from fmtl.hardware import Execution, choose_device, keep_memory
from fmtl.losses import MultiTaskLoss
from fmtl.models import MultiTaskNet
from fmtl.optim import Recipe
from fmtl.preparation import GROUP, check_sources
from fmtl.splits import SPLITS
from fmtl.tasks import IGNORE_INDEX, check_name
from fmtl.tracking import serving, store
from fmtl.tracking.run import Run, open_run
from fmtl.training import Stage
from fmtl.transforms import Augmentation, Preprocess

# A run may go on under other values of these, since they do not change what is learnt.
FREE_ON_RESUME = {"allow_stale", "device", "experiment", "run_name", "resume", "extra_plots", "gallery"}


@dataclass(frozen=True)
class Setup:
    """All that a run needs, built and checked before anything is trained; the network is on its device."""

    settings: TrainSettings
    dataset: PreparedDataset
    device: torch.device
    net: MultiTaskNet
    preprocess: Preprocess
    loss: MultiTaskLoss


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
    if not settings.augment and (settings.colour_jitter or settings.policy != "none"):
        raise UsageError("colour_jitter, policy: they need augment=true, which mode=baseline has not by default")
    keep_memory()
    device = choose_device(settings.device)
    dataset = open_dataset(Path(settings.data))
    if not settings.allow_stale and not settings.resume:
        check_sources(dataset)
    for split in SPLITS:
        if len(dataset.rows(split)) == 0:
            raise DataError(f"{dataset.folder}: the {split} split is empty; prepare more images or another fraction")
        if split != "test" and (dataset.targets[dataset.rows(split)] == IGNORE_INDEX).all():
            raise DataError(f"{dataset.folder}: no image of the {split} split has a label")
    if len(dataset.rows("train")) < 2:
        raise DataError(f"{dataset.folder}: 1 training image; BatchNorm needs 2 at least")
    spec = models.input_spec(settings.backbone)
    settings = settings.model_copy(update={"px": _px(settings, dataset, spec.px)})
    num_classes = {task.name: task.num_classes for task in dataset.tasks}
    net = models.from_settings(settings.model_dump(), num_classes, px=settings.px)
    settings = _on_this_machine(settings, net, device, len(dataset.rows("train")))
    net.run_on(device, Execution(settings.precision, settings.channels_last, settings.compile))
    image = dataset.manifest["image"]
    preprocess = Preprocess(dataset.px, image["fit"], image["background"], settings.px, spec.mean, spec.std)
    return Setup(settings, dataset, device, net, preprocess, _loss(settings, dataset))


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


def _on_this_machine(settings: TrainSettings, net: MultiTaskNet, device: torch.device, num_images: int):
    """The settings with precision, memory layout and batch size filled in: what is fastest here, by trial."""
    known = settings.batch_size if settings.batch_size != "auto" else 32
    execution = probe.from_settings(settings.model_dump(), net, device, px=settings.px, batch_size=known)
    chosen = {"precision": execution.precision, "channels_last": execution.channels_last}
    if settings.batch_size == "auto":
        chosen["batch_size"] = probe.choose_batch_size(net, device, execution, px=settings.px, num_images=num_images)
    if {"auto", None} & {settings.precision, settings.channels_last, settings.batch_size}:
        layout = "channels last" if execution.channels_last else "channels first"
        size = chosen.get("batch_size", settings.batch_size)
        print(f"{device.type}: {execution.precision}, {layout}, batches of {size}", flush=True)
    return settings.model_copy(update=chosen)


def _loss(settings: TrainSettings, dataset: PreparedDataset) -> MultiTaskLoss:
    num_classes = {task.name: task.num_classes for task in dataset.tasks}
    counts = {}
    if settings.class_weights:
        counts = {name: torch.tensor(table["train"].tolist()) for name, table in class_counts(dataset).items()}
    return losses.from_settings(settings.model_dump(), num_classes, counts=counts)


def _train(setup: Setup, run: Run, *, resume: dict | None = None) -> str:
    settings, dataset = setup.settings, setup.dataset
    if resume:
        setup.net.load_state_dict(resume["model"])
    values = settings.model_dump(mode="json")
    durable.write_text(run.folder / "config.yaml", to_yaml(values))
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
            stages=_stages(setup, done=resume["epoch"] if resume else 0),
            test=_batches(setup, "test", _photos(setup)),
            loss=setup.loss,
            device=setup.device,
            settings={**values, "preprocess": setup.preprocess.to_json()},
            checkpoint_stem=stem if settings.save_checkpoints else None,
            run=run,
            draw=settings.extra_plots,
        ),
        resume=resume,
    )
    rows = dataset.table.iloc[dataset.rows("test")][["id", "path"]]
    artifacts.write(
        run.folder,
        history=outcome.history,
        best_epoch=outcome.best["epoch"],
        test=outcome.test,
        tasks=dataset.tasks,
        rows=rows,
        draw=settings.extra_plots,
    )
    errors = _gallery(setup, run, outcome) if settings.gallery else None
    scores = outcome.final_metrics(dataset.tasks)
    model_id = serving.log_model(
        setup.net,
        backbone=settings.backbone,
        tasks=dataset.tasks,
        preprocess=setup.preprocess,
        epoch=outcome.best["epoch"],
    )
    run.log_metrics(scores, model_id=model_id)
    command = notes.command(settings.model_dump(), _defaults(settings))
    note = notes.of_training(dataset, values, outcome, scores, errors, command=command, run_id=run.run_id)
    run.set_tags({"mlflow.note.content": note})
    print(
        f"test: accuracy {scores['test/avg/accuracy']:.3f}, F1 {scores['test/avg/f1']:.3f}, "
        f"{notes.averaged(dataset.tasks, scores)}, {len(rows)} images, weights of epoch {outcome.best['epoch']}"
    )
    print(f"run: {run.name} {run.run_id}")
    return run.run_id


def _stages(setup: Setup, *, done: int) -> list[Stage]:
    """Frozen epochs, on features if they may be cached, and then those that train the backbone too.

    Args:
        done: Epochs of an earlier attempt.
    """
    settings, values = setup.settings, setup.settings.model_dump()
    num_frozen = settings.num_frozen
    stages = []
    if num_frozen:
        patience = settings.patience if num_frozen == settings.epochs else 0
        recipe = Recipe.of(values, epochs=num_frozen, patience=patience)
        stages.append(_frozen_stage(setup, recipe, cache=settings.cache_features and done < num_frozen))
    if num_frozen < settings.epochs:
        recipe = Recipe.of(values, epochs=settings.epochs - num_frozen)
        stages.append(_stage(setup, setup.net, recipe, _photos(setup, training_split=True), _photos(setup)))
    return stages


def _frozen_stage(setup: Setup, recipe: Recipe, *, cache: bool) -> Stage:
    if not cache:
        photos = (_photos(setup, training_split=True), _photos(setup))
        return _stage(setup, setup.net, recipe, *photos, frozen=True)
    found = features.compute(
        setup.net,
        setup.dataset,
        backbone=setup.settings.backbone,
        preprocess=setup.preprocess,
        batch_size=setup.settings.batch_size,
        device=setup.device,
        watch=lambda batches, what: training.watch(Paced(batches), what),
    )
    source = Features(found)
    if setup.settings.augment or recipe.mixup or recipe.cutmix:
        print("the photos are not augmented or mixed while features are kept (cache_features=false)", flush=True)
    recipe = replace(recipe, mixup=0.0, cutmix=0.0)
    return _stage(setup, setup.net.heads_alone(), recipe, source, source, frozen=True)


def _stage(
    setup: Setup, net: MultiTaskNet, recipe: Recipe, train: Source, val: Source, *, frozen: bool = False
) -> Stage:
    return Stage(
        net=net,
        train=_batches(setup, "train", train),
        val=_batches(setup, "val", val),
        recipe=recipe,
        frozen=frozen,
    )


def _photos(setup: Setup, *, training_split: bool = False) -> Photos:
    settings, augmentation = setup.settings, None
    if training_split and settings.augment:
        colours = _colour_tasks(setup)
        augmentation = Augmentation(
            colour_jitter=settings.colour_jitter,
            keep_hue=bool(colours),
            policy=settings.policy,
            keep_colour=bool(colours),
        )
    return Photos(
        setup.dataset,
        preprocess=setup.preprocess,
        augmentation=augmentation,
        seed=settings.seed,
        device=setup.device,
    )


def _colour_tasks(setup: Setup) -> list[str]:
    """Tasks whose labels a shift of hue would make wrong."""
    names = [task.name for task in setup.dataset.tasks]
    if setup.settings.colour_tasks is None:
        return [name for name in names if re.search("colou?r", name, re.IGNORECASE)]
    chosen = [name for name in setup.settings.colour_tasks if name != "none"]
    for name in chosen:
        check_name("colour_tasks", name, names)
    return chosen


def _batches(setup: Setup, split: str, source: Source) -> Batches:
    # A policy draws from torch's own generator, which a second thread must not share.
    drawn = isinstance(source, Photos) and source.augmentation and source.augmentation.policy != "none"
    return Batches(
        source,
        setup.dataset.targets,
        setup.dataset.rows(split),
        tasks=setup.dataset.tasks,
        batch_size=setup.settings.batch_size,
        shuffle=split == "train",
        seed=setup.settings.seed,
        prefetch=setup.device.type == "cuda" and isinstance(source, Photos) and not drawn,
    )


def _defaults(settings: TrainSettings) -> dict:
    """What needs no option when the run is repeated. What was found by trial has one: elsewhere it might differ."""
    return TrainSettings(mode=settings.mode).resolved().model_dump() | {"resume": settings.resume, "mode": "tuned"}


def _gallery(setup: Setup, run: Run, outcome: training.Outcome) -> gallery.Gallery:
    settings, dataset = setup.settings, setup.dataset
    found = features.compute(
        setup.net,
        dataset,
        backbone=settings.backbone,
        preprocess=setup.preprocess,
        batch_size=settings.batch_size,
        device=setup.device,
        watch=lambda batches, what: training.watch(Paced(batches), what),
        # Only weights that were not trained here may be another run's too.
        keep=settings.freeze and settings.cache_features,
    )
    doubtful = suspects.find(
        found,
        dataset.targets,
        dataset.tasks,
        groups=dataset.table[GROUP].to_numpy(),
        seed=settings.seed,
        watch=lambda folds, what: training.bar(folds, desc=what, unit=" folds"),
    )
    return gallery.write(
        run.folder / "gallery",
        net=setup.net,
        dataset=dataset,
        preprocess=setup.preprocess,
        test=outcome.test,
        suspect_labels=doubtful,
        title=run.name,
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
    if record.tags.get("fmtl.outcome") == "completed":
        print(f"run {record.run_id}: it completed after {last['epoch']} epochs, nothing to do")
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
        if getattr(asked, name) not in ("auto", getattr(original, name))
    ]
    if changed:
        raise UsageError("resume: these settings can't change within a run:\n  - " + "\n  - ".join(changed))
