"""A sweep's file: settings of ``train``, of which some are lists of values or ranges, and the sweep's own.

::

    data: data/fashion
    epochs: 12
    learning_rate: {low: 1e-4, high: 1e-2, log: true}
    class_weights: [0, 0.25, 0.5]
    seed: [0, 1, 2]
    trials: 24
"""

import itertools
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmtl.errors import UsageError
from fmtl.settings import reading
from fmtl.settings.reading import Given
from fmtl.settings.schema import SweepSettings
from fmtl.settings.train import TrainSettings

MOST_TRIALS = 10_000
# What decides how a run begins and where it lies is not for a sweep to vary, or to give.
NOT_VARIED = {"data", "allow_stale", "experiment", "device"}
NOT_GIVEN = {"resume", "extend_to", "fork", "run_folder", "offline", "run_name", "budget"}
_KEYS = {"low", "high", "log", "step"}


@dataclass(frozen=True)
class Choice:
    """A setting that has one of some values, as they are typed."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """A setting that is a number from ``low`` to ``high``, both included.

    Attributes:
        log: Whether its logarithm is drawn evenly.
        step: Between the values; None for any.
        is_int: A whole number.
    """

    name: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    is_int: bool = False


@dataclass(frozen=True)
class Space:
    """What a sweep varies.

    Attributes:
        base: What all trials have in common.
        choices, ranges: What differs.
        seeds: Each setting is trained with each of them, in a grid; else those that are found to be best.
    """

    base: Mapping[str, Given]
    choices: tuple[Choice, ...]
    ranges: tuple[Range, ...]
    seeds: tuple[int, ...]

    def settings(self, values: Mapping[str, object], *, seed: int, name: str = "") -> TrainSettings:
        """Of one trial.

        Args:
            values: By setting, of those that differ.
            name: Of its run.

        Raises:
            UsageError: Together they are none.
        """
        told = {k: Given(str(v), "the sweep") for k, v in values.items()} | {"seed": Given(str(seed), "the sweep")}
        named = {"run_name": Given(name, "the sweep")} if name else {}
        return reading.build(TrainSettings, told | named, self.base)

    def grid(self) -> list[dict[str, str]]:
        """All combinations.

        Raises:
            UsageError: There are ranges, or more than ``MOST_TRIALS``.
        """
        if self.ranges:
            raise UsageError(f"trials: give how many; {', '.join(r.name for r in self.ranges)} have no end of values")
        num = math.prod(len(choice.values) for choice in self.choices) * len(self.seeds)
        if num > MOST_TRIALS:
            raise UsageError(f"trials: the file has {num:,} combinations; give how many of them are to be tried")
        names = [choice.name for choice in self.choices]
        rows = [dict(zip(names, row, strict=True)) for row in itertools.product(*(c.values for c in self.choices))]
        for row in rows:
            self.settings(row, seed=self.seeds[0]).with_mode()  # raises where they don't go together
        return rows

    def defaults(self) -> dict[str, Any]:
        """What settings have by themselves, as far as the space holds it: worth a trial before any other."""
        try:
            plain = reading.build(TrainSettings, self.base).with_mode()
        except UsageError:  # it takes something of the space to make them whole
            return {}
        found: dict[str, Any] = {}
        for choice in self.choices:
            for value in choice.values:
                if self._value(choice.name, value) == getattr(plain, choice.name):
                    found[choice.name] = value
        for part in self.ranges:
            value = getattr(plain, part.name)
            if isinstance(value, int | float) and part.low <= value <= part.high:
                found[part.name] = value
        return found

    def _value(self, name: str, value: object) -> object:
        """A setting's value as it is typed, or None where it does not go with the base alone."""
        found = reading.check(TrainSettings, [{name: Given(str(value), "the sweep")}, self.base], [])
        return getattr(found, name, None)


