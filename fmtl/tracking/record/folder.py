"""The folder of a run: its files, and beside them its record (journal, lease, what was delivered where).

::

    runs/20261126-104152-3f9a1c/        with a server            mlruns/1/5e0c.../      with a local store
    ├── config.yaml  checkpoints/ ...   the run's files          ├── artifacts/         the run's files
    ├── model/                          the logged model         └── record/
    └── record/
        ├── run.json  journal.jsonl  lease.json  lock
        └── delivered-<store>.json
"""

import contextlib
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fmtl.errors import DataError, EnvironmentFault
from fmtl.storage import durable
from fmtl.storage.records import SEAL, Kinds, checked, read_json, sealed
from fmtl.tracking.record.journal import Journal
from fmtl.tracking.record.lease import Lease

RUNS = Path("runs")
RECORD, MODEL = "record", "model"
ARTIFACTS = "artifacts"  # MLflow's name of a run's folder in a local store
JOURNAL, ABOUT, LEASE, LOCK, CRASH = "journal.jsonl", "run.json", "lease.json", "lock", "crash.log"

_ABOUT: Kinds = {"id": str, "kind": str}
_ALSO: Kinds = dict.fromkeys(("name", "experiment", "parent", "adopted"), str | None) | {"context": dict, SEAL: str}


def new_id() -> str:
    """Sorts by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


class RunFolder:
    """Paths of a run, and what is known about it.

    Attributes:
        files: Folder of the run's files: of its artifacts, once they are delivered.
        record: Folder of its record.
    """

    def __init__(self, files: Path, record: Path):
        self.files, self.record = files.resolve(), record.resolve()

    @classmethod
    def lasting(cls, root: Path) -> "RunFolder":
        """The folder of a run whose files are delivered to a store."""
        return cls(root, root / RECORD)

    @classmethod
    def of_artifacts(cls, folder: Path) -> "RunFolder":
        """The folder of a run whose artifacts, in a store on this disk, are its files."""
        return cls(folder, folder.parent / RECORD)

    @classmethod
    def at(cls, path: Path) -> "RunFolder":
        """The one that a path leads to.

        Raises:
            DataError: It leads to none.
        """
        local = [cls.of_artifacts(path / ARTIFACTS)] if (path / ARTIFACTS).is_dir() else []
        for folder in (*local, cls.lasting(path), cls.of_artifacts(path)):
            if folder.exists:
                return folder
        raise DataError(f"{path}: not the folder of a run (it has no {RECORD}/{JOURNAL})")

    @property
    def exists(self) -> bool:
        return (self.record / JOURNAL).is_file()

    @property
    def root(self) -> Path:
        """What to name to people and to ``fmtl sync``."""
        return self.record.parent

    @property
    def model(self) -> Path:
        """Where the model lies until a store has it."""
        return (self.files if self.files == self.root else self.record) / MODEL

    def journal(self) -> Journal:
        return Journal(self.record / JOURNAL)

    def begin(self, about: dict[str, Any], kept: Mapping[str, str] | None = None) -> Journal:
        """Make the folder, or go on in it.

        Args:
            kept: Files of the record by name, which are there before the journal is.

        Raises:
            EnvironmentFault: It can't be written.
        """
        for folder in (self.files, self.record):
            durable.check_writable(folder)
        if not self.about():
            durable.write_json(self.record / ABOUT, sealed(about))
        for name, text in (kept or {}).items():
            durable.write_text(self.record / name, text)
        durable.write_text(self.record / LEASE, Lease.mine().json())
        (self.record / CRASH).unlink(missing_ok=True)  # an earlier attempt's
        for left in self.record.glob(f"{durable.TEMPORARY_PREFIX}*"):  # of a delivery that was killed
            shutil.rmtree(left, ignore_errors=True)
        for torn in self.files.rglob(f"{durable.TEMPORARY_PREFIX}*"):  # of a write that was killed
            if torn.is_file():
                torn.unlink(missing_ok=True)
        journal = self.journal()
        journal.mend()
        return journal

    def last_words(self) -> str:
        """What a crashed interpreter wrote, in a line; empty if it wrote nothing."""
        words = self.record / CRASH
        first = words.read_text(encoding="utf-8", errors="replace").splitlines()[:1] if words.is_file() else []
        return f"its process crashed: {first[0]}; see {words}" if first else ""

    def about(self) -> dict[str, Any]:
        """``id``, ``kind``, ``name``, ``experiment``; empty if nothing is known.

        Raises:
            DataError: It was altered or is damaged.
        """
        path = self.record / ABOUT
        return checked(read_json(path), _ABOUT, optional=_ALSO, where=str(path)) if path.exists() else {}

    def glimpse(self) -> dict[str, Any]:
        """As ``about``; empty where that is damaged: for a look over many folders."""
        try:
            return self.about()
        except DataError:
            return {}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within it no other process can work on this run.

        Raises:
            DataError: Another one does.
        """
        with self._lock(LOCK) as free:
            if not free:
                lease = self.lease()
                since = f" since {time.strftime('%H:%M', time.localtime(lease.since / 1000))}" if lease else ""
                raise DataError(
                    f"run {self.root.name}: it is running ({lease or 'in another process'}{since}); wait for its end, "
                    "or end that process"
                )
            yield

    @contextlib.contextmanager
    def delivering(self) -> Iterator[bool]:
        """Within it no other process delivers this run; yields whether that is so."""
        with self._lock("delivering") as free:
            yield free

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[bool]:
        self.record.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.record / name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise EnvironmentFault(f"{self.record / name}: can't be locked ({error.strerror})") from error
        try:
            yield True
        finally:
            lock.release()

    @property
    def is_held(self) -> bool:
        with self._lock(LOCK) as free:
            return not free

    def lease(self) -> Lease | None:
        try:
            return Lease.read((self.record / LEASE).read_text())
        except OSError:
            return None

    def deliverable(self) -> Iterator[Path]:
        """The run's files that belong to its artifacts, those of checkpoints last: the others are small."""
        found = [
            path
            for path in self.files.rglob("*")
            if path.is_file()
            and path.relative_to(self.files).parts[0] not in (RECORD, MODEL)
            and not any(part.startswith(".") for part in path.relative_to(self.files).parts)
        ]
        yield from sorted(found, key=lambda path: (path.parent.name == "checkpoints", path.parent, path))

    def remove(self) -> None:
        """Files and record; the caller knows that they are elsewhere."""
        shutil.rmtree(self.root)


def known(runs: Path = RUNS) -> list[RunFolder]:
    """The run folders below ``runs``, oldest first."""
    if not runs.is_dir():
        return []
    return [folder for path in sorted(runs.iterdir()) if (folder := RunFolder.lasting(path)).exists]
