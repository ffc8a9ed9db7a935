"""A training on loaders that a notebook brings: how it begins, goes on, and what is left of it if it ends early."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from fmtl.commands import publisher
from fmtl.commands.bringing import trained
from fmtl.commands.bringing.brought import Brought
from fmtl.commands.choosing import inherited
from fmtl.commands.publisher import CheckpointFiles, Keeper
from fmtl.errors import DataError, EnvironmentFault
from fmtl.loading.pacing import Paced
from fmtl.metric_names import EPOCH
from fmtl.storage import durable
from fmtl.tasks import IGNORE_INDEX
from fmtl.tracking.recording import Recorded
from fmtl.training import checkpoints
from fmtl.training.criterion import answer_counts
from fmtl.training.progress import one_bar, watch
from fmtl.training.run import Training, TrainResult
from fmtl.training.setup import Setup, set_up
from fmtl.training.stages import of_loaders

log = logging.getLogger(__name__)

Say = Callable[[str], object]


class NotForThisNetwork(DataError):
    """What the loaders give is fine, but not for this network."""


def begin(brought: Brought) -> tuple[Setup, Training]:
    """Raises DataError where the network does not take the images' size; else as ``set_up``."""
    earlier, settings = inherited.find(brought.settings)
    assert isinstance(settings.px, int)
    setup = set_up(
        settings.resolve(brought.tasks.names, px=settings.px),
        brought.tasks,
        device=brought.device,
        num_images=0,  # of no use: the loaders decide on the batch size
        counts=_counts(brought),
        criterions=brought.criterions,
    )
    if earlier:
        for line in earlier.take_over(setup.net, setup.tasks):
            log.info("%s", line)
    if brought.size[0] != brought.size[1]:
        _try_size(setup, brought)
    stages = of_loaders(setup, brought.loaders)
    return setup, Training(
        setup.net, brought.tasks, stages, loss=setup.loss, device=brought.device, choose_by=setup.plan.choose_by
    )


@torch.no_grad()
def _try_size(setup: Setup, brought: Brought) -> None:
    """Raise DataError where a network takes squares only."""
    try:
        setup.net.eval().logits(torch.zeros(1, 3, *brought.size, device=setup.device))
    except (RuntimeError, AssertionError, ValueError) as error:
        size = " x ".join(map(str, brought.size))
        raise NotForThisNetwork(
            f"{brought.settings.backbone} does not take images of {size} ({error}); give squares, or choose a CNN",
            where="loaders",
        ) from error


def _counts(brought: Brought) -> dict[str, Tensor]:
    """Training images of each class of the tasks whose classes are weighed, and of sets: one pass over the training
    loader."""
    weighed = bool(brought.settings.class_weights)
    wanted = [task for task in brought.tasks if task.is_set or (weighed and task.name not in brought.criterions)]
    if not wanted:
        return {}
    shapes = {task.name: (task.num_classes, 2) if task.is_set else (task.num_classes,) for task in wanted}
    counts = {name: torch.zeros(shape, dtype=torch.int64) for name, shape in shapes.items()}
    state = torch.random.get_rng_state()
    for _, targets in watch(Paced(brought.loaders["train"]), "class counts"):
        for task in wanted:
            found = targets[task.name].cpu()
            counts[task.name] += (
                answer_counts(found)
                if task.is_set
                else torch.bincount(found[found != IGNORE_INDEX], minlength=task.num_classes)
            )
    torch.random.set_rng_state(state)
    return counts


def checkpoint_files(brought: Brought, folder: Path) -> CheckpointFiles:
    """Where the checkpoints go. Raises EnvironmentFault where that can't be written."""
    settings = brought.settings
    try:
        durable.check_writable(folder)
    except EnvironmentFault as error:
        raise EnvironmentFault(f"checkpoint_folder: {error}; name a folder that can be written") from error
    return _files(brought, folder / f"{settings.backbone}_{settings.mode}")


