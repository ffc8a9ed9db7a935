"""Names of metrics as MLflow, files and tables have them: ``val/avg/f1`` is made and read here only.

A name is a split, a task's slug or ``avg``, and a score: ``test/Colour/f1``. What is logged once, of the best epoch,
has ``best/`` in front.
"""

from collections.abc import Iterable, Mapping, Sequence

from fmtl.tasks import AVERAGE, Task

SCORES = ("accuracy", "f1", "precision", "recall")
SET_SCORES = ("micro_f1", "jaccard")  # that sets have besides
EPOCH, TRAIN_LOSS, VAL_LOSS = "epoch", "train/loss", "val/loss"
REFINED_LOSS = "val/refined_loss"  # what is left of val/loss under the best temperature of each task
SKIPPED_STEPS = "train/skipped_steps"  # of an epoch, where there were any: their loss or gradient was not finite
BEST, BEST_EPOCH = "best/", "best/epoch"
LEARNING_RATE = "learning_rate/"
# They tell of the machine, not the network: of an epoch, and of a whole run.
SPEED = "cost/train_images_per_second_per_device"  # a GPU, or a core that computes: mean over the epochs
PACE = ("images_per_second", "data_share", "epoch_seconds", "cost/minutes", "cost/images_per_second", SPEED)
# What a model costs: weights, megabytes of its file, minutes of its epochs, photos labelled in a second when decoded.
COSTS = ("cost/parameters", "cost/mb", "cost/minutes", "cost/images_per_second")
CHOSEN_BY = "best/val/avg/f1"  # runs are ranked by it: chosen on validation, reported on test


def loss(split: str, task: Task | None = None) -> str:
    """Of all tasks together, or of one."""
    return f"{split}/{task.slug}/loss" if task else f"{split}/loss"


def score(split: str, task: Task | None, name: str) -> str:
    """A task's score, or (None) the average over tasks."""
    return f"{split}/{task.slug if task else AVERAGE}/{name}"


# What an epoch can be chosen by: the metric of a choice, and what people call it.
BY_CHOICE = {
    "loss": VAL_LOSS,
    "refined_loss": REFINED_LOSS,
    "f1": score("val", None, "f1"),
    "accuracy": score("val", None, "accuracy"),
}
_IN_WORDS = {
    BY_CHOICE["loss"]: "validation loss",
    BY_CHOICE["refined_loss"]: "refined validation loss",
    BY_CHOICE["f1"]: "validation macro-F1",
    BY_CHOICE["accuracy"]: "validation accuracy",
}


def called(chosen_by: str) -> str:
    """What people call a metric that an epoch can be chosen by."""
    return _IN_WORDS[chosen_by]


def in_words(chosen_by: str, *, more: bool = False) -> str:
    """What the best epoch has, such as ``lowest validation loss``.

    Args:
        more: What a better one would have: ``lower validation loss``.
    """
    ends = ("lower", "higher") if more else ("lowest", "highest")
    return f"{ends[not is_loss(chosen_by)]} {called(chosen_by)}"


def cost(metrics: Mapping[str, float], chosen_by: str) -> float:
    """What the best epoch has the lowest of: a loss, or a score with its sign turned."""
    return metrics[chosen_by] if is_loss(chosen_by) else -metrics[chosen_by]


def temperature(task: Task) -> str:
    """Of a task, fitted on the validation split."""
    return f"val/{task.slug}/temperature"


def calibration_error(split: str, task: Task) -> str:
    """Expected calibration error of a task."""
    return f"{split}/{task.slug}/ece"


def averages(split: str) -> list[str]:
    return [score(split, None, name) for name in SCORES]


def best(name: str) -> str:
    """The name under which the best epoch's value is logged once."""
    return BEST + name


def of_val(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those of some metrics that are of the validation split."""
    return {name: value for name, value in metrics.items() if name.startswith("val/")}


def of_end(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those of some metrics that are logged once, at the end of a training."""
    return {name: value for name, value in metrics.items() if name.startswith((BEST, "test/"))}


def is_loss(name: str) -> bool:
    """Whether less is better."""
    return name.endswith("loss")


def test_f1s(names: Iterable[str]) -> list[str]:
    """Those of some names that are a macro-F1 on the test split, sorted."""
    return sorted({name for name in names if name.startswith("test/") and name.endswith("/f1")})


def learning_rates(rates: Mapping[str, float]) -> dict[str, float]:
    """Rates by group as metrics."""
    return {f"{LEARNING_RATE}{group}": rate for group, rate in rates.items()}


def rate_groups(names: Iterable[str]) -> dict[str, str]:
    """Group by name, of those names that are learning rates."""
    return {name: name.removeprefix(LEARNING_RATE) for name in names if name.startswith(LEARNING_RATE)}


def of_split(
    split: str,
    *,
    total_loss: float,
    task_losses: Mapping[str, float],
    scores: Mapping[str, Mapping[str, float]],
    tasks: Sequence[Task],
) -> dict[str, float]:
    """An evaluation's numbers by name: ``val/loss``, ``val/avg/f1``, ``val/<slug>/f1``, ``val/<slug>/loss``, ...

    Args:
        task_losses: By task name.
        scores: By task name, and the averages under ``avg``.
    """
    named = {loss(split): total_loss}
    for task in (None, *tasks):
        key = task.name if task else AVERAGE
        named |= {score(split, task, name): value for name, value in scores[key].items()}
        if task and task.name in task_losses:
            named[loss(split, task)] = task_losses[task.name]
    return named
