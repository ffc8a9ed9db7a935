"""``compare``: the store's train runs to a leaderboard."""

from pathlib import Path

from fmtl import durable, plots, report, tables
from fmtl.config import CompareSettings
from fmtl.dataset import MANIFEST, open_dataset
from fmtl.leaderboard import Leaderboard, to_markdown, to_text
from fmtl.pipeline import DEFAULT_ALIAS
from fmtl.standings import best_run, rank_runs, register
from fmtl.tracking import store
from fmtl.tracking.run import open_run

MAX_BARS = 20


def compare(settings: CompareSettings) -> Leaderboard:
    """Run the whole command; prints the table, writes the files, and records one MLflow run."""
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
        others = [data[:8] for data, _ in board.groups[1:]]
        if others:
            newest = board.groups[0][0][:8]
            print(f"'best' is the first of dataset {newest}, the newest run's; other datasets: {', '.join(others)}")
        print(f"leaderboard: {out / 'leaderboard.html'}")
        if settings.register:
            print(register(best_run(records, board), name=settings.register, alias=DEFAULT_ALIAS))
    return board


def _digest(data: str | None) -> str | None:
    """A digest as it is; of a prepared dataset's folder, its digest."""
    return open_dataset(Path(data)).digest if data and (Path(data) / MANIFEST).is_file() else data


def _write(folder: Path, board: Leaderboard) -> None:
    durable.write_text(folder / "leaderboard.csv", tables.to_csv(board.table))
    durable.write_text(folder / "leaderboard.md", to_markdown(board))
    durable.write_text(folder / "leaderboard.html", report.leaderboard_page(board))
    for data, rows in board.groups:
        best = rows.head(MAX_BARS)
        figure = plots.ranking(
            best["run_name"].tolist(), best[board.metric].tolist(), title=f"Dataset {data[:8]}", unit=board.metric
        )
        with durable.replacing(folder / "plots" / f"ranking-{data[:8]}.png") as temporary:
            figure.savefig(temporary, format="png")
