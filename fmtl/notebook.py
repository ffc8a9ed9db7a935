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

from fmtl import artifacts, durable, losses, models, notes, probe, training
from fmtl.config import Given, TrainSettings, build, to_yaml
from fmtl.engine import Loader
from fmtl.errors import DataError, Diverged, FmtlError, UsageError
from fmtl.hardware import choose_device, keep_memory
from fmtl.loaders import Checked
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
TABLE_COLUMNS = [
    "model", "mode", *(f"{split}/avg/{name}" for split in ("val", "test") for name in NAMES), "best_epoch", "seconds",
    "status", "run_id",
]  # fmt: skip
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
    loaders: dict[str, Checked]
    criterions: Mapping[str, Criterion]
    device: torch.device
    px: int
    batch_size: int

    @property
    def num_classes(self) -> dict[str, int]:
        return {task.name: task.num_classes for task in self.tasks}

    @property
    def used(self) -> dict[str, Any]:
        """The settings that had a say, by name, and what was found out about the loaders."""
        values = self.settings.model_dump(mode="json", exclude=OF_LOADERS | {"run_name", "experiment"})
        return values | {"px": self.px, "batch_size": self.batch_size, "device": str(self.device)}


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
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        criterions: A loss by task name, called with the logits ``(n, K)`` and targets ``(n,)`` of the rows that have
            the label; the other tasks use cross-entropy, classes weighed and labels smoothed as the settings say.
        label_cols: The tasks to train, in order; all of ``num_classes_dict`` if not given.
        learning_rate: The heads' peak rate; the mode's own if None.
        extra_plots: Pictures: shown in a notebook, and logged to the MLflow run.
        save_checkpoints: Write ``checkpoints/<model_name>_<mode>_best.pt`` and ``_last.pt`` in the working directory.
        mlflow: Log a train run.
        classes: The K labels by task name, in index order; numbers if not given.
        preprocess: How images become network input.
        data_id: Names the photos and their split. With it, ``classes`` and ``preprocess`` the model is logged and can
            be registered, and runs with the same one are ranked together.
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
    given = _check(
        chosen | settings, num_classes_dict, names, loaders, device, criterions or {}, classes or {}, preprocess
    )
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
            run.set_tags({"mlflow.note.content": notes.of_loaders(given.tasks, given.used, outcome, scores)})
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
        that fails, as one whose loss left the finite numbers or whose weights can't be fetched, has a row that says
        why, and no result; those of the others stay.

    Raises:
        UsageError, DataError: As ``train_and_evaluate_model``, by the first run.
    """
    for backbone in backbones:
        models.input_spec(backbone)  # a wrong name is an error before hours of training
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
            except (FmtlError, torch.OutOfMemoryError) as error:
                if not rows and isinstance(error, UsageError | DataError) and not isinstance(error, Diverged):
                    raise  # what the first run can't use, no run can
                print(f"{backbone}, {mode}: {error}", flush=True)
                rows.append({**row, "status": str(error)})
                continue
            runs[backbone, mode] = result
            rows.append({**row, **_table_row(result)})
    table = pd.DataFrame(rows, columns=TABLE_COLUMNS)
    table = table.sort_values("val/avg/f1", ascending=False, ignore_index=True, na_position="last")
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
    preprocess: Preprocess | None,
) -> _Given:
    settings = _settings({**chosen, "device": str(device)})
    for what, found in (("label_cols", names), ("criterions", criterions), ("classes", classes)):
        if unknown := [name for name in found if name not in num_classes]:
            near = get_close_matches(unknown[0], num_classes, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the tasks are {', '.join(num_classes)}"
            raise UsageError(f"{what}: '{unknown[0]}' is not in num_classes_dict; {hint}")
    if criterions and (settings.mixup or settings.cutmix):
        raise UsageError("criterions: they take one target per image, and mixup and cutmix give two; leave one out")
    tasks = make_tasks({name: _labels(name, classes, int(num_classes[name])) for name in names})
    checked = {split: Checked(split, loader, tasks) for split, loader in loaders.items()}
    shapes = {split: loader.first_shape() for split, loader in checked.items()}
    sides = {shape[2:] for shape in shapes.values()}
    if len(sides) > 1 or len(set(next(iter(sides)))) > 1:
        raise DataError(f"loaders: images must be square and of one size, got {', '.join(map(str, sorted(sides)))}")
    px = shapes["val"][3]
    if preprocess and preprocess.px != px:
        raise UsageError(f"preprocess: it makes images of {preprocess.px} px, the loaders give {px}")
    return _Given(settings, tasks, checked, criterions, choose_device(settings.device), px, shapes["train"][0])


def _labels(name: str, classes: Mapping[str, Sequence], num: int) -> list[str]:
    """A task's labels as plain text; their numbers where none are given."""
    labels = [str(label) for label in classes.get(name, range(num))]
    if len(labels) != num:
        raise UsageError(f"classes: {name} has {len(labels)} labels, expected {num}")
    if len(set(labels)) < num or not all(label.strip() for label in labels):
        twice = next((label for label in labels if labels.count(label) > 1), "")
        raise UsageError(f"classes: {name}: expected different labels, none blank, got '{twice}'")
    return labels


