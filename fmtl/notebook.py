"""Two functions for notebooks, over the same engine as ``fmtl train``: bring loaders, get plain dicts.

N images, K classes of a task.
"""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from fmtl.commands import publisher
from fmtl.commands.brought import Brought, check
from fmtl.commands.publisher import CheckpointFiles
from fmtl.errors import DataError, Diverged, FmtlError, UsageError
from fmtl.loading.checked import GivenLoader
from fmtl.loading.preprocess import Preprocess
from fmtl.metric_names import SCORES, score
from fmtl.model import backbones as backbone_names
from fmtl.reports import run_page, run_summary
from fmtl.settings.reading import to_yaml
from fmtl.settings.train import TrainSettings
from fmtl.storage import durable
from fmtl.tasks import AVERAGE, IGNORE_INDEX
from fmtl.tracking import pyfunc
from fmtl.tracking.run import Recorded, open_run, unrecorded
from fmtl.training.criterion import Criterion
from fmtl.training.engine import Paced
from fmtl.training.progress import watch
from fmtl.training.run import Training, TrainResult
from fmtl.training.setup import Setup, set_up
from fmtl.training.stages import of_loaders

BACKBONES = ("convnext_tiny", "resnet50", "vit_b_16", "efficientnet_b5")
MODES = ("tuned", "baseline")
TABLE_COLUMNS = [
    "model", "mode", *(score(split, None, name) for split in ("val", "test") for name in SCORES), "best_epoch",
    "seconds", "status", "run_id",
]  # fmt: skip


