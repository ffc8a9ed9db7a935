"""Plain data as a file holds it, checked before anybody relies on it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any

from fmtl.errors import DataError

Kinds = Mapping[str, type | UnionType]
SEAL = "sha256"  # the field of a JSON file that has the hash of its other fields


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its seal."""
    return {**content, SEAL: _digest(content)}


def read_json(path: Path) -> Any:
    """What a JSON file holds; where it is sealed, that is what was written.

    Raises:
        DataError: It can't be read, or was altered.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"can't be read ({error})", where=str(path)) from error
    if isinstance(content, dict) and SEAL in content:
        others = {name: value for name, value in content.items() if name != SEAL}
        if content[SEAL] != _digest(others):
            raise DataError("was altered or is damaged (its checksum differs)", where=str(path))
    return content


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def checked(content: object, kinds: Kinds, *, optional: Kinds | None = None, where: str) -> dict[str, Any]:
    """The content as a dict that has these fields, each of its kind, and no others.

    Args:
        kinds: By name of a field.
        optional: Of fields that may be absent.
        where: The file, and the part of it.

    Raises:
        DataError: It is no mapping, or lacks something, or has something that nobody knows, or of another kind.
    """
    optional = optional or {}
    if not isinstance(content, dict):
        raise DataError(f"expected fields by name, got {_kind(type(content))}", where=where)
    for name in kinds:
        if name not in content:
            raise DataError(f"lacks '{name}'", where=where)
    for name, value in content.items():
        kind = kinds.get(name, optional.get(name))
        if kind is None:
            raise DataError(f"has {str(name)[:80]!r}, which is unknown here", where=where)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise DataError(f"'{name}': expected {_kind(kind)}, got {_kind(type(value))}", where=where)
    return content


def _kind(kind: Any) -> str:
    words = {dict: "a mapping", list: "a list", str: "text", int: "a whole number", float: "a number"}
    return words.get(kind) or str(getattr(kind, "__name__", kind))
