"""The journal of a run: what is to be said to a store, line by line, in the order it happened.

A line is a JSON object with ``op``:

==========  ==========================================================================
begin       ``at``; an attempt starts: the first, or a resumed one
params      ``values`` by name
metrics     ``values`` by name, ``step``, ``at`` (ms since 1970)
tags        ``values`` by name; None takes a tag away
dataset     ``name``, ``digest``, ``source``, ``context``
model       ``epoch``, ``params``, ``metrics``, ``at``; the folder of the model beside the journal is whole
there       ``steps`` whose metrics the store had before this journal began
end         ``status`` of MLflow, ``outcome`` of fmtl, ``error`` in a sentence or None, ``at``
damaged     stands for a line that can't be read; it is never written
==========  ==========================================================================
"""

import contextlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fmtl.errors import DataError, EnvironmentFault
from fmtl.storage.records import Kinds, checked

log = logging.getLogger(__name__)

Line = dict[str, Any]
KINDS: dict[str, Kinds] = {
    "begin": {"at": int},
    "params": {"values": dict},
    "metrics": {"values": dict, "step": int, "at": int},
    "tags": {"values": dict},
    "dataset": {"name": str, "digest": str, "source": str, "context": str},
    "model": {"epoch": int, "params": dict, "metrics": dict, "at": int},
    "there": {"steps": list},
    "end": {"status": str, "outcome": str, "at": int},
}
DAMAGED = "damaged"
_NUMBERS = {"metrics": "values", "model": "metrics"}  # whose values are points
# Metrics may be "of" a model and a dataset; a model had tags in earlier versions.
_OPTIONAL: Kinds = {"error": str | None, "tags": dict, "of": dict}


def now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return time.time_ns() // 1_000_000


class Journal:
    """An append-only file; several threads may write.

    Raises:
        EnvironmentFault: See ``append``.
    """

    def __init__(self, path: Path):
        self.path = path
        self._writing = threading.Lock()
        self._told: set[int] = set()  # where damaged lines begin

    def append(self, op: str, **content: object) -> None:
        """Write a line; it is on the disk when this returns."""
        line = json.dumps({"op": op, **content}, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with self._writing:
            size = self.path.stat().st_size if self.path.exists() else 0
            try:
                with self.path.open("ab") as file:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                with contextlib.suppress(OSError):  # a part of a line would spoil the next one
                    os.truncate(self.path, size)
                raise EnvironmentFault(f"{self.path}: can't be written ({error.strerror}); free some space") from error

    def lines(self, start: int = 0) -> Iterator[tuple[Line, int]]:
        """The whole lines from a byte on, each with the byte where the next one starts.

        In place of what is no line of a journal comes ``damaged``, with a word in the log.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(start)
            for raw in file:
                if not raw.endswith(b"\n"):  # being written, or torn by a kill
                    return
                line = self._parsed(raw, start)
                start += len(raw)
                yield line, start

    def _parsed(self, raw: bytes, start: int) -> Line:
        try:
            return _checked(json.loads(raw), where=f"{self.path}, byte {start}")
        except (ValueError, RecursionError, DataError) as error:
            if start not in self._told:
                self._told.add(start)
                log.warning("%s: a line at byte %d is damaged and passed over (%s)", self.path, start, error)
            return {"op": DAMAGED}

    def mend(self) -> None:
        """Drop what a kill left of a last line, which would spoil the next one.

        Only for who holds the run: of a line that is being written right now, nothing is torn.
        """
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self.path.open("rb+") as file:
                file.truncate(whole)


def _checked(line: Any, *, where: str) -> Line:
    op = line.get("op") if isinstance(line, dict) else None
    if op not in KINDS:
        raise DataError("no line of a journal", where=where)
    checked({name: value for name, value in line.items() if name != "op"}, KINDS[op], optional=_OPTIONAL, where=where)
    points = line.get(_NUMBERS.get(op, ""), {}).values()
    if not all(isinstance(value, int | float) and abs(value) < math.inf for value in points):
        raise DataError("a point that is no number", where=where)
    if not all(0 <= line.get(name, 0) < 2**63 for name in ("step", "at", "epoch")):
        raise DataError("a step or a time that can't be", where=where)
    return line


def is_damaged(lines: Iterator[tuple[Line, int]]) -> bool:
    return any(line["op"] == DAMAGED for line, _ in lines)


def last_end(lines: Iterator[tuple[Line, int]]) -> Line | None:
    """The line of the end, unless an attempt was begun after it."""
    found = None
    for line, _ in lines:
        if line["op"] in ("begin", "end"):
            found = line if line["op"] == "end" else None
    return found


def begun(lines: Iterator[tuple[Line, int]]) -> int:
    """When the last attempt began, in ms since 1970; 0 if none did."""
    return max((line["at"] for line, _ in lines if line["op"] == "begin"), default=0)


def tags_of(lines: Iterator[tuple[Line, int]]) -> dict[str, str]:
    """What the tags are after all these lines."""
    tags: dict[str, str] = {}
    for line, _ in lines:
        if line["op"] == "tags":
            tags |= line["values"]
        elif line["op"] == "end":
            tags["fmtl.outcome"] = line["outcome"]
    return {name: value for name, value in tags.items() if value is not None}


def last_metrics(lines: Iterator[tuple[Line, int]]) -> dict[str, float]:
    """The last value of each metric."""
    found: dict[str, float] = {}
    for line, _ in lines:
        if line["op"] == "metrics":
            found |= line["values"]
    return found