def train_and_evaluate_model(
    model_name: str,
    num_classes_dict: Mapping[str, int],
    train_loader: GivenLoader,
    val_loader: GivenLoader,
    test_loader: GivenLoader,
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
    brought = check(
        chosen | settings, num_classes_dict, names, loaders, device, criterions or {}, classes or {}, preprocess
    )
    with _recorded(brought.settings) if mlflow else unrecorded() as run:
        setup = _set_up(brought)
        _log_settings(run, brought, setup, data_id)
        files = _checkpoint_files(brought)
        result = _train(brought, setup, run, files)
        _write_artifacts(run, brought, result, files)
        model_id = None
        if mlflow and classes and preprocess and data_id:
            model_id = pyfunc.log_model(
                setup.net, backbone=model_name, tasks=brought.tasks, preprocess=preprocess, epoch=result.best_epoch
            )
        run.log_metrics(result.final_metrics, model_id=model_id)
        run.set_tags({"mlflow.note.content": run_summary.of_loaders(brought.used, result)})
    return _result(result, files, run)


def run_complete_model_analysis(
    num_classes_dict: Mapping[str, int],
    train_loader: GivenLoader,
    val_loader: GivenLoader,
    test_loader: GivenLoader,
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
        backbone_names.input_spec(backbone)  # a wrong name is an error before hours of training
    runs: dict[tuple[str, str], dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
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
    table = table.sort_values(score("val", None, "f1"), ascending=False, ignore_index=True, na_position="last")
    return {"runs": runs, "table": table}


def _table_row(result: Mapping[str, Any]) -> dict[str, Any]:
    scores = {score(split, None, name): result[split][AVERAGE][name] for split in ("val", "test") for name in SCORES}
    seconds = sum(row["epoch_seconds"] for row in result["history"])
    return {
        **scores,
        "best_epoch": result["best_epoch"],
        "seconds": seconds,
        "status": "ok",
        "run_id": result["run_id"],
    }


def _recorded(settings: TrainSettings) -> AbstractContextManager[Recorded]:
    name = settings.run_name or f"{settings.backbone}-{settings.mode}"
    return open_run("train", name=name, experiment=settings.experiment)


def _set_up(brought: Brought) -> Setup:
    settings = brought.settings
    backbone_names.input_spec(settings.backbone)  # a wrong name is an error before a look at all batches
    assert isinstance(settings.px, int)
    return set_up(
        settings.resolve(brought.tasks.names, px=settings.px),
        brought.tasks,
        device=brought.device,
        num_images=0,  # of no use: the loaders decide on the batch size
        counts=_counts(brought),
        criterions=brought.criterions,
    )


def _log_settings(run: Recorded, brought: Brought, setup: Setup, data_id: str | None) -> None:
    values = brought.used | setup.execution.to_json()
    durable.write_text(run.folder / "config.yaml", to_yaml(values))
    run.log_params(values)
    if data_id:
        run.set_tags({"fmtl.data": data_id})


def _checkpoint_files(brought: Brought) -> CheckpointFiles | None:
    settings = brought.settings
    stem = Path("checkpoints") / f"{settings.backbone}_{settings.mode}"
    return CheckpointFiles(stem, brought.used) if settings.save_checkpoints else None


def _train(brought: Brought, setup: Setup, run: Recorded, files: CheckpointFiles | None) -> TrainResult:
    settings = brought.settings
    stages = of_loaders(setup, brought.loaders)
    training = Training(setup.net, brought.tasks, stages, loss=setup.loss, device=brought.device)
    publishers = [files.of(training)] if files else []
    publishers.append(publisher.metrics_to(run))
    if settings.extra_plots and run.run_id:
        publishers.append(publisher.frames_to(run, brought.tasks))
    publishers.append(publisher.lines_to(_say, settings.epochs))
    try:
        publisher.publish(training, publishers)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):  # torch's words, of BatchNorm
            raise
        raise DataError(
            "a batch has 1 image, of which BatchNorm sees one value per channel; DataLoader(..., drop_last=True) "
            "leaves such a rest out",
            where="train_loader",
        ) from error
    return training.finish(brought.loaders["test"], watch)


def _say(line: str) -> None:
    print(line, flush=True)


def _counts(brought: Brought) -> dict[str, Tensor]:
    """Training images of each class of the tasks whose classes are weighed: one pass over the training loader."""
    wanted = [task for task in brought.tasks if task.name not in brought.criterions]
    if not brought.settings.class_weights or not wanted:
        return {}
    counts = {task.name: torch.zeros(task.num_classes, dtype=torch.int64) for task in wanted}
    state = torch.random.get_rng_state()
    for _, targets in watch(Paced(brought.loaders["train"]), "class counts"):
        for task in wanted:
            known = targets[task.name][targets[task.name] != IGNORE_INDEX]
            counts[task.name] += torch.bincount(known.cpu(), minlength=task.num_classes)
    torch.random.set_rng_state(state)
    return counts


def _write_artifacts(run: Recorded, brought: Brought, result: TrainResult, files: CheckpointFiles | None) -> None:
    """The run's files, and its pictures inline where this is a notebook."""
    display = _display() if brought.settings.extra_plots else None
    if run.run_id is None and display is None:
        return
    num = len(next(iter(result.test.targets.values())))
    rows = pd.DataFrame({"id": range(num), "path": [""] * num})  # loaders don't say
    for path in run_page.write(run.folder, result, rows=rows, draw=brought.settings.extra_plots):
        if display:
            display(path.read_bytes())
    if files and run.run_id:
        (run.folder / "checkpoints").mkdir(exist_ok=True)
        for which in ("best", "last"):
            shutil.copy(files.path(which), run.folder / "checkpoints")


def _display() -> Callable[[bytes], None] | None:
    """Shows a PNG, where IPython runs a notebook's kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import Image, display

    return lambda picture: display(Image(picture))


def _result(result: TrainResult, files: CheckpointFiles | None, run: Recorded) -> dict[str, Any]:
    best = result.best
    val = {task.name: {name: best[score("val", task, name)] for name in SCORES} for task in result.tasks}
    return {
        "history": [dict(row) for row in result.history],
        "best_epoch": result.best_epoch,
        "val": {AVERAGE: {name: best[score("val", None, name)] for name in SCORES}} | val,
        "test": result.test.scores,
        "confusion": result.test.confusion,
        "checkpoints": {which: str(files.path(which)) if files else None for which in ("best", "last")},
        "run_id": run.run_id,
    }
