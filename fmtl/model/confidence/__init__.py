"""Confidences that mean something: temperatures, and the confidence from which a label is accepted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fmtl.errors import DataError
from fmtl.tasks import Tasks

NEVER = 2.0  # above any confidence: nothing is accepted


@dataclass(frozen=True)
class Confidence:
    """What a model knows of its own confidences.

    Attributes:
        temperatures: By task name, where one is better than 1.
        accepted_from: By task name, where a precision was wanted: labels at least so sure are accepted; ``NEVER`` where
            no confidence promised it.
        precision_at: The precision that was wanted; None if none was.
    """

    temperatures: Mapping[str, float] = field(default_factory=dict)
    accepted_from: Mapping[str, float] = field(default_factory=dict)
    precision_at: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "temperatures": dict(self.temperatures),
            "accepted_from": dict(self.accepted_from),
            "precision_at": self.precision_at,
        }

    @classmethod
    def from_json(cls, content: object, tasks: Tasks, *, where: str) -> "Confidence":
        """What ``to_json`` made.

        Raises:
            DataError: It is something else, or of other tasks.
        """
        if not isinstance(content, dict) or set(content) != {"temperatures", "accepted_from", "precision_at"}:
            raise DataError("expected temperatures, accepted_from and precision_at", where=where)
        for name in ("temperatures", "accepted_from"):
            values = content[name]
            is_right = isinstance(values, dict) and all(
                isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in values.values()
            )
            if not is_right or not {*values} <= {*tasks.names}:
                raise DataError(f"{name}: expected positive numbers by the name of a task", where=where)
        return cls(**content)
