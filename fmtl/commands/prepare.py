"""``prepare``: a product table and its photos to a prepared dataset, every row accounted for."""

from pathlib import Path

from fmtl.catalogue import sample
from fmtl.commands.bringing import recording
from fmtl.dataset import build
from fmtl.dataset.prepared import PreparedDataset
from fmtl.errors import UsageError
from fmtl.reports.catalogue_page import prepare_report
from fmtl.settings.schema import PrepareSettings
from fmtl.tracking.run import open_run

SAMPLE = "sample"  # a table of that name is drawn


def prepare(settings: PrepareSettings) -> PreparedDataset:
    """Run the whole command; prints a summary and records one MLflow run."""
    with open_run("prepare", name=f"prepare-{Path(settings.table).stem}") as run:
        run.log_params(settings.model_dump(mode="json"))
        if settings.table == SAMPLE:
            table = sample.draw_catalogue(sample_folder(settings.out), seed=settings.seed)
            settings = settings.model_copy(update={"table": str(table), "id_col": "id", "image_col": "image"})
        dataset, news = build_dataset(settings)
        recording.record(run, dataset)
    print("\n".join([*recording.summary(dataset), *news]))
    return dataset


def prepare_part(settings: PrepareSettings) -> None:
    """Decode a part of the photos, for ``join``."""
    if settings.table == SAMPLE:
        raise UsageError("part: the sample is drawn and prepared in one go")
    print(build.build_part(settings.resolve()))
    print(f"when all parts are there: fmtl join --parts ... --out ... (this one: {settings.out})")


def build_dataset(settings: PrepareSettings) -> tuple[PreparedDataset, list[str]]:
    """Prepare without MLflow: see ``build.build``."""
    return build.build(settings.resolve(), page=prepare_report)


def sample_folder(out: str) -> Path:
    """Where the sample catalogue is drawn: beside the prepared dataset.

    Raises:
        UsageError: Something else lies there.
    """
    folder = Path(out).resolve()
    folder = folder.with_name(folder.name + "-catalogue")
    if folder.exists() and not (folder.is_dir() and {p.name for p in folder.iterdir()} <= {"images", sample.TABLE}):
        raise UsageError(f"out: the sample would be drawn into {folder}, which holds other files; choose another out")
    return folder
