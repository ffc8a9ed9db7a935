"""``compare``: the store's train runs to a leaderboard."""

import re
from pathlib import Path

from fmtl.commands.choosing.gate import Rules
from fmtl.commands.choosing.runs import best_run, other_groups, rank_runs, register
from fmtl.dataset.prepared import open_dataset
from fmtl.evaluation.ranking import Leaderboard
from fmtl.reports import plots
from fmtl.reports.leaderboard_page import leaderboard_page, to_markdown, to_text
from fmtl.settings.fields import by_name
from fmtl.settings.schema import DEFAULT_ALIAS, CompareSettings
from fmtl.storage import durable, tables
from fmtl.tracking import doctor, store
from fmtl.tracking.run import open_run

MAX_BARS = 20


def compare(settings: CompareSettings) -> Leaderboard:
    """Run the whole command; prints the table, writes the files, and records one MLflow run."""
    doctor.mend_dead()
    records = store.search_runs("train", experiment=settings.experiment)
    board = rank_runs(records, metric=settings.metric, data=_digest(settings.data))
    out = Path(settings.out)
    with open_run("compare", name="compare", experiment=settings.experiment) as run:
        run.log_params(settings.model_dump(mode="json"))
        run.log_metrics({"runs/ranked": len(board.table), "runs/unranked": len(board.unranked)})
        run.set_tags({"mlflow.note.content": to_markdown(board)})
        for folder in (out, run.folder):
            _write(folder, board)
        print(to_text(board, top=settings.top))
        if others := other_groups(board):
            print(others)
        print(f"leaderboard: {out / 'leaderboard.html'}")
        if settings.register:
            best, rules = best_run(records, board), by_name(Rules, settings)
            print("\n".join(register(best, name=settings.register, alias=DEFAULT_ALIAS, rules=rules)))
    return board


def _digest(data: str | None) -> str | None:
    """A digest, or the start of one, as it is; of a prepared dataset's folder, its digest."""
    if data is None or re.fullmatch(r"[0-9a-f]{4,32}", data):
        return data
    return open_dataset(Path(data)).digest


def _write(folder: Path, board: Leaderboard) -> None:
    durable.write_text(folder / "leaderboard.csv", tables.to_csv(board.table))
    durable.write_text(folder / "leaderboard.md", to_markdown(board))
    durable.write_text(folder / "leaderboard.html", leaderboard_page(board))
    for data, rows in board.groups:
        best = rows.head(MAX_BARS)
        figure = plots.ranking(
            best["run_name"].tolist(), best[board.metric].tolist(), title=f"Dataset {data[:8]}", unit=board.metric
        )
        plots.save(folder / "plots" / f"ranking-{data[:8]}.png", figure)
