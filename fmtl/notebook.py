"""Two functions for notebooks, over the same engine as ``fmtl train``: bring loaders, get plain dicts.

N images, K classes of a task.
"""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from fmtl import artifacts, losses, models, probe, training
from fmtl.config import Given, TrainSettings, build
from fmtl.engine import Loader
from fmtl.errors import DataError, Diverged, UsageError
from fmtl.hardware import choose_device, keep_memory
from fmtl.losses import Criterion
from fmtl.metrics import NAMES
from fmtl.models import MultiTaskNet
from fmtl.optim import Recipe
from fmtl.tasks import IGNORE_INDEX, Task, make_tasks
from fmtl.tracking import serving
from fmtl.tracking.run import Run, open_run
from fmtl.training import Job, Outcome, Stage
from fmtl.transforms import Preprocess

BACKBONES = ("convnext_tiny", "resnet50", "vit_b_16", "efficientnet_b5")
MODES = ("tuned", "baseline")
# The loaders decide these, or they need a prepared dataset.
OF_LOADERS = {
    "data", "allow_stale", "batch_size", "augment", "colour_jitter", "colour_tasks", "policy", "px", "cache_features",
    "gallery", "resume", "device",
}  # fmt: skip


@dataclass(frozen=True)
class _Given:
    """What the caller brought, checked."""

    settings: TrainSettings
    tasks: list[Task]
    loaders: dict[str, Loader]
    criterions: Mapping[str, Criterion]
    device: torch.device
    px: int
    batch_size: int

    @property
    def num_classes(self) -> dict[str, int]:
        return {task.name: task.num_classes for task in self.tasks}