def read(path: Path, given: Mapping[str, Given]) -> tuple[SweepSettings, Space]:
    """A sweep's file under the options of the command.

    Every value of every list and both ends of every range are checked against the settings' own ranges.

    Raises:
        UsageError: Naming every problem of the file at once.
    """
    file = reading.parse(path)
    problems = [*file.problems]
    if file.variants:
        problems.append("variants: a sweep's file has lists of values instead")
    own = {name: item for name, item in file.base.items() if name in SweepSettings.model_fields}
    rest = {name: item for name, item in file.base.items() if name not in own}
    base, choices, ranges, seeds = {}, [], [], ("0",)
    for name, item in rest.items():
        if name in NOT_GIVEN:
            problems.append(f"{item.where}: {name}: not for a sweep")
        elif name == "seed":
            seeds = tuple(item.value) if isinstance(item.value, list) else (item.value,)
            if not seeds or len(set(seeds)) < len(seeds):
                problems.append(f"{item.where}: seed: expected numbers, each once, got {item.value}")
        elif isinstance(item.value, dict):
            ranges += _range(name, item, problems)
        elif isinstance(item.value, list) and (not _is_list(name) or any(isinstance(v, list) for v in item.value)):
            choices += _choice(name, item, problems)
        else:
            base[name] = item
    settings = reading.check(SweepSettings, [given, own], problems)
    _check_all(base, choices, ranges, seeds if "seed" in rest else (), problems, rest)
    reading.refuse(problems)
    assert settings is not None
    if not choices and not ranges and len(seeds) == 1:
        raise UsageError(f"config {path}: nothing differs; give a list or a range of a setting, or seed: [0, 1, 2]")
    return settings, Space(base, tuple(choices), tuple(ranges), tuple(int(seed) for seed in seeds))


def _is_list(name: str) -> bool:
    """Whether the setting itself is a list of names."""
    return name in TrainSettings.model_fields and "tuple" in str(TrainSettings.model_fields[name].annotation)


def _choice(name: str, item: Given, problems: list[str]) -> list[Choice]:
    values = [",".join(map(str, v)) if isinstance(v, list) else v for v in item.value]
    if name in NOT_VARIED:
        problems.append(f"{item.where}: {name}: one value for all trials")
    elif not values or len(set(map(str, values))) < len(values):
        problems.append(f"{item.where}: {name}: expected values, each once, got {item.value}")
    elif any(isinstance(v, dict) for v in values):
        problems.append(f"{item.where}: {name}: expected values, or one range {{low: ..., high: ...}}")
    else:
        return [Choice(name, tuple(values))]
    return []


def _range(name: str, item: Given, problems: list[str]) -> list[Range]:
    told = (
        f"{item.where}: {name}: expected {{low: NUMBER, high: NUMBER}} with log: true or step: NUMBER, got {item.value}"
    )
    kinds = _kinds(name)
    numbers = {key: _number(item.value.get(key)) for key in ("low", "high", "step") if key in item.value}
    log = str(item.value.get("log", "false")).lower()
    low, high, step = (numbers.get(key) for key in ("low", "high", "step"))
    is_wrong = (
        set(item.value) - _KEYS
        or None in numbers.values()
        or low is None
        or high is None
        or not low < high
        or log not in ("true", "false")
        or (log == "true" and (low <= 0 or step))
        or (step is not None and step <= 0)
        or (float not in kinds and any(value != int(value) for value in (low, high, step or 1)))
    )
    if is_wrong or low is None or high is None:
        problems.append(told)
    elif name in NOT_VARIED or not kinds & {int, float}:
        problems.append(f"{item.where}: {name}: no number that could have a range")
    else:
        return [Range(name, low, high, log == "true", step, float not in kinds)]
    return []


def _kinds(name: str) -> set[type]:
    """The plain types that a setting may have."""
    if name not in TrainSettings.model_fields:
        return {float}  # its name is complained of elsewhere
    found, todo = set(), [TrainSettings.model_fields[name].annotation]
    while todo:
        kind = todo.pop()
        if typing.get_origin(kind) in (typing.Union, types.UnionType, typing.Annotated):
            todo += typing.get_args(kind)
        elif isinstance(kind, type):
            found.add(kind)
    return found


def _number(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _check_all(
    base: Mapping[str, Given],
    choices: Sequence[Choice],
    ranges: Sequence[Range],
    seeds: Sequence[str],
    problems: list[str],
    where: Mapping[str, Given],
) -> None:
    """Each value of each setting with the first value of the others."""
    first: dict[str, object] = {c.name: c.values[0] for c in choices} | {r.name: _typed(r, r.low) for r in ranges}
    tried: list[dict[str, object]] = [{}]
    tried += [{c.name: value} for c in choices for value in c.values[1:]]
    tried += [{r.name: _typed(r, r.high)} for r in ranges]
    tried += [{"seed": seed} for seed in seeds]
    found: dict[str, None] = {}
    for values in tried:
        given = {name: Given(str(v), where[name].where) for name, v in (first | values).items()}
        mine: list[str] = []
        made = reading.check(TrainSettings, [given, base], mine)
        if made and "seed" not in values:
            try:
                made.with_mode()
            except UsageError as error:
                mine.append(f"{', '.join(f'{name}={value}' for name, value in (first | values).items())}: {error}")
        found |= dict.fromkeys(mine)
    problems += list(found)


def _typed(part: Range, value: float) -> object:
    return int(value) if part.is_int else value
