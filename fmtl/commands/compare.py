"""``compare``: the store's train runs to a leaderboard."""

import re
from collections.abc import Sequence
from pathlib import Path

from fmtl.commands.choosing import pictures
from fmtl.commands.choosing.comparing import compare_rows
from fmtl.commands.choosing.gate import Rules
from fmtl.commands.choosing.runs import ALL, best_run, find, other_groups, rank_runs, register
from fmtl.dataset.prepared import open_dataset
from fmtl.errors import Refused, UsageError
from fmtl.evaluation.answers import METRICS
from fmtl.evaluation.ranking import Leaderboard
from fmtl.evaluation.standings import Compared
from fmtl.reports import leaderboard
from fmtl.settings.fields import by_name
from fmtl.settings.schema import DEFAULT_ALIAS, CompareSettings
from fmtl.tracking import doctor
from fmtl.tracking.run import open_run
from fmtl.tracking.store import RunRecord


def compare(settings: CompareSettings) -> Leaderboard:
    """Run the whole command; prints the table, writes the files, and records one MLflow run."""
    doctor.mend_dead()
    found = find(experiment=settings.experiment, data=_digest(settings.data), parent=settings.sweep)
    board = rank_runs(found.records, metric=settings.metric)
    refused = None
    with open_run("compare", name="compare", experiment=settings.experiment) as run:
        run.log_params(settings.model_dump(mode="json"))
        run.log_metrics({"runs/ranked": len(board.table), "runs/unranked": len(board.unranked)})
        compared = _compared(board, found.records, settings)
        run.set_tags({"mlflow.note.content": leaderboard.to_markdown(board, compared)})
        shown = pictures.of_board(board, compared, {record.run_id: record for record in found.records})
        for folder in (Path(settings.out), run.folder):
            leaderboard.write(folder, board, compared, shown)
        print(leaderboard.to_text(board, compared, top=settings.top))
        if others := other_groups(board, found.others):
            print(others)
        print(f"leaderboard: {Path(settings.out) / 'leaderboard.html'}")
        if settings.register:
            best, rules = best_run(found.records, board), by_name(Rules, settings)
            try:
                print("\n".join(register(best, name=settings.register, alias=DEFAULT_ALIAS, rules=rules)))
            except Refused as error:  # the comparison is complete nevertheless
                refused = error
    if refused:
        raise refused
    return board


def _compared(board: Leaderboard, records: Sequence[RunRecord], settings: CompareSettings) -> dict[str, Compared | str]:
    """By digest, where runs and other labellers stand, or why nobody can say."""
    if settings.external and len(board.groups) != 1:
        raise UsageError(
            f"external: the answers are for the test photos of one dataset, and {len(board.groups)} are ranked; name "
            "one with data"
        )
    runs = {record.run_id: record for record in records}
    name = settings.metric.rpartition("/")[2]
    metric = name if name in METRICS else "f1"
    return {data: compare_rows(rows, runs, metric=metric, files=settings.external) for data, rows in board.groups}


def _digest(data: str | None) -> str | None:
    """A digest, or the start of one, as it is; of a prepared dataset's folder, its digest."""
    if data in (None, ALL) or re.fullmatch(r"[0-9a-f]{4,32}", data or ""):
        return data
    return open_dataset(Path(data or "")).digest