def train_and_evaluate_model(
    model_name: str,
    num_classes_dict: Mapping[str, int],
    train_loader: Loader,
    val_loader: Loader,
    test_loader: Loader,
    device: torch.device | str = "auto",
    criterions: Mapping[str, Criterion] | None = None,
    label_cols: Sequence[str] | None = None,
    *,
    epochs: int = 20,
    learning_rate: float | None = None,
    extra_plots: bool = False,
    save_checkpoints: bool = False,
    mlflow: bool = True,
    classes: Mapping[str, Sequence[str]] | None = None,
    preprocess: Preprocess | None = None,
    data_id: str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train a model, keep the epoch with the lowest validation loss, and test it once.

    Args:
        model_name: A torchvision or timm classification model.
        num_classes_dict: K by task name.
        train_loader, val_loader, test_loader: Of ``(images, targets)``: ``(N, 3, px, px)`` float32, normalised, and a
            dict of ``(N,)`` int64 by task name, -100 where unknown. Their order and augmentation are theirs.
        device: ``auto``, or as torch names it.
        criterions: A loss by task name, called with the logits ``(n, K)`` and targets ``(n,)`` of the rows that have
            the label; the other tasks use cross-entropy with the classes weighed as the settings say.
        label_cols: The tasks to train, in order; all of ``num_classes_dict`` if not given.
        learning_rate: The heads' peak rate; the mode's own if None.
        extra_plots: Pictures: shown in a notebook, and logged to the MLflow run.
        save_checkpoints: Write ``checkpoints/<model_name>_<mode>_best.pt`` and ``_last.pt`` in the working directory.
        mlflow: Log a train run.
        classes: The K labels by task name, in index order; numbers if not given.
        preprocess: How images become network input. With it, ``classes`` and ``data_id`` the model is logged and can be
            registered.
        data_id: Names the photos and their split; runs with the same one are ranked together.
        settings: Of ``fmtl train``, by their own names, such as ``mode="baseline"`` or ``weights="none"``.

    Returns:
        ``{"history": [dict per epoch], "best_epoch": int, "val", "test": {task: {"accuracy", "f1", "precision",
        "recall"}, "avg": {...}}, "confusion": {task: (K, K) counts}, "checkpoints": {"best", "last"}, "run_id"}``.

    Raises:
        UsageError: An unknown setting, or one that the loaders decide.
        DataError: A loader gives what can't be trained on.
    """
    chosen = {"backbone": model_name, "epochs": epochs, "learning_rate": learning_rate}
    chosen |= {"extra_plots": extra_plots, "save_checkpoints": save_checkpoints}
    loaders = {"train": train_loader, "val": val_loader, "test": test_loader}
    names = list(num_classes_dict) if label_cols is None else list(label_cols)
    given = _check(chosen | settings, num_classes_dict, names, loaders, device, criterions or {}, classes or {})
    name = given.settings.run_name or f"{given.settings.backbone}-{given.settings.mode}"
    opened = open_run("train", name=name, experiment=given.settings.experiment) if mlflow else contextlib.nullcontext()
    with opened as run:
        net = _network(given)
        if run:
            _log_settings(run, given, net, data_id)
        outcome, checkpoints = _train(given, net, run)
        scores = outcome.final_metrics(given.tasks)
        model_id = None
        _write_artifacts(run, given, outcome, checkpoints)
        if run:
            if classes and preprocess and data_id:
                model_id = serving.log_model(
                    net, backbone=model_name, tasks=given.tasks, preprocess=preprocess, epoch=outcome.best["epoch"]
                )
            run.log_metrics(scores, model_id=model_id)
    return _result(given, outcome, checkpoints, run)


def run_complete_model_analysis(
    num_classes_dict: Mapping[str, int],
    train_loader: Loader,
    val_loader: Loader,
    test_loader: Loader,
    device: torch.device | str = "auto",
    criterions: Mapping[str, Criterion] | None = None,
    label_cols: Sequence[str] | None = None,
    *,
    epochs: int = 7,
    learning_rate: float | None = None,
    backbones: Sequence[str] = BACKBONES,
    modes: Sequence[str] = MODES,
    **settings: Any,
) -> dict[str, Any]:
    """Train every backbone in every mode on the same loaders, and compare them. No plots inside.

    Args:
        backbones, modes: Those to compare.
        settings: Further ones of ``train_and_evaluate_model``; the other arguments are its own.

    Returns:
        ``{"runs": {(backbone, mode): result}, "table": DataFrame}``, the table ordered by validation macro-F1. A run
        whose loss left the finite numbers has a row that says so, and no result.
    """
    runs, rows = {}, []
    for backbone in backbones:
        for mode in modes:
            print(f"{backbone}, {mode}", flush=True)
            row = {"model": backbone, "mode": mode}
            try:
                result = train_and_evaluate_model(
                    backbone, num_classes_dict, train_loader, val_loader, test_loader, device, criterions, label_cols,
                    epochs=epochs, learning_rate=learning_rate, mode=mode, **settings,
                )  # fmt: skip
            except Diverged as error:
                rows.append({**row, "status": str(error)})
                continue
            runs[backbone, mode] = result
            rows.append({**row, **_table_row(result)})
    table = pd.DataFrame(rows).sort_values("val/avg/f1", ascending=False, ignore_index=True, na_position="last")
    return {"runs": runs, "table": table}


def _table_row(result: Mapping[str, Any]) -> dict[str, Any]:
    scores = {f"{split}/avg/{name}": result[split]["avg"][name] for split in ("val", "test") for name in NAMES}
    seconds = sum(row["epoch_seconds"] for row in result["history"])
    return {
        **scores,
        "best_epoch": result["best_epoch"],
        "seconds": seconds,
        "status": "ok",
        "run_id": result["run_id"],
    }


def _check(
    chosen: Mapping[str, Any],
    num_classes: Mapping[str, int],
    names: Sequence[str],
    loaders: dict[str, Loader],
    device: torch.device | str,
    criterions: Mapping[str, Criterion],
    classes: Mapping[str, Sequence[str]],
) -> _Given:
    settings = _settings({**chosen, "device": str(device)})
    for what, found in (("label_cols", names), ("criterions", criterions), ("classes", classes)):
        if unknown := [name for name in found if name not in num_classes]:
            near = get_close_matches(unknown[0], num_classes, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the tasks are {', '.join(num_classes)}"
            raise UsageError(f"{what}: '{unknown[0]}' is not in num_classes_dict; {hint}")
    if criterions and (settings.mixup or settings.cutmix):
        raise UsageError("criterions: they take one target per image, and mixup and cutmix give two; leave one out")
    tasks = make_tasks({name: classes.get(name, [str(k) for k in range(num_classes[name])]) for name in names})
    for task in tasks:
        if task.num_classes != num_classes[task.name]:
            raise UsageError(f"classes: {task.name} has {task.num_classes} labels, expected {num_classes[task.name]}")
    shapes = {split: _check_loader(split, loader, tasks) for split, loader in loaders.items()}
    sides = {shape[2:] for shape in shapes.values()}
    if len(sides) > 1 or len(set(next(iter(sides)))) > 1:
        raise DataError(f"loaders: images must be square and of one size, got {', '.join(map(str, sorted(sides)))}")
    return _Given(
        settings, tasks, loaders, criterions, choose_device(settings.device), shapes["val"][3], shapes["train"][0]
    )


def _settings(chosen: dict[str, Any]) -> TrainSettings:
    if taken := sorted((OF_LOADERS - {"device"}) & set(chosen)):
        raise UsageError(f"{', '.join(taken)}: the loaders decide that, or it needs a prepared dataset (fmtl train)")
    given = {name: Given(value, name) for name, value in chosen.items() if value is not None}
    return build(TrainSettings, given).resolved()


def _check_loader(split: str, loader: Loader, tasks: Sequence[Task]) -> tuple[int, ...]:
    """The shape of the first batch's images."""
    try:
        len(loader)
    except TypeError as error:
        raise DataError(
            f"{split}_loader: it has no length, and schedule and progress need the batches' number"
        ) from error
    batch = next(iter(loader), None)
    if batch is None:
        raise DataError(f"{split}_loader: it gives no batch")
    if not isinstance(batch, Sequence) or len(batch) != 2 or not isinstance(batch[1], Mapping):
        raise DataError(f"{split}_loader: expected (images, dict of targets), got {type(batch).__name__}")
    images, targets = batch
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise DataError(
            f"{split}_loader: expected images (N, 3, px, px) of floats, got {tuple(images.shape)} {images.dtype}"
        )
    for task in tasks:
        if task.name not in targets:
            raise DataError(f"{split}_loader: no targets of '{task.name}'; it gives {', '.join(targets)}")
        found = targets[task.name]
        known = found[found != IGNORE_INDEX]
        if found.shape != images.shape[:1] or found.is_floating_point():
            raise DataError(
                f"{split}_loader: {task.name}: expected ({len(images)},) class indices, got {tuple(found.shape)} "
                f"{found.dtype}"
            )
        if len(known) and not 0 <= int(known.min()) <= int(known.max()) < task.num_classes:
            raise DataError(
                f"{split}_loader: {task.name}: targets from {int(known.min())} to {int(known.max())}, expected 0 to "
                f"{task.num_classes - 1}, or {IGNORE_INDEX} where unknown"
            )
    return tuple(images.shape)


def _network(given: _Given) -> MultiTaskNet:
    keep_memory()
    settings = given.settings
    torch.manual_seed(settings.seed)
    net = models.build(settings.backbone, given.num_classes, weights=settings.weights, px=given.px)
    if settings.grad_checkpointing:
        net.checkpoint_gradients()
    net.freeze_backbone(settings.freeze)
    execution = probe.choose_execution(
        net,
        given.device,
        backbone=settings.backbone,
        px=given.px,
        batch_size=given.batch_size,
        precision=settings.precision,
        channels_last=settings.channels_last,
        compile=settings.compile,
    )
    return net.run_on(given.device, execution)


def _log_settings(run: Run, given: _Given, net: MultiTaskNet, data_id: str | None) -> None:
    values = given.settings.model_dump(mode="json")
    used = {k: v for k, v in values.items() if k not in OF_LOADERS | {"run_name", "experiment"}}
    found = net.execution.to_json() | {"px": given.px, "batch_size": given.batch_size, "device": str(given.device)}
    run.log_params(used | found)
    if data_id:
        run.set_tags({"fmtl.data": data_id})


def _train(given: _Given, net: MultiTaskNet, run: Run | None) -> tuple[Outcome, dict[str, str | None]]:
    settings = given.settings
    stem = Path("checkpoints") / f"{settings.backbone}_{settings.mode}"
    values = settings.model_dump(mode="json") | {"px": given.px}
    loss = losses.from_settings(values, given.num_classes, counts=_counts(given), criterions=given.criterions)
    parts = [(settings.num_frozen, True), (settings.epochs - settings.num_frozen, False)]
    job = Job(
        net=net,
        tasks=given.tasks,
        stages=[
            Stage(
                net=net,
                train=given.loaders["train"],
                val=given.loaders["val"],
                recipe=Recipe.of(values, epochs=num, patience=settings.patience if num == settings.epochs else 0),
                frozen=is_frozen,
            )
            for num, is_frozen in parts
            if num
        ],
        test=given.loaders["test"],
        loss=loss,
        device=given.device,
        settings=values,
        checkpoint_stem=stem if settings.save_checkpoints else None,
        run=run,
        draw=settings.extra_plots,
    )
    outcome = training.train(job)
    written = {which: str(job.checkpoint(which)) if settings.save_checkpoints else None for which in ("best", "last")}
    return outcome, written


def _counts(given: _Given) -> dict[str, Tensor]:
    """Training images of each class of the tasks whose classes are weighed: one pass over the training loader."""
    wanted = [task for task in given.tasks if task.name not in given.criterions]
    if not given.settings.class_weights or not wanted:
        return {}
    counts = {task.name: torch.zeros(task.num_classes, dtype=torch.int64) for task in wanted}
    state = torch.random.get_rng_state()
    for targets in _targets(given.loaders["train"]):
        for task in wanted:
            known = targets[task.name][targets[task.name] != IGNORE_INDEX]
            counts[task.name] += torch.bincount(known.cpu(), minlength=task.num_classes)
    torch.random.set_rng_state(state)
    return counts


def _targets(loader: Loader) -> Iterator[dict[str, Tensor]]:
    return (targets for _, targets in training.watch(training.Paced(loader), "class counts"))


def _write_artifacts(run: Run | None, given: _Given, outcome: Outcome, checkpoints: Mapping[str, str | None]) -> None:
    """The run's files, and its pictures inline where this is a notebook; without a run they are only shown."""
    display = _display() if given.settings.extra_plots else None
    if run is None and display is None:
        return
    num = len(next(iter(outcome.test.targets.values())))
    with contextlib.ExitStack() as stack:
        folder = run.folder if run else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fmtl-")))
        pictures = artifacts.write(
            folder,
            history=outcome.history,
            best_epoch=outcome.best["epoch"],
            test=outcome.test,
            tasks=given.tasks,
            rows=pd.DataFrame({"id": range(num), "path": [""] * num}),  # loaders don't say
            draw=given.settings.extra_plots,
        )
        for path in pictures if display else ():
            display(path.read_bytes())
    for path in filter(None, checkpoints.values() if run else ()):
        (run.folder / "checkpoints").mkdir(exist_ok=True)
        shutil.copy(path, run.folder / "checkpoints")


def _display() -> Callable[[bytes], None] | None:
    """Shows a PNG, where IPython runs a notebook's kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import Image, display

    return lambda picture: display(Image(picture))


def _result(given: _Given, outcome: Outcome, checkpoints: dict[str, str | None], run: Run | None) -> dict[str, Any]:
    best = outcome.best
    names = {"avg": "avg"} | {task.name: task.slug for task in given.tasks}
    return {
        "history": [dict(row) for row in outcome.history],
        "best_epoch": best["epoch"],
        "val": {name: {score: best[f"val/{slug}/{score}"] for score in NAMES} for name, slug in names.items()},
        "test": outcome.test.scores,
        "confusion": outcome.test.confusion,
        "checkpoints": checkpoints,
        "run_id": run.run_id if run else None,
    }
