"""Settings of every command: names, defaults, units and ranges; YAML files to validated settings.

Values arrive as text from the command line and from YAML alike and are read by the same rules, so ``1e-4``
is a number and ``no`` stays text wherever text is expected.
"""

import functools
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from fmtl.errors import UsageError, first_ten


def _split_list(value: Any) -> Any:
    """'a, b' to ('a', 'b'): lists are typed with commas on the command line."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split_list)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Px = Annotated[int, Field(ge=16, le=2048)]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,200}$")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


LARGE = 1e6  # a limit beyond is of the format and not worth a word
DEFAULT_MODEL_NAME = "fashion-attributes"
DEFAULT_ALIAS = "champion"


class Settings(BaseModel):
    """Base of all settings: immutable, and unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class PrepareSettings(Settings):
    """Settings of ``prepare``."""

    table: str = Field(description="Product table: CSV, Parquet, folder of Parquet files; or 'sample': draw one.")
    images: str | None = Field(None, description="Image folder [default: 'images' beside the table, else its folder].")
    image_col: str | None = Field(None, description="Column of image paths below the image folder [default: found].")
    id_col: str | None = Field(None, description="Column of product ids [default: id or product id, else image path].")
    image_template: str | None = Field(None, description="Image path built from columns, such as '{id}.jpg'.")
    label_cols: Names = Field((), description="Label columns, comma list [default: all that are suitable].")
    preset: Literal["kaggle-fashion"] | None = Field(None, description="Columns and blanks of a known catalogue.")
    missing: Names = Field((), description="Spellings, besides nothing at all, that mean a blank; comma list.")
    encoding: str | None = Field(None, description="Of a CSV [default: UTF-8, or UTF-16 by its mark].")
    quotes: bool = Field(True, description="Whether double quotes enclose text in a CSV.")
    casefold: bool = Field(False, description="Labels that differ only by case are one class.")
    rare: Literal["train_only", "other", "drop"] = Field(
        "train_only", description="Rare classes: all in train; one class 'other'; or no label."
    )
    min_class_images: int = Field(3, ge=1, description="A class with fewer distinct images is rare.")
    group_col: str | None = Field(None, description="Rows that share this column's value stay in one split.")
    group_near_duplicates: bool = Field(False, description="Images that look the same stay in one split.")
    split_col: str | None = Field(None, description="Column that says train, val or test [default: drawn].")
    checksum_col: str | None = Field(None, description="Column of md5, sha1 or sha256 that an image file must have.")
    out: str = Field("data/prepared", description="Folder of the prepared dataset.")
    reuse: bool = Field(True, description="Images in the dataset at out that have not changed are not decoded again.")
    workers: int | None = Field(None, ge=1, le=1024, description="Decoding processes [default: one per processor].")
    px: Px = Field(256, description="Side of the stored square, pixels.")
    fit: Literal["pad", "crop", "stretch"] = Field("pad", description="How an image becomes square.")
    background: str = Field("#ffffff", pattern=r"^#[0-9a-fA-F]{6}$", description="Fill behind padding and alpha.")
    val_fraction: Fraction = Field(0.15, description="Share of the images in val.")
    test_fraction: Fraction = Field(0.15, description="Share of the images in test.")
    max_reject_fraction: float = Field(0.5, ge=0, le=1, description="Above this share of rejected rows: fail.")
    seed: Seed = Field(0, description="Seed of the split (and of the sample's drawing).")

    @model_validator(mode="after")
    def _consistent(self) -> "PrepareSettings":
        if len(set(self.label_cols)) < len(self.label_cols):
            raise ValueError(f"label_cols: a column is named twice in {', '.join(self.label_cols)}")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction: expected a sum below 1, nothing is left for training")
        if self.image_col and self.image_template:
            raise ValueError("image_col, image_template: give one of them, not both")
        return self


