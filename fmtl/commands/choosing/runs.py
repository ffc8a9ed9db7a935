"""Which train run is the best, and registering it: what ``compare`` and ``register`` share."""

from collections.abc import Sequence

from fmtl.errors import DataError
from fmtl.evaluation.ranking import Entry, Leaderboard, rank
from fmtl.tracking import registry
from fmtl.tracking.store import RunRecord


def rank_runs(records: Sequence[RunRecord], *, metric: str, data: str | None = None) -> Leaderboard:
    """Leaderboard of train runs, optionally of the datasets whose digest starts with ``data``."""
    entries = [_entry(record) for record in records]
    return rank([e for e in entries if e.data.startswith(data or "")], metric=metric)


def best_run(records: Sequence[RunRecord], board: Leaderboard) -> RunRecord:
    """The run that the leaderboard puts first.

    Raises:
        DataError: Nothing is ranked.
    """
    if board.best is None:
        raise DataError(
            f"no train run can be registered: {len(board.unranked)} were found, none completed with a model and a "
            f"finite '{board.metric}'; run 'fmtl train', or see why with 'fmtl compare'"
        )
    return next(r for r in records if r.run_id == board.best["run_id"])


def other_groups(board: Leaderboard) -> str:
    """A sentence that names the datasets that 'best' does not speak for; empty if there is one dataset."""
    groups = [data[:8] for data, _ in board.groups]
    if len(groups) < 2:
        return ""
    return f"'best' is the first of dataset {groups[0]}, the newest run's; other datasets: {', '.join(groups[1:])}"


def register(record: RunRecord, *, name: str, alias: str) -> str:
    """Register a run's model, move the alias, and return a sentence that says so."""
    version, previous = registry.register(record, name=name, alias=alias)
    before = f"; it pointed to version {previous} before" if previous not in (None, version) else ""
    return f"registered {record.name} ({record.run_id}) as {name} version {version}, alias {name}@{alias}{before}"


def _entry(record: RunRecord) -> Entry:
    data = record.tags.get("fmtl.data", "")
    return Entry(
        run_id=record.run_id,
        run_name=record.name,
        backbone=record.param("backbone"),
        mode=record.param("mode"),
        data=data,
        metrics=record.metrics,
        end_ms=record.end_ms,
        unranked=registry.why_not_registrable(record) or (None if data else "its dataset is not known"),
    )
