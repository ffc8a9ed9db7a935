"""Settings of every command: names, defaults, units and ranges. Nothing heavy is imported before ``resolve``."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from fmtl.metric_names import CHOSEN_BY
from fmtl.settings.delivery import MODEL, ExportSettings, ServeSettings
from fmtl.settings.fields import (
    Alias,
    Device,
    Files,
    Floors,
    Force,
    Fraction,
    IfBetter,
    Margin,
    ModelName,
    Names,
    Part,
    Place,
    Px,
    Rules,
    Seconds,
    Seed,
    Settings,
    by_name,
)
from fmtl.settings.train import TrainSettings

if TYPE_CHECKING:
    from fmtl.dataset.draft import PreparePlan

__all__ = [
    "CleanSettings", "CompareSettings", "DoctorSettings", "EvaluateSettings", "ExportSettings", "FetchSettings",
    "HistorySettings", "JoinSettings", "MainSettings", "PredictSettings", "PrepareSettings", "RegisterSettings",
    "RollbackSettings", "ServeSettings", "Settings", "SweepSettings", "SyncSettings", "TrainSettings",
]  # fmt: skip

DEFAULT_MODEL_NAME = "fashion-attributes"
DEFAULT_ALIAS = "champion"
DISAGREEMENTS = "disagreements.csv"


def _check_spellings(missing: tuple[str, ...], not_applicable: tuple[str, ...]) -> None:
    if both := set(missing) & set(not_applicable):
        raise ValueError(f"missing, not_applicable: '{min(both)}' is in both; either it is not known or does not apply")


class PrepareSettings(Settings):
    """Settings of ``prepare``."""

    table: Place = Field(description="Product table: CSV, Excel, JSON, Parquet or a folder of it; 'sample': draw one.")
    test_table: Place | None = Field(None, description="A second table, whose rows are the test split.")
    sheet: str | None = Field(None, description="Of a workbook [default: the first that has rows].")
    images: Place | None = Field(None, description="Image folder [default: 'images' by the table, or its folder].")
    follow_links: bool = Field(False, description="Photos may be links that lead out of the image folder.")
    image_col: str | None = Field(None, description="Column of image paths below the image folder [default: found].")
    id_col: str | None = Field(None, description="Column of product ids [default: id or product id, else image path].")
    image_template: str | None = Field(None, description="Image path built from columns, such as '{id}.jpg'.")
    label_cols: Names = Field((), description="Label columns, comma list [default: all that are suitable].")
    first_value: Names = Field((), description="Columns of several values in a cell: the first counts; comma list.")
    set_cols: Names = Field((), description="Columns that are sets of values, all of which count; comma list.")
    sets: Literal["named", "auto"] = Field("named", description="auto: every column that looks like a set is one.")
    preset: Literal["kaggle-fashion"] | None = Field(None, description="Columns and blanks of a known catalogue.")
    missing: Names = Field((), description="Spellings, besides nothing at all, that mean a blank; comma list.")
    not_applicable: Names = Field((), description="Spellings that mean: it does not apply to the product; comma list.")
    applies: Rules = Field(
        {}, description="Attributes that some products have: {Heel: {ProductType: [Sandals, Heels]}}."
    )
    encoding: str | None = Field(None, description="Of a CSV or JSON [default: by its mark, UTF-8, or guessed].")
    quotes: bool = Field(True, description="Whether double quotes enclose text in a CSV.")
    casefold: bool = Field(False, description="Labels that differ only by case are one class.")
    rare: Literal["train_only", "other", "drop"] = Field(
        "train_only", description="Rare classes: all in train; one class 'other'; or no label."
    )
    min_class_images: int = Field(3, ge=1, description="A class with fewer distinct images is rare.")
    group_col: str | None = Field(
        None, description="Rows of one value stay in one split; none: nothing [default: found]."
    )
    group_near_duplicates: bool = Field(False, description="Images that look the same stay in one split.")
    split_col: str | None = Field(None, description="Column of train, val, test; none: drawn [default: found].")
    checksum_col: str | None = Field(None, description="Column of md5, sha1 or sha256 that an image file must have.")
    part: Part | None = Field(
        None, description="A share of the rows, such as 2/4, decoded for fmtl join; out is the folder of the part."
    )
    limit: int | None = Field(None, ge=1, description="About so many rows, each class in its share, for a first try.")
    out: Place = Field("data/prepared", description="Folder of the prepared dataset.")
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
        if both := set(self.set_cols) & set(self.first_value):
            raise ValueError(f"set_cols, first_value: '{min(both)}' is named in both; either all values count or one")
        _check_spellings(self.missing, self.not_applicable)
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction: expected a sum below 1, nothing is left for training")
        if self.image_col and self.image_template:
            raise ValueError("image_col, image_template: give one of them, not both")
        return self

    def resolve(self) -> "PreparePlan":
        """What is done, as the code that does it takes it."""
        from fmtl.dataset.draft import PreparePlan
        from fmtl.dataset.places import the_table

        return by_name(PreparePlan, self, table=the_table(self.table))


class FetchSettings(Settings):
    """Settings of ``fetch``."""

    table: Place = Field(description="Product table that has the photos' addresses.")
    column: str = Field(description="Column of http or https addresses.")
    out: Place = Field(description="Folder for the photos, and for fetched.csv, which prepare reads.")
    allow_private: bool = Field(False, description="Addresses of this machine and private networks may be asked.")
    encoding: str | None = Field(None, description="Of a CSV or JSON [default: by its mark, UTF-8, or guessed].")
    sheet: str | None = Field(None, description="Of a workbook [default: the first that has rows].")


with warnings.catch_warnings():
    # pydantic warns that 'register' hides abc.ABCMeta.register, which no one calls on settings.
    warnings.filterwarnings("ignore", message='Field name "register"')

    class CompareSettings(Settings):
        """Settings of ``compare``."""

        experiment: str | None = Field(None, description="MLflow experiment [default: every one that has train runs].")
        metric: str = Field(CHOSEN_BY, description="Metric to rank by; one that ends in 'loss' ranks upwards.")
        data: Place | None = Field(
            None, description="Runs' dataset: folder, digest or its start, all [default: the newest]."
        )
        sweep: str | None = Field(None, description="Only the runs of this sweep: its run's id.")
        top: int = Field(20, ge=1, description="Rows shown on the terminal, per dataset.")
        external: Files = Field(
            {}, description="Other labellers' answers for the test photos: NAME=FILE.csv,... (docs/choosing.md)."
        )
        out: Place = Field("leaderboard", description="Folder of the leaderboard files.")
        register: ModelName | None = Field(None, description="Register the best under this model name.")
        if_better: IfBetter = False
        margin: Margin = 0.0
        floor: Floors = {}  # noqa: RUF012  # pydantic copies it
        force: Force = False


class EvaluateSettings(Settings):
    """Settings of ``evaluate``."""

    model: str = Field(description=f"{MODEL}.")
    data: Place = Field(description="Folder of a prepared dataset.")
    split: Literal["all", "train", "val", "test"] = Field(
        "all", description="Its photos; those that the model was trained on or chosen by are left out and counted."
    )
    experiment: str | None = Field(None, description="MLflow experiment [default: the one in use, else fmtl].")
    extra_plots: bool = Field(True, description="Draw plots; the numbers are written either way.")
    batch_size: int = Field(32, ge=1, le=65_536, description="Images per step.")
    device: Device = Field("auto", description="auto, cpu, cuda or cuda:N.")
    precision: Literal["model", "fp32", "bf16"] = Field("model", description="model: the one it was trained in.")


class RegisterSettings(Settings):
    """Settings of ``register``."""

    run: str = Field("best", description="Id of a train run, or 'best'.")
    name: ModelName = Field(DEFAULT_MODEL_NAME, description="Registered model.")
    alias: Alias = Field(DEFAULT_ALIAS, description="Alias that moves to the version.")
    experiment: str | None = Field(None, description="Where 'best' looks [default: every one that has train runs].")
    metric: str = Field(CHOSEN_BY, description="What 'best' ranks by.")
    if_better: IfBetter = False
    margin: Margin = 0.0
    floor: Floors = {}  # noqa: RUF012  # pydantic copies it
    force: Force = False


class AliasSettings(Settings):
    """What ``history`` and ``rollback`` share."""

    name: ModelName = Field(DEFAULT_MODEL_NAME, description="Registered model.")
    alias: Alias = Field(DEFAULT_ALIAS, description="Alias.")


class HistorySettings(AliasSettings):
    """Settings of ``history``."""


class RollbackSettings(AliasSettings):
    """Settings of ``rollback``."""


class PredictSettings(Settings):
    """Settings of ``predict``."""

    model: str = Field(description=f"{MODEL}; or a file of fmtl export (.onnx).")
    images: Place | None = Field(
        None, description="Files (comma list, wildcards), a folder with all below it, or a table; or a table's folder."
    )
    table: Place | None = Field(None, description="A table as prepare takes it; then images is its image folder.")
    sheet: str | None = Field(None, description="Of a workbook [default: the first that has rows].")
    follow_links: bool = Field(False, description="Photos may be links that lead out of the image folder.")
    image_col: str | None = Field(None, description="The table's image column [default: found].")
    image_template: str | None = Field(None, description="Image path built from columns, such as '{id}.jpg'.")
    preset: Literal["kaggle-fashion"] | None = Field(None, description="Columns and blanks of a known catalogue.")
    missing: Names = Field((), description="Spellings, besides nothing at all, that mean a blank; comma list.")
    not_applicable: Names = Field((), description="Spellings that mean: it does not apply to the product; comma list.")
    encoding: str | None = Field(None, description="Of a CSV or JSON [default: by its mark, UTF-8, or guessed].")
    quotes: bool = Field(True, description="Whether double quotes enclose text in a CSV.")
    names: Literal["slug", "attribute"] = Field("slug", description="What the columns of labels are called.")
    spreadsheet: bool = Field(False, description="Cells that a spreadsheet would run are guarded; with its mark.")
    separator: str = Field(",", min_length=1, max_length=1, description="Between the columns of a CSV.")
    keep_columns: bool = Field(False, description="The table's own columns stand behind the predictions.")
    fill: Place | None = Field(
        None,
        pattern=r"\.(csv|parquet|xlsx)$",
        description="The table again, its blank cells filled; and disagreements.csv beside it.",
    )
    threshold: float = Field(0.5, ge=0, le=1, description="Confidence from which on a blank cell is filled.")
    out: Place = Field(
        "predictions.csv", pattern=r"\.(csv|parquet|xlsx)$", description="Predictions, .csv, .parquet or .xlsx."
    )
    part: Part | None = Field(
        None, description="A share of the photos, such as 2/4, in whole batches; fmtl join makes one table of all."
    )
    resume: bool = Field(False, description="Go on with the rows of an interrupted run.")
    top_k: int = Field(1, ge=1, le=500, description="Labels per task.")
    batch_size: int = Field(32, ge=1, le=65_536, description="Images per step.")
    device: Device = Field("auto", description="auto, cpu, cuda or cuda:N.")
    precision: Literal["model", "fp32", "bf16"] = Field("model", description="model: the one it was trained in.")

    @property
    def disagreements(self) -> str | None:
        """Where the known labels go that the model contradicts: beside the filled table."""
        return str(Path(self.fill).with_name(DISAGREEMENTS)) if self.fill else None

    @model_validator(mode="after")
    def _named(self) -> "PredictSettings":
        _check_spellings(self.missing, self.not_applicable)
        if not (self.images or self.table):
            raise ValueError("images, table: give one of them")
        if self.part and (self.fill or self.out.endswith(".xlsx")):
            raise ValueError("part: fill and .xlsx are for whole tables; join the parts first, as .csv or .parquet")
        read = {Path(place).resolve() for place in (self.images, self.table) if place}
        written = [Path(place).resolve() for place in (self.out, self.fill, self.disagreements) if place]
        if len({*written}) < len(written) or read & {*written}:
            told = f"the table, each other or {DISAGREEMENTS} would be overwritten"
            raise ValueError(f"out, fill: expected files of their own; {told}")
        return self


class JoinSettings(Settings):
    """Settings of ``join``."""

    parts: Names = Field(min_length=1, description="Folders of prepare --part, or files of predict --part; comma list.")
    out: Place = Field(description="The prepared dataset's folder, or the file of predictions.")


class SweepSettings(Settings):
    """Settings of ``sweep``, which its file may have too."""

    trials: int | None = Field(
        None, ge=1, le=10_000, description="How many settings are tried [default: all, of lists alone]."
    )
    time_limit: Seconds | None = Field(
        None, description="No trial begins after so long, such as 90m or 8h; a later start goes on."
    )
    storage: str | None = Field(
        None,
        description="What workers share: a file, or a database such as postgresql+psycopg://HOST/NAME "
        "[default: sweeps/NAME.journal].",
    )
    metric: Literal["f1", "accuracy", "loss", "refined_loss"] = Field(
        "f1", description="What is best: of the best epoch on the validation split."
    )
    prune: bool = Field(True, description="End trials early that fall behind the median; not those of a grid.")
    finalists: int = Field(2, ge=1, le=100, description="The best settings of a search that get the other seeds, too.")


class SyncSettings(Settings):
    """Settings of ``sync``."""

    run: str = Field("all", description="Id or folder of a run; all: every one below this folder.")


class DoctorSettings(Settings):
    """Settings of ``doctor``."""

    repair: bool = Field(False, description="Record the end of those whose process is gone.")


class CleanSettings(Settings):
    """Settings of ``clean``."""

    run: str | None = Field(
        None, description="Remove this run's folder, or those of all, if a store has it all [default: only list]."
    )
    dry_run: bool = Field(False, description="Only say what would be removed.")


class MainSettings(Settings):
    """Settings of ``main``."""

    table: Place = Field("sample", description="Product table; 'sample': draw one.")
    images: Place | None = Field(None, description="Image folder [default: 'images' by the table, or its folder].")
    backbone: str = Field("tf_efficientnet_lite0", description="Backbone of both runs.")
    weights: str = Field("bundled", description="imagenet, none, bundled, or the path of a state dict.")
    epochs: int = Field(14, ge=1, description="Epochs of both runs.")
    px: Px = Field(128, description="Side of the network's input.")
    data: Place | None = Field(None, description="Folder of the prepared dataset [default: data/NAME of the table].")
    out: Place = Field("leaderboard", description="Folder of the leaderboard files.")
    if_better: IfBetter = False
    margin: Margin = 0.0
    floor: Floors = {}  # noqa: RUF012  # pydantic copies it
    force: Force = False
    seed: Seed = Field(0, description="Seed of everything.")
