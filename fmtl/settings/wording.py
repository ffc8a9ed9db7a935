"""Settings in words: their defaults and ranges for help and docs, and the command that repeats a run."""

import functools
import json
import shlex
from collections.abc import Mapping
from math import inf
from typing import Any

from fmtl.settings.fields import Settings
from fmtl.settings.train import MODES, TrainSettings

LARGE = 1e6  # a limit beyond is of the format and not worth a word


def default_text(kind: type[Settings], name: str) -> str:
    """A setting's default as help and docs show it; empty where there is none, or its description says it."""
    if kind is TrainSettings and name in MODES["tuned"]:
        by_mode = {mode: as_text(values[name]) for mode, values in MODES.items()}
        if len(set(by_mode.values())) > 1:
            return ", ".join(f"{value} ({mode})" for mode, value in by_mode.items())
        return by_mode["tuned"]
    field = kind.model_fields[name]
    return "" if field.is_required() or field.default in (None, (), {}) else as_text(field.default)


def allowed_text(kind: type[Settings], name: str) -> str:
    """The values a setting may have, such as ``2 to 65536, auto``; empty for free text and for yes or no."""
    schema = _schema(kind)[name]
    return ", ".join(filter(None, map(_allowed, schema.get("anyOf", [schema]))))


@functools.cache
def _schema(kind: type[Settings]) -> dict[str, dict]:
    return kind.model_json_schema()["properties"]


def _allowed(part: Mapping[str, Any]) -> str:
    """One of a setting's types, as JSON Schema has it."""
    if "enum" in part or "const" in part:
        return ", ".join(part.get("enum") or [part["const"]])
    low = _bounds(part, minimum="{:g}", exclusiveMinimum="above {:g}")
    high = _bounds(part, maximum="to {:g}", exclusiveMaximum="to below {:g}")
    return f"{low} {high}".strip() if high or not low else f"{low} or more"


def _bounds(part: Mapping[str, Any], **texts: str) -> str:
    return "".join(text.format(part[name]) for name, text in texts.items() if part.get(name, inf) < LARGE)


def as_text(value: Any) -> str:
    """A value as it is typed: ``true``, ``1e-05``, ``a,b``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    short = f"{value:g}" if isinstance(value, float) else ""
    return short if short and float(short) == value else str(value)


def command_line(command: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """``fmtl COMMAND`` with an option for all that differs from the defaults."""
    options = [
        f"--{name.replace('_', '-')} {shlex.quote(as_text(value))}"
        for name, value in settings.items()
        if value != defaults.get(name) and value is not None
    ]
    return " ".join([f"fmtl {command}", *options])


def row(kind: type[Settings], name: str) -> str:
    """A setting's line in the tables of ``docs/configuration.md``."""
    field = kind.model_fields[name]
    default = "required" if field.is_required() else default_text(kind, name)
    return f"| `{name}` | {default} | {allowed_text(kind, name)} | {field.description} |"
