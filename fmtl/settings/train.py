"""Settings of ``train``, what the two modes make of them, and the plan that comes of both."""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from fmtl.errors import UsageError
from fmtl.settings.fields import Device, Names, Place, Px, Seconds, Seed, Settings, by_name
from fmtl.tasks import check_name

if TYPE_CHECKING:
    from fmtl.loading.augment import Augmentation
    from fmtl.training.criterion import LossPlan
    from fmtl.training.setup import TrainPlan

TRIAL_BATCH = 32  # of the trial that finds the fastest way to run, where the batch size is to be found too


def is_model_address(weights: str) -> bool:
    """Whether ``weights`` names a model of a store, or a run that logged one."""
    return weights.startswith(("models:/", "runs:/")) or bool(re.fullmatch(r"[0-9a-f]{32}", weights))


class TrainSettings(Settings):
    """Settings of ``train``. ``with_mode`` fills in what depends on the mode, ``resolve`` makes a plan of them."""

    data: Place = Field("data/prepared", description="Folder of a prepared dataset.")
    allow_stale: bool = Field(False, description="Train although table or photos changed since prepare.")
    backbone: str = Field("convnext_tiny", description="A torchvision or timm classification model.")
    mode: Literal["tuned", "baseline"] = Field(
        "tuned",
        description="tuned: AdamW, OneCycle, two rates, clipping, photos mirrored, turned and their light changed; "
        "baseline: Adam at one constant rate.",
    )
    epochs: int = Field(12, ge=1, le=10_000, description="Passes over the training images.")
    budget: Seconds | None = Field(
        None,
        description="Instead of epochs: the longest time of the whole run, such as 90s, 10m or 1h30m; epochs, px and "
        "the bundled network are chosen for it, as far as they are not given.",
    )
    batch_size: Annotated[int, Field(ge=2, le=65_536)] | Literal["auto"] = Field(
        32, description="Images per batch, 2 at least for BatchNorm; auto: found by trial."
    )
    accumulate: int = Field(1, ge=1, le=1024, description="Batches whose gradients make one step.")
    learning_rate: float | None = Field(None, gt=0, le=10, description="The heads' peak rate.")
    backbone_lr_scale: float | None = Field(None, gt=0, le=1, description="The backbone's rate over the heads'.")
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="Rate of a backbone layer over that of the next one; 1: none."
    )
    optimizer: Literal["adamw", "adam"] | None = Field(None, description="What moves the weights.")
    weight_decay: float | None = Field(None, ge=0, le=10, description="Pull of the weights to zero; with adam, L2.")
    decay_norms: bool | None = Field(None, description="Norms and biases decay too.")
    schedule: Literal["onecycle", "cosine", "constant"] | None = Field(
        None, description="Learning rate over the steps."
    )
    warmup: float | None = Field(None, ge=0, lt=1, description="Share of the steps in which the rates rise.")
    clip_norm: float | None = Field(None, ge=0, description="Largest gradient norm; 0: none.")
    ema_decay: float | None = Field(
        None, ge=0, lt=1, description="Moving average of the weights, which is what is evaluated and kept; 0: none."
    )
    objective: Literal["both", "f1", "accuracy"] = Field(
        "both",
        description="What mode=tuned is for: with accuracy no class is weighed; f1 and accuracy also choose the epoch.",
    )
    choose_by: Literal["refined_loss", "loss", "f1", "accuracy"] | None = Field(
        None,
        description="The best epoch has the lowest validation loss, as it is (loss) or after one temperature per "
        "attribute has taken over-confidence out of it (refined_loss); or the highest macro-F1 or accuracy there.",
    )
    precision_at: float | None = Field(
        None,
        gt=0.5,
        lt=1,
        description="Of the labels that the model accepts, this share is to be right.",
    )
    patience: int = Field(0, ge=0, description="Epochs without a better one before stopping; 0: never.")
    label_smoothing: float | None = Field(None, ge=0, lt=1, description="Share of a target spread over all classes.")
    class_weights: float | None = Field(
        None, ge=0, le=1, description="Weight classes by this power of 1 / frequency; 0: equal, 1: balanced."
    )
    task_weights: str = Field(
        "equal", description="equal, uncertainty (learnt), or factors of tasks, such as 'Colour=2,Usage=0.5'."
    )
    augment: bool | None = Field(None, description="Mirror images, and what the next five settings say.")
    crop_scale: float | None = Field(
        None,
        ge=0.1,
        le=1,
        description="Smallest side of the crops over the photo's; needs augment. 1: whole photos.",
    )
    rotation: float | None = Field(None, ge=0, le=180, description="Largest turn in degrees; needs augment. 0: none.")
    colour_jitter: float | None = Field(
        None, ge=0, le=1, description="Strength: brightness, contrast, saturation, hue; needs augment. 0: none."
    )
    colour_tasks: Names | None = Field(
        None,
        description="Attributes that are colours: hues stay as they are; or none [default: named colour or color].",
    )
    policy: Literal["none", "trivial", "rand"] | None = Field(
        None, description="TrivialAugment or RandAugment; needs augment; with colour tasks, of shapes only."
    )
    mixup: float | None = Field(None, ge=0, le=10, description="Alpha of MixUp; 0: none.")
    cutmix: float | None = Field(None, ge=0, le=10, description="Alpha of CutMix; 0: none.")
    weights: str = Field(
        "imagenet",
        description="imagenet, none, bundled, the path of a state dict (of a checkpoint its backbone), or a model of "
        "one's own, whose heads are taken over too: models:/NAME@ALIAS, a train run's id, or a model folder.",
    )
    freeze: bool = Field(False, description="Train the heads only.")
    freeze_epochs: int = Field(0, ge=0, description="Train the heads only in this many first epochs.")
    cache_features: bool = Field(
        True, description="While the backbone is frozen, use features computed once, without augmentation."
    )
    px: Px | Literal["auto"] | None = Field(
        None,
        description="Side of the network's input; auto: the median of the photos' sides, in steps of 32 "
        "[default: the smaller of stored side and the weights' own].",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: the fastest here, by trial.")
    channels_last: bool | None = Field(None, description="Memory layout [default: the faster one here, by trial].")
    compile: bool = Field(False, description="torch.compile the backbone: minutes before the first step.")
    grad_checkpointing: bool = Field(False, description="Less memory for a third more time.")
    extra_plots: bool = Field(True, description="Draw plots; the numbers are written either way.")
    gallery: bool = Field(True, description="Error gallery and label suspects; takes most of an epoch.")
    sync_batchnorm: bool = Field(
        False, description="Under torchrun, BatchNorm over the images of all processes; slower."
    )
    save_checkpoints: bool = Field(True, description="Keep best and last checkpoints; false keeps the best in memory.")
    seed: Seed = Field(0, description="Seed of initialisation, order and augmentation.")
    device: Device = Field("auto", description="auto, cpu, cuda or cuda:N.")
    experiment: str | None = Field(
        None, description="MLflow experiment [default: MLFLOW_EXPERIMENT_ID or _NAME, else fmtl]."
    )
    run_name: str | None = Field(None, description="Name of the run [default: BACKBONE-MODE].")
    checkpoint_minutes: float = Field(
        5, ge=0, le=1440, description="Within an epoch, keep the state every so many minutes; 0: after each epoch only."
    )
    resume: str | None = Field(
        None, description="Train run to go on with: its id, its folder, or last for the one begun last."
    )
    extend_to: int | None = Field(
        None, ge=1, le=10_000, description="With resume: train on to so many epochs, in a run of its own."
    )
    fork: bool = Field(False, description="With resume: train on under changed settings, in a run of its own.")
    run_folder: Place | None = Field(
        None,
        description="Folder of the run, where its artifacts are not on this disk [default: runs/ID, here].",
    )
    offline: bool = Field(
        False, description="Ask no MLflow store, but for a model that is the start; fmtl sync delivers the run later."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "TrainSettings":
        if self.freeze and self.freeze_epochs:
            raise ValueError("freeze, freeze_epochs: give one of them, not both")
        if self.freeze_epochs >= self.epochs:
            raise ValueError(
                f"freeze_epochs: expected fewer than the {self.epochs} epochs, got {self.freeze_epochs}; "
                "freeze=true trains the heads only in all of them"
            )
        if self.budget is not None and "epochs" in self.model_fields_set:
            raise ValueError("budget, epochs: give one of them; the budget decides how many epochs there are")
        if self.budget is not None and self.num_frozen:
            raise ValueError("budget: it is for trainings of the whole network; leave freeze and freeze_epochs out")
        if self.budget is not None and self.resume:
            raise ValueError("budget: a run that goes on has its number of epochs; --extend-to gives it more")
        if (self.fork or self.extend_to is not None) and not self.resume:
            raise ValueError("fork, extend_to: they go on from a run; name it: --resume RUN, or --resume last")
        return self

    @property
    def num_frozen(self) -> int:
        """Epochs that train the heads only: the first ones, or all."""
        return self.epochs if self.freeze else self.freeze_epochs

    @property
    def leaves_network_open(self) -> bool:
        """Whether no network was asked for, so that a budget may choose one."""
        return not {"backbone", "weights"} & self.model_fields_set

    @property
    def defaults(self) -> dict[str, Any]:
        """Of what depends on mode and objective."""
        return MODES[self.mode] | (OBJECTIVES[self.objective] if self.mode == "tuned" else {})

    def with_mode(self) -> "TrainSettings":
        """The same with every default that depends on ``mode`` filled in.

        Raises:
            UsageError: Something is asked for that the mode has no use of.
        """
        filled = self.model_copy(update={k: v for k, v in self.defaults.items() if getattr(self, k) is None})
        if not filled.augment:
            still = {k: v for k, v in STILL.items() if getattr(self, k) is None}
            filled = filled.model_copy(update=still)
        if self.objective != "both" and self.mode == "baseline":
            raise UsageError("objective: mode=baseline is the same whatever counts; choose_by says what its epoch has")
        varied = [name for name, value in STILL.items() if getattr(filled, name) != value]
        if not filled.augment and (varied and (varied, filled.crop_scale) != (["crop_scale"], RECORDED_CROPS)):
            raise UsageError(
                f"{', '.join(varied)}: augment is false"
                + (", as mode=baseline has it by default" if self.augment is None else "")
                + "; give augment=true, or leave them out"
            )
        return filled

    def resolve(self, tasks: Sequence[str], *, px: int) -> "TrainPlan":
        """A training that is decided on, but for what the machine decides by trial.

        Args:
            tasks: Names of the attributes that are learnt.
            px: Side of the network's input.

        Raises:
            UsageError: A setting names a task that there is not, or something that the mode has no use of.
        """
        from fmtl.model.autotune import candidates
        from fmtl.model.backbones import NetworkPlan
        from fmtl.training.optim import Recipe
        from fmtl.training.setup import TrainPlan

        chosen = self.with_mode()
        return by_name(
            TrainPlan,
            chosen,
            network=by_name(NetworkPlan, chosen, px=px),
            loss=chosen._loss(tasks),
            recipe=by_name(Recipe, chosen),
            augmentation=chosen._augmentation(tasks) if chosen.augment else None,
            ways=candidates(chosen.precision, chosen.channels_last, chosen.compile),
            batch_size=TRIAL_BATCH if chosen.batch_size == "auto" else chosen.batch_size,
            find_batch_size=chosen.batch_size == "auto",
            frozen_epochs=chosen.num_frozen,
        )

    def _loss(self, tasks: Sequence[str]) -> "LossPlan":
        from fmtl.training.criterion import LossPlan

        learnt = self.task_weights == "uncertainty"
        factors = {} if learnt else _task_weights(self.task_weights, tasks)
        return by_name(LossPlan, self, task_weights=factors, learn_task_weights=learnt)

    def _augmentation(self, tasks: Sequence[str]) -> "Augmentation":
        from fmtl.loading.augment import Augmentation

        has_colours = bool(self._colour_tasks(tasks))
        return by_name(Augmentation, self, keep_hue=has_colours, keep_colour=has_colours)

    def _colour_tasks(self, tasks: Sequence[str]) -> list[str]:
        """Tasks whose labels a shift of hue would make wrong."""
        if self.colour_tasks is None:
            return [name for name in tasks if re.search("colou?r", name, re.IGNORECASE)]
        chosen = [name for name in self.colour_tasks if name != "none"]
        for name in chosen:
            check_name("colour_tasks", name, tasks)
        return chosen


def _task_weights(text: str, names: Sequence[str]) -> dict[str, float]:
    """'Colour=2, Usage=0.5' to factors by task name."""
    if text == "equal":
        return {}
    factors = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.rpartition("="))
        if not equals:
            raise UsageError(f"task_weights: expected equal, uncertainty or TASK=FACTOR, got '{part.strip()}'")
        check_name("task_weights", name, names)
        try:
            factors[name] = float(value)
        except ValueError:
            factors[name] = math.nan
        if not 0 <= factors[name] < math.inf:
            raise UsageError(f"task_weights: {name}: expected a number from 0 on, got '{value}'")
    return factors


MODES: dict[str, dict[str, Any]] = {
    "tuned": {
        "learning_rate": 3e-3,
        "optimizer": "adamw",
        "weight_decay": 1e-4,
        "decay_norms": True,
        "backbone_lr_scale": 0.1,
        "layer_decay": 1.0,
        "schedule": "onecycle",
        "warmup": 0.3,
        "clip_norm": 1.0,
        "ema_decay": 0.0,
        "choose_by": "refined_loss",
        "label_smoothing": 0.0,
        "class_weights": 0.0,
        "augment": True,
        "crop_scale": 1.0,
        "rotation": 10.0,
        "colour_jitter": 0.1,
        "policy": "none",
        "mixup": 0.0,
        "cutmix": 0.0,
    },
    "baseline": {
        "learning_rate": 1e-3,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "decay_norms": True,
        "backbone_lr_scale": 1.0,
        "layer_decay": 1.0,
        "schedule": "constant",
        "warmup": 0.0,
        "clip_norm": 0.0,
        "ema_decay": 0.0,
        "choose_by": "loss",
        "label_smoothing": 0.0,
        "class_weights": 0.0,
        "augment": False,
        "crop_scale": 0.75,
        "rotation": 0.0,
        "colour_jitter": 0.0,
        "policy": "none",
        "mixup": 0.0,
        "cutmix": 0.0,
    },
}

RECORDED_CROPS = 0.75  # by older versions, also where photos were not varied
# Of photos that are not varied.
STILL: dict[str, Any] = {"crop_scale": 1.0, "rotation": 0.0, "colour_jitter": 0.0, "policy": "none"}

# What an objective makes of mode=tuned.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "both": {},
    "f1": {"class_weights": 0.5, "choose_by": "f1"},
    "accuracy": {"class_weights": 0.0, "choose_by": "accuracy"},
}
