"""What all settings share: their base, the kinds of their values, and the way to plans."""

import csv
import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

P = TypeVar("P")

MOST_PARTS = 1_000
UNITS = {"h": 3600, "min": 60, "m": 60, "s": 1, "": 1}  # in seconds
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(h|min|m|s|$)")


def _split_list(value: Any) -> Any:
    """'a, b' to ('a', 'b'): lists are typed with commas on the command line; a name with a comma in double quotes."""
    if not isinstance(value, str):
        return value
    parts = next(csv.reader([value], skipinitialspace=True), []) if '"' in value else value.split(",")
    return [part.strip() for part in parts if part.strip()]


def _from_home(value: Any) -> Any:
    """'~/photos' as a shell reads it: settings come from files and from MLflow, too."""
    return str(Path(value).expanduser()) if isinstance(value, str) and value.startswith("~") else value


def _as_mlflow_allows(name: str) -> str:
    """Its own rule for a registered model's name, so that any registry can be used (catalog.schema.model too)."""
    if not name.strip() or "/" in name or ":" in name or name.strip(".") == "":
        raise ValueError("a name without '/' and ':'")
    return name


def _not_reserved(alias: str) -> str:
    if alias == "latest" or re.fullmatch(r"[vV]\d+", alias):
        raise ValueError("a name that MLflow does not reserve (it has 'latest' and 'v1', 'v2', ...)")
    return alias


def _as_part(text: str) -> str:
    number, slash, num = text.partition("/")
    if not (slash and number.isdecimal() and num.isdecimal() and 1 <= int(number) <= int(num) <= MOST_PARTS):
        raise ValueError(f"a part such as 2/4, of {MOST_PARTS} at most")
    return f"{int(number)}/{int(num)}"


def _in_seconds(value: Any) -> Any:
    """'1h30m' as people write times, or a number of seconds."""
    if not isinstance(value, str):
        return value
    parts = re.findall(_TIME, value)
    if not parts or re.sub(_TIME, "", value).strip() or (len(parts) > 1 and not all(unit for _, unit in parts)):
        raise ValueError("a time such as 90s, 10m or 1h30m")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def _as_rules(value: Any) -> Any:
    """``{Heel: {ProductType: [Sandals, Heels]}}`` as YAML has it, from text; one value needs no list."""
    if isinstance(value, str):
        try:
            value = text_of(yaml.compose(value, Loader=TextLoader)) if value.strip() else {}  # it makes text alone
        except (yaml.YAMLError, RecursionError) as error:
            raise ValueError(f"YAML ({getattr(error, 'problem', None) or 'too deeply nested'})") from error
    if not isinstance(value, dict) or not all(isinstance(rule, dict) and rule for rule in value.values()):
        raise ValueError("for each attribute the columns and their values, such as {Heel: {ProductType: [Sandals]}}")
    rules = {
        str(name): {str(column): [values] if isinstance(values, str) else values for column, values in rule.items()}
        for name, rule in value.items()
    }
    for name, rule in rules.items():
        for column, values in rule.items():
            if not values:
                raise ValueError(f"values of column '{column}' to which '{name}' applies")
            if column == name:
                raise ValueError(f"another column to say to which products '{name}' applies")
    return rules


def text_of(node: yaml.Node | None) -> Any:
    """A part of a YAML file as text, lists and mappings of it.

    Raises:
        yaml.MarkedYAMLError: A name is given twice in one mapping.
    """
    if isinstance(node, yaml.SequenceNode):
        return [text_of(entry) for entry in node.value]
    if isinstance(node, yaml.MappingNode):
        found = {}
        for key, value in node.value:
            name = str(text_of(key))
            if name in found:
                raise yaml.MarkedYAMLError(problem=f"'{name}' is given twice", problem_mark=key.start_mark)
            found[name] = text_of(value)
        return found
    return node.value if node else ""


class TextLoader(yaml.BaseLoader):
    """YAML where every scalar stays text; aliases and tags, which settings don't need, are refused."""

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            what = "an alias" if isinstance(event, yaml.AliasEvent) else f"the tag {event.tag}"
            raise yaml.MarkedYAMLError(problem=f"{what} is not allowed here", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def _as_floors(value: Any) -> Any:
    """``Colour=0.3,avg=0.6`` to numbers by name."""
    return _pairs(value, "names and numbers, such as Colour=0.3,avg=0.6", at_last=True)


def _as_files(value: Any) -> Any:
    """``agency=answers.csv,old=last-year.csv`` to places by name."""
    return _pairs(value, "names and files, such as agency=answers.csv", at_last=False)


def _pairs(value: Any, expected: str, *, at_last: bool) -> Any:
    """
    Args:
        at_last: Names may have an equals sign, and what belongs to them has none.
    """
    if not isinstance(value, str):
        return value
    pairs = [part.rpartition("=") if at_last else part.partition("=") for part in _split_list(value)]
    if not all(name.strip() and equals for name, equals, _ in pairs):
        raise ValueError(expected)
    if len({name.strip() for name, _, _ in pairs}) < len(pairs):
        raise ValueError("each name once")
    return {name.strip(): number.strip() for name, _, number in pairs}


Place = Annotated[str, BeforeValidator(_from_home)]  # of a file or folder
Names = Annotated[tuple[str, ...], BeforeValidator(_split_list)]
Rules = Annotated[
    dict[str, dict[str, tuple[str, ...]]], BeforeValidator(_as_rules)
]  # of attributes that exist for some products only
Alias = Annotated[str, Field(pattern=r"^[\w-]+$", max_length=150), AfterValidator(_not_reserved)]
# What a model has to be before an alias moves to it.
IfBetter = Annotated[
    bool,
    Field(
        description="Only if it is better than the alias's model: the 95 % interval of the difference of their test "
        "scores lies above -margin."
    ),
]
Margin = Annotated[float, Field(ge=0, le=1, description="What if_better lets it be worse.")]
Floors = Annotated[
    dict[str, Annotated[float, Field(ge=0, le=1)]],
    BeforeValidator(_as_floors),
    Field(description="Lowest test macro-F1 by attribute, or avg: Colour=0.3,avg=0.6."),
]
Files = Annotated[dict[str, Place], BeforeValidator(_as_files)]  # by name
Force = Annotated[bool, Field(description="Register although if_better or floor says no; what it said is kept.")]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Px = Annotated[int, Field(ge=16, le=2048)]
ModelName = Annotated[str, Field(max_length=250), AfterValidator(_as_mlflow_allows)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Part = Annotated[str, AfterValidator(_as_part)]  # of several machines' work
Seconds = Annotated[float, BeforeValidator(_in_seconds), Field(gt=0, le=30 * 24 * 3600)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]


class Settings(BaseModel):
    """Base of all settings: immutable, and unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


def by_name(kind: type[P], settings: Settings, **known: Any) -> P:
    """A plan whose fields are settings of the same name, but for those that are known otherwise."""
    names = [field.name for field in fields(kind) if field.name not in known]  # type: ignore[arg-type]
    return kind(**{name: getattr(settings, name) for name in names}, **known)
