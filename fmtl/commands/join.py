"""``join``: parts of a dataset, or of predictions, to the whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmtl.commands.bringing import recording
from fmtl.commands.labelling import joining
from fmtl.dataset import build
from fmtl.dataset.draft import PreparePlan
from fmtl.dataset.reuse import parts
from fmtl.errors import DataError
from fmtl.reports.catalogue_page import prepare_report
from fmtl.settings.schema import JoinSettings, PrepareSettings
from fmtl.tracking.run import open_run


def join(settings: JoinSettings) -> None:
    """Run the whole command; a dataset is recorded as ``prepare`` records it.

    Raises:
        DataError, UsageError: A part is missing, damaged, or of something else.
    """
    places = [Path(part) for part in settings.parts]
    for place in places:
        if not place.exists():
            raise DataError("no such part", where=str(place))
    if any(parts.is_part(place) for place in places):
        _join_dataset(places, settings.out)
    else:
        print(f"{joining.join(places, Path(settings.out))} rows: {settings.out}")


def _join_dataset(places: list[Path], out: str) -> None:
    with open_run("prepare", name=f"join-{Path(out).name}") as run:
        dataset = build.join(places, out, plan_of=_plan, page=prepare_report)
        run.log_params(dataset.manifest["settings"])
        recording.record(run, dataset)
    print("\n".join(recording.summary(dataset)))


def _plan(remembered: Mapping[str, Any]) -> PreparePlan:
    known = {name: value for name, value in remembered.items() if name in PrepareSettings.model_fields}
    return PrepareSettings.model_validate(known).resolve()
