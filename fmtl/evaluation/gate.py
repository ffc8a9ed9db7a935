"""Whether a model is good enough to take another one's place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from fmtl.evaluation.answers import WRONG, Photos, codes, known, said
from fmtl.evaluation.standings import Labeller, stand
from fmtl.evaluation.statistics import Lead
from fmtl.tasks import AVERAGE, Task, Tasks

LEAST_PHOTOS = 100  # that a verdict needs


@dataclass(frozen=True)
class Comparison:
    """Two models on the same test photos.

    Attributes:
        metric: ``f1`` or ``accuracy``; the mean over attributes is compared.
        scores: Of the candidate, and of the model whose place it would take.
        lead: Of the candidate.
        num_photos, num_groups: That were compared, and groups of twins among them.
        left_out: Photos that the other model was trained on or chosen by.
        attributes: Names of those that both tell.
    """

    metric: str
    scores: tuple[float, float]
    lead: Lead
    num_photos: int
    num_groups: int
    left_out: int
    attributes: tuple[str, ...]

    def __str__(self) -> str:
        new, old = self.scores
        called = "macro-F1" if self.metric == "f1" else self.metric
        apart = f", without {self.left_out} that the other was trained on" if self.left_out else ""
        return (
            f"{called} {new:.4f} against {old:.4f} on {self.num_photos} test photos{apart}: {self.lead.difference}, "
            f"better with probability {self.lead.better:.3f}"
        )

    def to_json(self) -> dict[str, Any]:
        difference = self.lead.difference
        return {
            "metric": self.metric, "candidate": self.scores[0], "champion": self.scores[1],
            "difference": difference.mean, "low": difference.low, "high": difference.high, "better": self.lead.better,
            "photos": self.num_photos, "groups": self.num_groups, "left_out": self.left_out,
            "attributes": list(self.attributes),
        }  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What a gate says.

    Attributes:
        against: Why not; nothing if it may pass.
        forced: Whether it passes nevertheless.
        said: What was looked at.
    """

    against: tuple[str, ...] = ()
    forced: bool = False
    said: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passes(self) -> bool:
        return self.forced or not self.against

    def __str__(self) -> str:
        word = "passed" if not self.against else "forced" if self.forced else "refused"
        return "; ".join([f"{word}", *self.against, *self.said])

    def to_json(self) -> dict[str, Any]:
        return {"passes": self.passes, "forced": self.forced, "against": list(self.against), "said": list(self.said),
                **self.details}  # fmt: skip


def compare(
    candidate: pd.DataFrame, champion: pd.DataFrame, tasks: Tasks, others: Tasks, *, metric: str, left_out: int = 0
) -> Comparison | str:
    """What the logged predictions of two models say of the same photos; or why they say nothing.

    Args:
        candidate, champion: Predictions tables by photo, in the same order; the first has the labels.
        tasks, others: Of both. Those that both tell are compared.
        left_out: See ``Comparison``.
    """
    pairs = [(task, other) for task in tasks for other in others if not task.applies_to and _alike(task, other)]
    if not pairs:
        return "they tell no attribute in common"
    photos = Photos.of(candidate, Tasks(task for task, _ in pairs))
    num_groups = len(np.unique(photos.groups))
    if num_groups < LEAST_PHOTOS:
        return f"no verdict on {num_groups} groups of twins; {LEAST_PHOTOS} are the least"
    if not any(known(targets).any() for targets in photos.targets.values()):
        return "no photo has a label of an attribute that both tell"
    theirs = {task.name: codes(task, champion[other.slug], blank=WRONG) for task, other in pairs}
    labellers = [Labeller("champion", [theirs]), Labeller("candidate", [said(candidate, photos.tasks)])]
    old, new = stand(photos, labellers, metric=metric)
    assert new.lead is not None
    return Comparison(
        metric=metric,
        scores=(new.scores[AVERAGE, metric].mean, old.scores[AVERAGE, metric].mean),
        lead=new.lead,
        num_photos=len(candidate),
        num_groups=num_groups,
        left_out=left_out,
        attributes=tuple(photos.tasks.names),
    )


def _alike(task: Task, other: Task) -> bool:
    return task.name == other.name and task.kind == other.kind and bool({*task.classes} & {*other.classes})


def floors_missed(scores: Mapping[str, float], floors: Mapping[str, float]) -> list[str]:
    """
    Args:
        scores: Test macro-F1 by attribute, and ``avg``.
        floors: The lowest of some of them.
    """
    return [
        f"{name}: macro-F1 {scores[name]:.4f} is below the floor {floor:g}"
        for name, floor in floors.items()
        if not scores[name] >= floor
    ]


def not_finite(scores: Mapping[str, float]) -> Sequence[str]:
    return [f"{name} is {value}" for name, value in scores.items() if not np.isfinite(value)]