class TrainSettings(Settings):
    """Settings of ``train``. ``resolved`` fills in what depends on the mode."""

    data: str = Field("data/prepared", description="Folder of a prepared dataset.")
    allow_stale: bool = Field(False, description="Train although table or photos changed since prepare.")
    backbone: str = Field("convnext_tiny", description="A torchvision or timm classification model.")
    mode: Literal["tuned", "baseline"] = Field(
        "tuned",
        description="tuned: AdamW, OneCycle, two rates, clipping, crops, rare classes weighted, labels smoothed; "
        "baseline: Adam at one constant rate.",
    )
    epochs: int = Field(12, ge=1, le=10_000, description="Passes over the training images.")
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
    patience: int = Field(0, ge=0, description="Epochs without a lower validation loss before stopping; 0: never.")
    label_smoothing: float | None = Field(None, ge=0, lt=1, description="Share of a target spread over all classes.")
    class_weights: float | None = Field(
        None, ge=0, le=1, description="Weight classes by this power of 1 / frequency; 0: equal, 1: balanced."
    )
    task_weights: str = Field(
        "equal", description="equal, uncertainty (learnt), or factors of tasks, such as 'Colour=2,Usage=0.5'."
    )
    augment: bool | None = Field(None, description="Random crops and mirror images.")
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
    weights: str = Field("imagenet", description="imagenet, none, bundled, or the path of a state dict.")
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
    save_checkpoints: bool = Field(True, description="Keep best and last checkpoints; false keeps the best in memory.")
    seed: Seed = Field(0, description="Seed of initialisation, order and augmentation.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N.")
    experiment: str | None = Field(
        None, description="MLflow experiment [default: MLFLOW_EXPERIMENT_ID or _NAME, else fmtl]."
    )
    run_name: str | None = Field(None, description="Name of the run [default: BACKBONE-MODE].")
    resume: str | None = Field(None, description="Id of an interrupted train run to continue.")

    @model_validator(mode="after")
    def _consistent(self) -> "TrainSettings":
        if self.freeze and self.freeze_epochs:
            raise ValueError("freeze, freeze_epochs: give one of them, not both")
        if self.freeze_epochs >= self.epochs:
            raise ValueError(
                f"freeze_epochs: expected fewer than the {self.epochs} epochs, got {self.freeze_epochs}; "
                "freeze=true trains the heads only in all of them"
            )
        return self

    @property
    def num_frozen(self) -> int:
        """Epochs that train the heads only: the first ones, or all."""
        return self.epochs if self.freeze else self.freeze_epochs

    def resolved(self) -> "TrainSettings":
        """The same with every default that depends on ``mode`` filled in."""
        chosen = {k: v for k, v in MODES[self.mode].items() if getattr(self, k) is None}
        return self.model_copy(update=chosen)


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
        "label_smoothing": 0.1,
        "class_weights": 0.5,
        "augment": True,
        "colour_jitter": 0.0,
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
        "label_smoothing": 0.0,
        "class_weights": 0.0,
        "augment": False,
        "colour_jitter": 0.0,
        "policy": "none",
        "mixup": 0.0,
        "cutmix": 0.0,
    },
}


with warnings.catch_warnings():
    # pydantic warns that 'register' hides abc.ABCMeta.register, which no one calls on settings.
    warnings.filterwarnings("ignore", message='Field name "register"')

    class CompareSettings(Settings):
        """Settings of ``compare``."""

        experiment: str | None = Field(None, description="MLflow experiment [default: every one that has train runs].")
        metric: str = Field("best/val/avg/f1", description="Metric to rank by; one that ends in 'loss' ranks upwards.")
        data: str | None = Field(None, description="Only runs on this dataset: a folder or (the start of) a digest.")
        top: int = Field(20, ge=1, description="Rows shown on the terminal, per dataset.")
        out: str = Field("leaderboard", description="Folder of the leaderboard files.")
        register: ModelName | None = Field(None, description="Register the best under this model name.")


