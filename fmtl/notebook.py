"""Two functions for notebooks, over the same engine as ``fmtl train``: bring loaders, get plain dicts.

N images, K classes of a task.
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from fmtl import machine
from fmtl.commands.bringing import loop, trained
from fmtl.commands.bringing.brought import Asked, Brought, check
from fmtl.commands.bringing.trained import TrainedModel
from fmtl.commands.publisher import CheckpointFiles
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.errors import DataError, Diverged, UsageError
from fmtl.loading.checked import GivenLoader
from fmtl.metric_names import SCORES, score
from fmtl.model import backbones as backbone_names
from fmtl.reports import run_page, run_summary
from fmtl.settings.reading import to_yaml
from fmtl.settings.train import TrainSettings
from fmtl.storage import durable
from fmtl.tasks import AVERAGE
from fmtl.tracking import pyfunc
from fmtl.tracking.recording import Recorded, unrecorded
from fmtl.tracking.run import open_run
from fmtl.training.criterion import Criterion
from fmtl.training.progress import notebook_display
from fmtl.training.run import TrainResult
from fmtl.training.setup import Setup

BACKBONES = ("convnext_tiny", "resnet50", "vit_b_16", "efficientnet_b5")
MODES = ("tuned", "baseline")
ONE_NETWORKS = (Diverged, loop.NotForThisNetwork)  # faults that another network may not have
TABLE_COLUMNS = [
    "model", "mode", *(score(split, None, name) for split in ("val", "test") for name in SCORES), "best_epoch",
    "seconds", "status", "run_id",
]  # fmt: skip


@machine.memory_kept()
def train_and_evaluate_model(
    model_name: str,
    num_classes_dict: Mapping[str, int],
    train_loader: GivenLoader,
    val_loader: GivenLoader,
    test_loader: GivenLoader,
    device: torch.device | str | int | None = "auto",
    criterions: Mapping[str, Criterion] | Criterion | None = None,
    label_cols: Sequence[str] | None = None,
    *,
    epochs: int = 20,
    learning_rate: float | None = None,
    extra_plots: bool = False,
    save_checkpoints: bool = False,
    checkpoint_folder: Path | str = "checkpoints",
    mlflow: bool = True,
    classes: Mapping[str, Sequence[str]] | None = None,
    preprocess: Preprocess | None = None,
    data_id: str | None = None,
    set_cols: Sequence[str] = (),
    **settings: Any,
) -> TrainedModel:
    """Train a model, keep the epoch with the lowest validation loss (see ``choose_by``), and test it once.

    The process is left as it was: its random numbers, its memory, MLflow's settings and current experiment.

    Args:
        model_name: A torchvision or timm classification model.
        num_classes_dict: K by task name, or the K labels.
        train_loader, val_loader, test_loader: Of ``(images, targets)``: ``(N, 3, H, W)`` float32, normalised, and a
            dict of ``(N,)`` int64 by task name, -100 where unknown; of a set ``(N, K)`` float, 1 where an image has the
            value. Their order and augmentation are theirs.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or N.
        criterions: A loss by task name, or one for all, called with the logits ``(n, K)`` and targets ``(n,)`` of the
            rows that have the label; the other tasks use cross-entropy, classes weighed and labels smoothed as the
            settings say.
        label_cols: The tasks to train, in order; all of ``num_classes_dict`` if not given.
        learning_rate: The heads' peak rate; the mode's own if None.
        extra_plots: Pictures: shown in a notebook, and logged to the MLflow run.
        save_checkpoints: Write ``<model_name>_<mode>_best.pt`` and ``_last.pt`` into ``checkpoint_folder``.
        checkpoint_folder: Where what was trained is kept, too, if the training ends early.
        mlflow: Log a train run.
        classes: The K labels by task name: in index order, by index, or with their index; numbers if not given.
        preprocess: How images become network input.
        set_cols: The tasks that are sets: an image has any number of their values.
        data_id: Names the photos and their split. With it, ``classes`` and ``preprocess`` the model is logged and can
            be registered, and runs with the same one are ranked together.
        settings: Of ``fmtl train``, by their own names, such as ``mode="baseline"`` or ``weights="none"``.

    Returns:
        ``{"history": [dict per epoch], "best_epoch": int, "val", "test": {task: {"accuracy", "f1", "precision",
        "recall"}, "avg": {...}}, "confusion": {task: K lists of K counts}, "checkpoints": {"best", "last"},
        "run_id"}``; ``result["predict"](images)`` labels new images.

    Raises:
        UsageError: An unknown setting, one that the loaders decide, or an argument that is not what it should be.
        DataError: A loader gives what can't be trained on.

        Whatever ends a training early, an interrupt included: the best epoch's weights are in ``checkpoint_folder``,
        and the error's ``result`` has the history.
    """
    chosen = {"backbone": model_name, "epochs": epochs, "learning_rate": learning_rate}
    chosen |= {"extra_plots": extra_plots, "save_checkpoints": save_checkpoints}
    loaders = {"train": train_loader, "val": val_loader, "test": test_loader}
    with _random_numbers_kept():
        brought = check(
            chosen | settings, asked=Asked(num_classes_dict, label_cols, set_cols), loaders=loaders, device=device,
            criterions=criterions, classes=classes, preprocess=preprocess, say=_say,
        )  # fmt: skip
        folder = Path(checkpoint_folder)
        files = loop.checkpoint_files(brought, folder) if save_checkpoints else None
        _say(_heading(brought))
        with (
            loop.kept(brought, files, folder, _say) as begun,
            _recorded(brought.settings) if mlflow else unrecorded() as run,
        ):
            setup, training = loop.begin(brought)
            begun.append(training)
            _log_settings(run, brought, setup, data_id)
            result = loop.train(brought, training, run, files, _say)
            _write_artifacts(run, brought, result, files)
            _log_scores(run, brought, setup, result, data_id)
            run.set_tags({"mlflow.note.content": run_summary.of_loaders(brought.used, result)})
    return trained.result_of(brought, result, files, run.run_id, setup.net)


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
        that fails, whatever the reason, has a row that says why, and no result; those of the others stay. After an
        interrupt what is finished is returned.

    Raises:
        UsageError, DataError: As ``train_and_evaluate_model``, by the first run.
    """
    backbones = [backbones] if isinstance(backbones, str) else list(backbones)
    modes = [modes] if isinstance(modes, str) else list(modes)
    for backbone in backbones:
        backbone_names.input_spec(backbone)  # a wrong name is an error before hours of training
    runs: dict[tuple[str, str], dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    for backbone, mode in product(backbones, modes):
        row = {"model": backbone, "mode": mode}
        try:
            result = train_and_evaluate_model(
                backbone, num_classes_dict, train_loader, val_loader, test_loader, device, criterions, label_cols,
                epochs=epochs, learning_rate=learning_rate, mode=mode, **settings,
            )  # fmt: skip
        except KeyboardInterrupt:
            if not runs:
                raise
            rows.append({**row, "status": "interrupted"})
            _say(f"{backbone}, {mode}: interrupted; what is finished is returned")
            break
        except Exception as error:  # a loader's or a criterion's, too: those are the user's own code
            if (
                not rows
                and isinstance(error, UsageError | DataError)
                and not isinstance(error, Diverged | loop.NotForThisNetwork)
            ):
                raise  # what the first run can't use, no run can
            _say(f"{backbone}, {mode}: {type(error).__name__}: {error}")
            rows.append({**row, "status": str(error) or type(error).__name__})
            continue
        result.forget()
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
    return open_run(
        "train", name=name, experiment=settings.experiment, folder=settings.run_folder, offline=settings.offline
    )


@contextlib.contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """Training seeds torch's generators; the user's go on as if it had not been."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


def _heading(brought: Brought) -> str:
    settings, size = brought.settings, " x ".join(map(str, brought.size))
    return (
        f"{settings.backbone}, {settings.mode}, {brought.device.type}: {settings.epochs} epochs of "
        f"{len(brought.loaders['train'])} batches of {settings.batch_size}, {size} px, {len(brought.tasks)} attributes"
    )


def _log_settings(run: Recorded, brought: Brought, setup: Setup, data_id: str | None) -> None:
    values = brought.used | setup.execution.to_json()
    durable.write_text(run.folder / "config.yaml", to_yaml(values))
    run.log_params(values)
    if data_id:
        run.set_tags({"fmtl.data": data_id})


def _log_scores(run: Recorded, brought: Brought, setup: Setup, result: TrainResult, data_id: str | None) -> None:
    """And the model, where it is known what its classes are called and how a photo becomes its input."""
    preprocess = brought.preprocess
    if not (brought.named and preprocess and data_id):
        run.log_metrics(result.final_metrics)
        return

    def save(folder: Path) -> None:
        pyfunc.save_model(
            folder, setup.net, backbone=brought.settings.backbone, tasks=brought.tasks, preprocess=preprocess
        )

    run.log_model(save, epoch=result.best_epoch, metrics=result.final_metrics)


def _say(line: str) -> None:
    print(line, flush=True)


def _write_artifacts(run: Recorded, brought: Brought, result: TrainResult, files: CheckpointFiles | None) -> None:
    """The run's files, and its pictures inline where this is a notebook."""
    display = notebook_display() if brought.settings.extra_plots else None
    if not run.is_recorded and display is None:
        return
    num = len(next(iter(result.test.targets.values())))
    rows = pd.DataFrame({"id": range(num), "path": [""] * num})  # loaders don't say
    for path in run_page.write(run.folder, result, rows=rows, draw=brought.settings.extra_plots):
        if display:
            from IPython.display import Image

            display(Image(path.read_bytes()))
    if files and run.is_recorded:
        (run.folder / "checkpoints").mkdir(exist_ok=True)
        for which in ("best", "last"):
            shutil.copy(files.path(which), run.folder / "checkpoints")
