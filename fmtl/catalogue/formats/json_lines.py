"""JSON to a ``Catalogue``: an object per line, or one array of them. Lists stay text, as JSON writes them."""

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from fmtl.catalogue.formats import text
from fmtl.catalogue.formats.cells import cell_text
from fmtl.catalogue.reasons import Reason
from fmtl.catalogue.table import Catalogue, Reject
from fmtl.errors import DataError

_SHOWN = 200  # characters of a line in a reject


def read(content: bytes, *, encoding: str | None, where: str) -> Catalogue:
    """Every object is a row; its names, in the order in which they come, are the columns.

    Raises:
        DataError: It is not text, or no line holds an object.
    """
    decoded, _, notes = text.decode(content, encoding or text.without_mark(content), where=where)
    table = Catalogue(pd.DataFrame(), notes=notes)
    rows: dict[int, dict[str, Any]] = {}
    for line, item in _items(decoded) if decoded.strip() else ():
        if isinstance(item, dict):
            rows[line] = {" ".join(str(name).split()): value for name, value in item.items()}
        else:
            table.rejects.append(Reject(line, "", Reason.NOT_JSON, f"no JSON object: {item[:_SHOWN]}"))
    if not rows:
        first = f"; line {table.rejects[0].line}: {table.rejects[0].detail}" if table.rejects else ""
        raise DataError(f"0 rows; expected a JSON object on each line, or an array of them{first}", where=where)
    names = dict.fromkeys(name for row in rows.values() for name in row)
    table.unusable = {name: "object" for name in names if any(isinstance(r.get(name), dict) for r in rows.values())}
    columns = {
        name: [cell_text(row.get(name)) for row in rows.values()] for name in names if name not in table.unusable
    }
    table.frame = pd.DataFrame(columns, index=pd.Index(list(rows), name="line", dtype="int64"), dtype=object)
    return table


def _items(decoded: str) -> Iterator[tuple[int, Any]]:
    """(line, object), or (line, its text) where there is none; of an array, (position, object)."""
    lines = [(number, line) for number, line in enumerate(decoded.split("\n"), 1) if line.strip()]
    whole = _array(_parsed(decoded)) if len(lines) == 1 or not isinstance(_parsed(lines[0][1]), dict) else None
    if whole is not None:
        for position, item in enumerate(whole, 1):
            yield position, item if isinstance(item, dict) else json.dumps(item)
        return
    for number, line in lines:
        item = _parsed(line)
        yield number, item if isinstance(item, dict) else line.strip()


def _array(whole: Any) -> list | None:
    """The rows of a document that is one value: an array, one under a name, or columns as pandas writes them."""
    if isinstance(whole, list):
        return whole
    if not isinstance(whole, dict) or not whole:
        return None
    values = list(whole.values())
    if all(isinstance(column, dict) for column in values):
        keys = dict.fromkeys(key for column in values for key in column)
        return [{name: column.get(key) for name, column in whole.items()} for key in keys]
    lists = [value for value in values if isinstance(value, list) and value and all(isinstance(v, dict) for v in value)]
    return lists[0] if len(lists) == 1 else [whole]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