class RegisterSettings(Settings):
    """Settings of ``register``."""

    run: str = Field("best", description="Id of a train run, or 'best'.")
    name: ModelName = Field(DEFAULT_MODEL_NAME, description="Registered model.")
    alias: str = Field(
        DEFAULT_ALIAS,
        pattern=r"^[A-Za-z_-][A-Za-z0-9_-]{0,100}$",
        description="Alias that moves to the version.",
    )
    experiment: str | None = Field(None, description="Where 'best' looks [default: every one that has train runs].")
    metric: str = Field("best/val/avg/f1", description="What 'best' ranks by.")

    @field_validator("alias")
    @classmethod
    def _not_reserved(cls, alias: str) -> str:
        if alias == "latest" or re.fullmatch(r"[vV]\d+", alias):
            raise ValueError("a name that MLflow does not reserve (it has 'latest' and 'v1', 'v2', ...)")
        return alias


class PredictSettings(Settings):
    """Settings of ``predict``."""

    model: str = Field(description="models:/NAME@ALIAS, models:/NAME/VERSION, a train run's id, or a model folder.")
    images: str = Field(
        description="Image files (comma list), a folder (read recursively in sorted order), or a CSV or Parquet table."
    )
    image_col: str | None = Field(None, description="The table's image column [default: found].")
    out: str = Field("predictions.csv", pattern=r"\.(csv|parquet)$", description="Predictions, .csv or .parquet.")
    top_k: int = Field(1, ge=1, le=500, description="Labels per task.")
    batch_size: int = Field(32, ge=1, le=65_536, description="Images per step.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N.")
    precision: Literal["model", "fp32", "bf16"] = Field("model", description="model: the one it was trained in.")


class MainSettings(Settings):
    """Settings of ``main``."""

    backbone: str = Field("tf_efficientnet_lite0", description="Backbone of both runs.")
    weights: str = Field("bundled", description="As in train.")
    epochs: int = Field(14, ge=1, description="Epochs of both runs.")
    px: Px = Field(128, description="Side of the network's input.")
    data: str = Field("data/sample", description="Folder for the prepared sample.")
    out: str = Field("leaderboard", description="Folder of the leaderboard files.")
    seed: Seed = Field(0, description="Seed of everything.")


def default_text(kind: type[Settings], name: str) -> str:
    """A setting's default as help and docs show it; empty where there is none, or its description says it."""
    if kind is TrainSettings and name in MODES["tuned"]:
        by_mode = {mode: _as_typed(values[name]) for mode, values in MODES.items()}
        if len(set(by_mode.values())) > 1:
            return ", ".join(f"{value} ({mode})" for mode, value in by_mode.items())
        return by_mode["tuned"]
    field = kind.model_fields[name]
    return "" if field.is_required() or field.default in (None, ()) else _as_typed(field.default)


def allowed_text(kind: type[Settings], name: str) -> str:
    """The values a setting may have, such as ``2 to 65536, auto``; empty for free text and for yes or no."""
    schema = _schema(kind)[name]
    return ", ".join(filter(None, map(_allowed, schema.get("anyOf", [schema]))))


@functools.cache
def _schema(kind: type[Settings]) -> dict[str, dict]:
    return kind.model_json_schema()["properties"]


def _allowed(part: Mapping[str, Any]) -> str:
    """One of a setting's types, as JSON Schema has it."""
    if "enum" in part or "const" in part:
        return ", ".join(part.get("enum") or [part["const"]])
    low = _bounds(part, minimum="{:g}", exclusiveMinimum="above {:g}")
    high = _bounds(part, maximum="to {:g}", exclusiveMaximum="to below {:g}")
    return f"{low} {high}".strip() if high or not low else f"{low} or more"


def _bounds(part: Mapping[str, Any], **texts: str) -> str:
    return "".join(text.format(part[name]) for name, text in texts.items() if part.get(name, inf) < LARGE)


