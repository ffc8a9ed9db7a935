"""YAML files and options to validated settings: command line over file over default, all problems at once.

Values arrive as text from the command line and from YAML alike and are read by the same rules, so ``1e-4``
is a number and ``no`` stays text wherever text is expected.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from fmtl.errors import UsageError, did_you_mean, first_ten
from fmtl.settings.fields import Settings, TextLoader, text_of

S = TypeVar("S", bound=Settings)

MOST_BYTES = 1 << 20  # of a file of settings


@dataclass(frozen=True)
class Given:
    """A value as the user gave it, and where, for messages."""

    value: Any
    where: str


def build(kind: type[S], *layers: Mapping[str, Given]) -> S:
    """Settings from layers, the first one winning.

    Raises:
        UsageError: Naming every unknown name, wrong type and value out of range at once.
    """
    settings, problems = _try(kind, *layers)
    refuse(problems)
    assert settings is not None
    return settings


def build_from_file(kind: type[S], given: Mapping[str, Given], path: Path) -> list[S]:
    """Settings from a YAML file under what was given besides; one per entry of its ``variants``, or one.

    Raises:
        UsageError: Naming every problem of the whole file at once.
    """
    file = parse(path)
    tried = [_try(kind, given, variant, file.base) for variant in file.variants or [{}]]
    refuse(list(dict.fromkeys([*file.problems, *(problem for _, problems in tried for problem in problems)])))
    return [settings for settings, _ in tried if settings is not None]


def refuse(problems: list[str]) -> None:
    """Raise UsageError where there are problems, naming them."""
    if problems:
        raise UsageError("settings:\n" + first_ten(problems))


def check(kind: type[S], layers: Iterable[Mapping[str, Given]], problems: list[str]) -> S | None:
    """``build`` that adds what is wrong to a list of problems instead of raising it."""
    settings, found = _try(kind, *layers)
    problems += found
    return settings


def _try(kind: type[S], *layers: Mapping[str, Given]) -> tuple[S | None, list[str]]:
    given = {k: v for layer in reversed(layers) for k, v in layer.items()}
    known = {k: v for k, v in given.items() if k in kind.model_fields}
    problems = [_unknown(k, v.where, kind.model_fields) for k, v in given.items() if k not in known]
    try:
        return kind.model_validate({k: _none_if_null(kind, k, v.value) for k, v in known.items()}), problems
    except ValidationError as error:
        return None, problems + [_sentence(item, known) for item in error.errors()]


def _none_if_null(kind: type[Settings], name: str, value: Any) -> Any:
    optional = kind.model_fields[name].default is None
    return None if optional and value in ("", "null", "~") else value


def _unknown(name: str, where: str, known: Iterable[str]) -> str:
    hint = did_you_mean(name, known, otherwise=f"known: {', '.join(known)}")
    return f"{where}: unknown setting '{name}'; {hint}"


def _sentence(item: Mapping, given: Mapping[str, Given]) -> str:
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if not item["loc"]:
        return message
    name = str(item["loc"][0])
    if item["type"] == "missing":
        return f"{name}: required, not given"
    where = given[name].where
    where = where if where.startswith("--") else f"{where}: {name}"
    value = given[name].value
    got = "an empty value; leave it out for its default" if str(value) in ("None", "null") else repr(value)
    return f"{where}: expected {message.split(', unable')[0]}, got {got}"


@dataclass(frozen=True)
class ConfigFile:
    """A YAML file as it was found: its top level, its variants, and what is wrong with its form."""

    base: dict[str, Given]
    variants: list[dict[str, Given]]
    problems: list[str]


def parse(path: Path) -> ConfigFile:
    """Read a file, every scalar as text; only what stops the reading itself is raised."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"config {path}: more than {MOST_BYTES:,} bytes, which settings never are")
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=TextLoader)
    except OSError as error:
        raise UsageError(f"config {path}: {error.strerror}") from error
    except RecursionError as error:
        raise UsageError(f"config {path}: more deeply nested than settings are") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise UsageError(f"config {path}:{line} {getattr(error, 'problem', None) or error}") from error
    problems: list[str] = []
    base = _mapping(root, path, problems) if root else {}
    layers = []
    if variants := base.pop("variants", None):
        entries = variants.value.value if isinstance(variants.value, yaml.SequenceNode) else []
        if not entries:
            problems.append(f"{variants.where}: variants: expected a list of mappings")
        layers = [_mapping(entry, path, problems) for entry in entries]
    plain = [
        {name: Given(_text(item, problems), item.where) for name, item in layer.items()} for layer in (base, *layers)
    ]
    return ConfigFile(plain[0], plain[1:], problems)


def _text(item: Given, problems: list[str]) -> Any:
    try:
        return text_of(item.value)
    except yaml.MarkedYAMLError as error:
        problems.append(f"{item.where}: {error.problem}")
        return ""


def _mapping(node: yaml.Node, path: Path, problems: list[str]) -> dict[str, Given]:
    if not isinstance(node, yaml.MappingNode):
        problems.append(f"{path.name} line {node.start_mark.line + 1}: expected 'name: value' lines")
        return {}
    found: dict[str, Given] = {}
    for key, value in node.value:
        where = f"{path.name} line {key.start_mark.line + 1}"
        name = str(key.value).replace("-", "_")
        if name in found:
            problems.append(f"{where}: '{name}' is given twice, first on {found[name].where.removeprefix(path.name)}")
        found[name] = Given(value, where)
    return found


def to_yaml(values: Mapping[str, Any]) -> str:
    """Settings by name, as JSON has them, as a YAML file that ``build_from_file`` reads back."""
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
