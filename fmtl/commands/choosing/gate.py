"""What stands between a model and an alias: floors, and the model whose place it would take."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fmtl.commands.choosing.photos import SPLITS_OF_PHOTOS, hashes_learnt_from, photos_of
from fmtl.commands.choosing.tested import TASKS, dataset_of, tested
from fmtl.errors import UsageError, did_you_mean
from fmtl.evaluation import gate
from fmtl.evaluation.answers import METRICS, PHOTO
from fmtl.evaluation.gate import LEAST_PHOTOS, Comparison, Verdict
from fmtl.metric_names import score
from fmtl.tasks import AVERAGE, Tasks
from fmtl.tracking import registry, store
from fmtl.tracking.store import RunRecord


@dataclass(frozen=True)
class Rules:
    """What a model has to be; the settings of ``register`` say what each means."""

    metric: str
    if_better: bool = False
    margin: float = 0.0
    floor: Mapping[str, float] | None = None
    force: bool = False

    @property
    def compared_by(self) -> str:
        """
        Raises:
            UsageError: if_better has nothing to compare by.
        """
        of, _, name = self.metric.rpartition("/")
        is_mean = of in ("", "avg") or of.endswith("/avg")
        if self.if_better and not (name in METRICS and is_mean):
            raise UsageError(
                f"if_better: models are compared by the mean f1 or accuracy over attributes, not by '{self.metric}'"
            )
        return name if name in METRICS else "f1"


def judge(run: RunRecord, *, name: str, alias: str, rules: Rules) -> Verdict:
    """Whether a run's model may have an alias.

    Raises:
        UsageError: A floor is for an attribute that it does not tell.
    """
    against: list[str] = []
    said: list[str] = []
    metric = rules.compared_by
    against += gate.not_finite({n: run.metrics.get(n, np.nan) for n in (score("test", None, m) for m in METRICS)})
    if rules.floor:
        against += gate.floors_missed(_f1s(run, rules.floor), rules.floor)
    version = registry.alias_target(name, alias)
    champion = registry.run_of(name, version) if version is not None else None
    found: Comparison | str | None = None
    if version is None:
        said.append(f"{name}@{alias} is new")
    elif champion is not None and champion.run_id == run.run_id:
        said.append(f"it is {name}@{alias} already")
    else:
        found = compared(run, champion, f"models:/{name}/{version}", metric, thorough=rules.if_better)
        told = f"not compared with version {version}: {found}" if isinstance(found, str) else f"{found}"
        is_better = not isinstance(found, str) and found.lead.difference.low > -rules.margin
        if rules.if_better and not is_better:
            bound = "" if isinstance(found, str) else f"; the lower bound must be above {-rules.margin:g}"
            against.append(f"not shown to be better than version {version}: {found}{bound}")
        else:
            said.append(told)
    details = {
        "already": champion is not None and champion.run_id == run.run_id,
        "floors": dict(rules.floor or {}),
        "if_better": rules.if_better,
        "margin": rules.margin,
        "replaces": version,
        "comparison": found.to_json() if isinstance(found, Comparison) else found,
    }
    return Verdict(tuple(against), bool(against) and rules.force, tuple(said), details)


def is_worse(verdict: Verdict) -> bool:
    """Whether a score is lower than that of the model whose place is taken."""
    found = verdict.details.get("comparison")
    return isinstance(found, dict) and found["candidate"] < found["champion"]


def compared(
    run: RunRecord, champion: RunRecord | None, model: str, metric: str, *, thorough: bool
) -> Comparison | str:
    """A run's model beside another on the run's own test photos, or why not.

    Args:
        champion: The run of the other model, if it is known.
        model: The other model's address.
        thorough: The other one is run on the photos where it was not tested on them.
    """
    mine = tested(run)
    if isinstance(mine, str):
        return mine
    table, tasks = mine
    is_of_same = champion is not None and champion.tags.get("fmtl.data") == run.tags.get("fmtl.data")
    theirs = tested(champion) if champion is not None and is_of_same else ""
    if not isinstance(theirs, str):
        # Of one dataset both have the same test photos; photos are known by their place in the table.
        other = theirs[0].set_index(PHOTO)
        common = table.set_index(PHOTO).index.intersection(other.index)
        rows, others = table.set_index(PHOTO).loc[common].reset_index(), other.loc[common].reset_index()
        if len(rows) != len(others) or not _same_labels(rows, others, tasks, theirs[1]):
            return "the labels that both were tested on are not the same"
        return _enough(rows) or gate.compare(rows, others, tasks, theirs[1], metric=metric)
    if not thorough:
        return "it was tested on other photos; --if-better true runs it on these"
    return _on_photos(run, champion, model, table, tasks, metric)


def _on_photos(
    run: RunRecord, champion: RunRecord | None, model: str, table: pd.DataFrame, tasks: Tasks, metric: str
) -> Comparison | str:
    dataset = dataset_of(run)
    if isinstance(dataset, str):
        return dataset
    learnt = hashes_learnt_from(champion) if champion is not None else None
    if learnt is None:
        return f"it is not known on which photos it was trained: its run has no {SPLITS_OF_PHOTOS}"
    rows = dataset.rows("test")
    unseen = np.array([sha256 not in learnt for sha256 in dataset.photo_hashes[rows]], bool)
    table = table[unseen].reset_index(drop=True)
    if short := _enough(table, int((~unseen).sum())):
        return short
    from fmtl.commands.choosing import models  # and torch with it
    from fmtl.model.labeller import OK

    predictor, _ = models.load(model)
    names, photos = photos_of(dataset, rows[unseen])
    said = replace(predictor, tasks=predictor.tasks.unconditional()).predict(photos)
    if unread := int((said["status"] != OK).sum()):
        return f"{unread} of the {len(names)} photos that it is to be tested on can't be read where they were"
    return gate.compare(table, said, tasks, predictor.tasks, metric=metric, left_out=int((~unseen).sum()))


def _same_labels(rows: pd.DataFrame, others: pd.DataFrame, tasks: Tasks, other_tasks: Tasks) -> bool:
    """Whether two tables of one dataset tell of the same photos, in the same order."""
    columns = [f"{task.slug}/target" for task in tasks if task in other_tasks]
    return all(rows[name].map(repr).equals(others[name].map(repr)) for name in columns)


def _enough(table: pd.DataFrame, left_out: int = 0) -> str:
    if len(table) >= LEAST_PHOTOS:
        return ""
    apart = f", {left_out} others were its own for training" if left_out else ""
    return f"no verdict on {len(table)} test photos{apart}; {LEAST_PHOTOS} are the least"


def _f1s(run: RunRecord, names: Mapping[str, float]) -> dict[str, float]:
    """Test macro-F1 by name of the attributes that floors are for."""
    path = store.artifact(run, TASKS)
    tasks = Tasks.from_json(json.loads(path.read_text(encoding="utf-8"))) if path else Tasks()
    slugs = {AVERAGE: AVERAGE} | {task.slug: task.slug for task in tasks} | {task.name: task.slug for task in tasks}
    found = {}
    for name in names:
        if name not in slugs:
            hint = did_you_mean(name, slugs, otherwise=f"the model tells {', '.join(tasks.names)}")
            raise UsageError(f"floor: there is no attribute '{name}'; {hint}")
        found[name] = run.metrics.get(f"test/{slugs[name]}/f1", np.nan)
    return found