def _settings(chosen: dict[str, Any]) -> TrainSettings:
    if taken := sorted((OF_LOADERS - {"device"}) & set(chosen)):
        raise UsageError(f"{', '.join(taken)}: the loaders decide that, or it needs a prepared dataset (fmtl train)")
    given = {name: Given(value, name) for name, value in chosen.items() if value is not None}
    return build(TrainSettings, given).resolved()


def _network(given: _Given) -> MultiTaskNet:
    keep_memory()
    values = given.settings.model_dump()
    net = models.from_settings(values, given.num_classes, px=given.px)
    execution = probe.from_settings(values, net, given.device, px=given.px, batch_size=given.batch_size)
    return net.run_on(given.device, execution)


def _log_settings(run: Run, given: _Given, net: MultiTaskNet, data_id: str | None) -> None:
    values = given.used | net.execution.to_json()
    durable.write_text(run.folder / "config.yaml", to_yaml(values))
    run.log_params(values)
    if data_id:
        run.set_tags({"fmtl.data": data_id})


def _train(given: _Given, net: MultiTaskNet, run: Run | None) -> tuple[Outcome, dict[str, str | None]]:
    settings = given.settings
    stem = Path("checkpoints") / f"{settings.backbone}_{settings.mode}"
    values = given.used
    loss = losses.from_settings(values, given.num_classes, counts=_counts(given), criterions=given.criterions)
    parts = [(settings.num_frozen, True), (settings.epochs - settings.num_frozen, False)]
    job = Job(
        net=net,
        tasks=given.tasks,
        stages=[_stage(given, net, num, is_frozen) for num, is_frozen in parts if num],
        test=given.loaders["test"],
        loss=loss,
        device=given.device,
        settings=values,
        checkpoint_stem=stem if settings.save_checkpoints else None,
        run=run,
        draw=settings.extra_plots,
    )
    try:
        outcome = training.train(job)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):  # torch's words, of BatchNorm
            raise
        raise DataError(
            "train_loader: a batch has 1 image, of which BatchNorm sees one value per channel; "
            "DataLoader(..., drop_last=True) leaves such a rest out"
        ) from error
    written = {which: str(job.checkpoint(which)) if settings.save_checkpoints else None for which in ("best", "last")}
    return outcome, written


def _stage(given: _Given, net: MultiTaskNet, num_epochs: int, frozen: bool) -> Stage:
    passing = frozen and num_epochs < given.settings.epochs  # what comes after must have its turn
    recipe = Recipe.of(given.used, epochs=num_epochs, patience=0 if passing else given.settings.patience)
    return Stage(net=net, train=given.loaders["train"], val=given.loaders["val"], recipe=recipe, frozen=frozen)


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