def _files(brought: Brought, stem: Path) -> CheckpointFiles:
    how = {"preprocess": brought.preprocess.to_json()} if brought.preprocess else {}
    return CheckpointFiles(stem, brought.used | how)


def train(brought: Brought, training: Training, run: Recorded, files: CheckpointFiles | None, say: Say) -> TrainResult:
    """Train, and test the best epoch.

    Args:
        files: Checkpoints of every epoch.
    """
    settings = brought.settings
    publishers = [publisher.metrics_to(run)]
    if settings.extra_plots and run.is_recorded:
        publishers.append(publisher.frames_to(run, brought.tasks))
    publishers.append(publisher.lines_to(say, settings.epochs, training.history.chosen_by))
    try:
        with one_bar():
            publisher.publish(
                training, publishers, keeper=Keeper(files, training, more={}) if files else None,
                on_skip=publisher.skipped_to(run.folder / "skipped"),
            )  # fmt: skip
            if files:
                files.settle()
            return training.finish(brought.loaders["test"], watch)
    except Exception as error:
        if (named := _named(error, brought)) is error:
            raise
        raise named from error


@contextlib.contextmanager
def kept(brought: Brought, files: CheckpointFiles | None, folder: Path, say: Say) -> Iterator[list[Training]]:
    """Whatever ends what is within: the best epoch's weights are on disk, and the error has the history.

    Yields a list that the training is put into when it begins.

    Args:
        files: Checkpoints of every epoch, where they are written.
        folder: Where the weights are kept if they are not.
    """
    begun: list[Training] = []
    try:
        yield begun
    except BaseException as error:
        for training in begun:
            _keep(training, brought, files, folder, error, say)
        raise


def _named(error: Exception, brought: Brought) -> Exception:
    """The network's own words about a batch as an error that names the loader."""
    if isinstance(error, ValueError) and "more than 1 value per channel" in str(error):  # torch's words, of BatchNorm
        return NotForThisNetwork(
            "a batch has 1 image, of which BatchNorm sees one value per channel; DataLoader(..., drop_last=True) "
            "leaves such a rest out",
            where="train_loader",
        )
    other = next((loader.other_shape for loader in brought.loaders.values() if loader.other_shape), "")
    is_memory = isinstance(error, torch.OutOfMemoryError)
    if other and isinstance(error, RuntimeError | AssertionError | ValueError) and not is_memory:
        return NotForThisNetwork(f"{other}: {error}")
    return error


def _keep(
    training: Training,
    brought: Brought,
    files: CheckpointFiles | None,
    folder: Path,
    error: BaseException,
    say: Say,
) -> None:
    """Of a training that ends early, keep the best weights on disk, and give the error the history."""
    if not training.history.rows:
        return
    best = training.history.best
    kept = files.path("best") if files and _holds(files.path("best"), best[EPOCH]) else None
    if kept is None:
        settings = brought.settings
        stem = folder / f"{settings.backbone}_{settings.mode}_{time.strftime('%Y%m%d-%H%M%S')}"
        try:
            _files(brought, stem).save_best(training.best_weights, brought.tasks, best)
        except EnvironmentFault as fault:
            say(f"warning: the best epoch's weights could not be kept: {fault}")
        else:
            kept = stem.with_name(f"{stem.name}_best.pt")
    history = trained.history_of(brought, training.history.rows)
    paths = {"best": str(kept) if kept else None, "last": str(files.path("last")) if files else None}
    error.result = {"history": history, "best_epoch": best[EPOCH], "checkpoints": paths}  # type: ignore[attr-defined]
    if kept:
        say(f"the best of {len(history)} epochs is kept: {kept}; the error's .result has their history")


def _holds(checkpoint: Path, epoch: int) -> bool:
    """Whether it is whole and of that epoch."""
    try:
        return checkpoints.load(checkpoint).epoch == epoch
    except DataError:
        return False