def _as_typed(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Given:
    """A value as the user gave it, and where, for messages."""

    value: Any
    where: str


def build(kind: type[Settings], *layers: Mapping[str, Given]) -> Settings:
    """Settings from layers, the first one winning.

    Raises:
        UsageError: Naming every unknown name, wrong type and value out of range at once.
    """
    settings, problems = _try(kind, *layers)
    _raise(problems)
    return settings


def build_from_file(kind: type[Settings], given: Mapping[str, Given], path: Path) -> list[Settings]:
    """Settings from a YAML file under what was given besides; one per entry of its ``variants``, or one.

    Raises:
        UsageError: Naming every problem of the whole file at once.
    """
    file = _parse(path)
    tried = [_try(kind, given, variant, file.base) for variant in file.variants or [{}]]
    _raise(list(dict.fromkeys([*file.problems, *(problem for _, problems in tried for problem in problems)])))
    return [settings for settings, _ in tried]


def _raise(problems: list[str]) -> None:
    if problems:
        raise UsageError("settings:\n" + first_ten(problems))


def _try(kind: type[Settings], *layers: Mapping[str, Given]) -> tuple[Settings | None, list[str]]:
    given = {k: v for layer in reversed(layers) for k, v in layer.items()}
    known = {k: v for k, v in given.items() if k in kind.model_fields}
    problems = [_unknown(k, v.where, kind.model_fields) for k, v in given.items() if k not in known]
    try:
        return kind.model_validate({k: _none_if_null(kind, k, v.value) for k, v in known.items()}), problems
    except ValidationError as error:
        return None, problems + [_sentence(item, known) for item in error.errors()]


def _none_if_null(kind: type[Settings], name: str, value: Any) -> Any:
    optional = kind.model_fields[name].default is None
    return None if optional and value in ("", "null", "~") else value


def _unknown(name: str, where: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    return f"{where}: unknown setting '{name}'; {hint}"


def _sentence(item: Mapping, given: Mapping[str, Given]) -> str:
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if not item["loc"]:
        return message
    name = str(item["loc"][0])
    if item["type"] == "missing":
        return f"{name}: required, not given"
    where = given[name].where
    where = where if where.startswith("--") else f"{where}: {name}"
    return f"{where}: expected {message.split(', unable')[0]}, got {given[name].value!r}"


class _TextLoader(yaml.BaseLoader):
    """YAML where every scalar stays text; aliases and tags, which configs don't need, are refused."""

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            what = "an alias" if isinstance(event, yaml.AliasEvent) else f"the tag {event.tag}"
            raise yaml.MarkedYAMLError(problem=f"{what} is not allowed here", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


@dataclass(frozen=True)
class ConfigFile:
    """A YAML file as it was found: its top level, its variants, and what is wrong with its form."""

    base: dict[str, Given]
    variants: list[dict[str, Given]]
    problems: list[str]


def _parse(path: Path) -> ConfigFile:
    """Read a file; only what stops the reading itself is raised."""
    try:
        root = yaml.compose(path.read_text(), Loader=_TextLoader)
    except OSError as error:
        raise UsageError(f"config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise UsageError(f"config {path}:{line} {getattr(error, 'problem', None) or error}") from error
    problems: list[str] = []
    base = _mapping(root, path, problems) if root else {}
    layers = []
    if variants := base.pop("variants", None):
        entries = variants.value.value if isinstance(variants.value, yaml.SequenceNode) else []
        if not entries:
            problems.append(f"{variants.where}: variants: expected a list of mappings")
        layers = [_mapping(entry, path, problems) for entry in entries]
    plain = [{k: _plain(v) for k, v in layer.items()} for layer in (base, *layers)]
    return ConfigFile(plain[0], plain[1:], problems)


def _mapping(node: yaml.Node, path: Path, problems: list[str]) -> dict[str, Given]:
    if not isinstance(node, yaml.MappingNode):
        problems.append(f"{path.name} line {node.start_mark.line + 1}: expected 'name: value' lines")
        return {}
    found: dict[str, Given] = {}
    for key, value in node.value:
        where = f"{path.name} line {key.start_mark.line + 1}"
        name = str(key.value).replace("-", "_")
        if name in found:
            problems.append(f"{where}: '{name}' is given twice, first on {found[name].where.removeprefix(path.name)}")
        found[name] = Given(value, where)
    return found


def _plain(item: Given) -> Given:
    node = item.value
    if isinstance(node, yaml.SequenceNode):
        return Given([str(entry.value) for entry in node.value], item.where)
    return Given("(a mapping)" if isinstance(node, yaml.MappingNode) else node.value, item.where)


def to_yaml(values: Mapping[str, Any]) -> str:
    """Settings by name, as JSON has them, as a YAML file that ``build_from_file`` reads back."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
