"""Which train run is the best, and registering it: what ``compare`` and ``register`` share."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from fmtl.commands.choosing.gate import Rules, is_worse, judge
from fmtl.errors import DataError, Refused
from fmtl.evaluation.gate import Verdict
from fmtl.evaluation.ranking import Entry, Leaderboard, rank
from fmtl.tracking import registry, store
from fmtl.tracking.store import RunRecord

MOST_NAMED, MOST_CHARACTERS = 50, 4000  # attributes of a verdict, characters of the scores that a version keeps
TRIES = 5  # to move an alias that others move
MOST_DATASETS = 3  # that are named besides the newest
MOST_WITHOUT = 1000  # runs that belong to no dataset
MOST_UNSAID = 2  # runs that are looked through for one whose dataset a filter can name
ALL = "all"  # datasets
# Of a run's settings those that are not its recipe: where it ran and what it drew, and what trial found fastest there.
NOT_OF_RECIPE = {
    "seed", "data", "allow_stale", "device", "extra_plots", "gallery", "save_checkpoints", "cache_features",
    "precision", "channels_last", "compile", "precision_at",
}  # fmt: skip


def rank_runs(records: Sequence[RunRecord], *, metric: str, data: str | None = None) -> Leaderboard:
    """Leaderboard of train runs, optionally of the datasets whose digest starts with ``data``."""
    entries = [_entry(record) for record in records]
    return rank([e for e in entries if e.data.startswith(data or "")], metric=metric)


@dataclass(frozen=True)
class Found:
    """Train runs.

    Attributes:
        others: Digests of the datasets that were left out, the newest first.
    """

    records: list[RunRecord]
    others: list[str]


def find(*, experiment: str | None, data: str | None = None, parent: str | None = None) -> Found:
    """Train runs of one dataset, or of all, and those that came to none.

    Args:
        data: The start of a digest, or ``all``; None for the dataset of the newest run that has a model.
        parent: Only the children of this run, of any dataset.

    Raises:
        DataError: The experiment does not exist.
    """
    if parent is not None:
        where = f"tags.`mlflow.parentRunId` = '{store.get_run(parent).run_id}'"
        return Found(store.search_runs("train", experiment=experiment, where=where), [])
    if data == ALL:
        return Found(store.search_runs("train", experiment=experiment), [])
    if data is not None:
        records = store.search_runs("train", experiment=experiment, where=f"tags.`fmtl.data` LIKE '{data}%'")
        return Found(records + _without_data(experiment), [])
    records, passed = [], list[str]()
    while newest := _newest(experiment, passed):
        digest = newest.tags["fmtl.data"]
        passed.append(digest)
        records += store.search_runs("train", experiment=experiment, where=f"tags.`fmtl.data` = {store.quoted(digest)}")
        if any(registry.why_not_registrable(record) is None for record in records):
            break
    known = len(passed)
    while len(passed) - known < MOST_DATASETS and (newest := _newest(experiment, passed)):
        passed.append(newest.tags["fmtl.data"])
    return Found(records + _without_data(experiment), passed[known:])


def _newest(experiment: str | None, passed: Sequence[str]) -> RunRecord | None:
    """The newest run of a dataset besides some."""
    unlike = [quoted for digest in ("", *passed) if (quoted := store.quoted(digest))]
    where = " AND ".join(f"tags.`fmtl.data` != {quoted}" for quoted in unlike)
    for record in store.search_runs("train", experiment=experiment, where=where, most=MOST_UNSAID):
        if store.quoted(record.tags["fmtl.data"]):
            return record
    return None


def _without_data(experiment: str | None) -> list[RunRecord]:
    """Runs that belong to no dataset: they ended before they came to one, or nobody said which it was."""
    return store.runs_without("train", "fmtl.data", experiment=experiment, most=MOST_WITHOUT)


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


def other_groups(board: Leaderboard, others: Sequence[str]) -> str:
    """A sentence that names the datasets that 'best' does not speak for; empty if there is one dataset.

    Args:
        others: Digests of those that are not on the board.
    """
    groups = [data[:8] for data in (*(data for data, _ in board.groups), *others)]
    if len(groups) < 2:
        return ""
    more = f" (the newest {MOST_DATASETS})" * (len(others) == MOST_DATASETS)
    return (
        f"'best' is the first of dataset {groups[0]}, the newest run's; other datasets{more}: {', '.join(groups[1:])}"
    )


def register(record: RunRecord, *, name: str, alias: str, rules: Rules) -> list[str]:
    """Register a run's model, move the alias, and return what is to be said of it.

    Raises:
        DataError: The model is not whole.
        Refused: It is not what the rules ask for. Nothing was registered then.
    """
    registry.check(record)
    for _ in range(TRIES):
        verdict = judge(record, name=name, alias=alias, rules=rules)
        if not verdict.passes:
            reasons = "; ".join(verdict.against)
            raise Refused(
                f"run '{record.run_id}' ({record.name}) is not registered: {reasons}. --force true overrides it"
            )
        replaced = verdict.details["replaces"]
        if verdict.details["already"]:  # what is kept of how it came to be stays
            return [f"{record.name} ({record.run_id}) is {name}@{alias} already, as version {replaced}"]
        version = registry.add_version(
            record, name, tags=_tags(record, verdict), description=f"{record.name}: {verdict}"
        )
        if registry.alias_target(name, alias) in (replaced, version):
            break  # else another process has moved it meanwhile, and nothing was compared with what is there now
    else:
        raise Refused(f"{name}@{alias} is being moved by others again and again; version {version} is there without it")
    previous = registry.move_alias(name, alias, version, why=str(verdict))
    before = f"; it pointed to version {previous} before" if previous not in (None, version) else ""
    said = [f"registered {record.name} ({record.run_id}) as {name} version {version}, alias {name}@{alias}{before}"]
    if verdict.forced:
        said.append(f"forced, although: {'; '.join(verdict.against)}")
    comparison = verdict.details["comparison"]
    if isinstance(comparison, str) and previous not in (None, version):
        said.append(f"warning: not compared with version {previous}: {comparison}; "
                    f"fmtl rollback --name {name} --alias {alias} goes back")  # fmt: skip
    if is_worse(verdict) and previous != version:
        said.append(f"warning: it is worse than version {previous}: {verdict.said[-1] if verdict.said else verdict}; "
                    f"fmtl rollback --name {name} --alias {alias} goes back")  # fmt: skip
    return said


def _tags(record: RunRecord, verdict: Verdict) -> dict[str, str]:
    """What a version says of how it came to be."""
    f1s = {n.removeprefix("test/").removesuffix("/f1"): value for n, value in record.metrics.items() if _is_f1(n)}
    told, scores = verdict.to_json(), dict(sorted(f1s.items(), key=lambda item: item[0] != "avg"))
    if isinstance(told.get("comparison"), dict):
        told["comparison"]["attributes"] = told["comparison"]["attributes"][:MOST_NAMED]
    while len(json.dumps(scores)) > MOST_CHARACTERS:
        scores.popitem()
    tags = {
        "fmtl.gate": json.dumps(told, ensure_ascii=False),
        "fmtl.scores": json.dumps(scores, ensure_ascii=False),
        "fmtl.commit": record.tags.get("mlflow.source.git.commit", ""),
    }
    replaced = verdict.details["replaces"]
    return tags | ({"fmtl.replaces": str(replaced)} if replaced is not None else {})


def _is_f1(name: str) -> bool:
    return name.startswith("test/") and name.endswith("/f1")


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
        recipe=_recipe(record),
        seed=record.param("seed"),
    )


def _recipe(record: RunRecord) -> dict[str, str]:
    """What a run has in common with those that differ in their seed alone; empty of one that stands by itself."""
    if "seed" not in record.params or "fmtl.forked_from" in record.tags:
        return {}
    values = {name: record.param(name) for name in record.params if name not in NOT_OF_RECIPE}
    return {name: value for name, value in values.items() if value}  # a run may be older than a setting
