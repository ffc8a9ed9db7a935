"""Checkpoints: verified before they take an older one's place, and whenever they are read; reading runs no code.

A file is the zip archive that ``torch.save`` writes, closed by a comment with the SHA-256 of all before it;
``torch.load`` reads it as any other. The generation before lies beside it under a hidden name.
"""

import hashlib
import io
import logging
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from fmtl.errors import DataError, EnvironmentFault
from fmtl.storage import durable
from fmtl.storage.records import checked
from fmtl.tasks import Tasks

log = logging.getLogger(__name__)

FORMAT, VERSION = "fmtl-checkpoint", 3
READABLE = (2, VERSION)  # 2: without the hash and the position in an epoch
SEAL, SEAL_LENGTH = b"sha256:", len("sha256:") + 64
_FIELDS = {
    "format": str, "version": int, "model": dict, "tasks": list, "settings": dict, "epoch": int, "metrics": dict,
}  # fmt: skip
_TRAINING = {"updater": dict, "history": list}
_POSITION = {
    "epoch": int, "num_batches": int, "num_images": int, "num_skipped": int, "in_a_row": int, "loss_sum": Tensor,
    "seconds": float, "random": dict,
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        model: State dict of the network.
        settings: Training settings by name; what the network must be rebuilt from.
        epoch: The last one that is complete, from 1; 0 before.
        metrics: Of that epoch, by MLflow name.
        training: What it takes to go on: state of the updater, history, position in an epoch. Empty of a best epoch's.
    """

    model: dict[str, Tensor]
    tasks: Tasks
    settings: dict[str, Any]
    epoch: int
    metrics: dict[str, Any]
    training: dict[str, Any]


def save(
    path: Path,
    *,
    model: Mapping[str, Tensor],
    tasks: Tasks,
    settings: Mapping,
    epoch: int,
    metrics: Mapping[str, float],
    training: Mapping | None = None,
) -> None:
    """Write a checkpoint; the one that had its name becomes the generation before.

    It is on the disk and read back before it takes the name, and the older one goes last. See ``Checkpoint``.

    Raises:
        EnvironmentFault: The disk is full, or gave back something else; the older checkpoint is untouched.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": dict(model),
        "tasks": tasks.to_json(),
        "settings": dict(settings),
        "epoch": epoch,
        "metrics": dict(metrics),
    }
    if training is not None:
        content["training"] = dict(training)
    write_sealed(path, content, older=older(path))


def older(path: Path) -> Path:
    """Where the generation before lies."""
    return durable.beside(path, "older")


def forget_older(path: Path) -> None:
    """Remove the generation before, where this one is whole."""
    try:
        is_whole = _verify(path)
    except (OSError, zipfile.BadZipFile):
        is_whole = False
    if is_whole:
        older(path).unlink(missing_ok=True)
    elif older(path).is_file():
        log.warning("checkpoint %s is damaged; the generation before stays: %s", path, older(path))


def take_back(path: Path) -> None:
    """Give the generation before its name back, so that the next save keeps it; what had the name steps aside."""
    if path.is_file():
        path.replace(durable.beside(path, "aside"))
    older(path).replace(path)
    durable.fsync(path.parent)


def size_of(net: nn.Module) -> int:
    """About how many bytes the larger checkpoint of a network takes: its weights and what Adam keeps of each."""
    return 3 * sum(p.numel() * p.element_size() for p in net.parameters())


def load(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        DataError: It is absent, damaged, of another format, or holds anything but what a checkpoint does.
    """
    if not path.is_file():
        raise DataError(f"checkpoint {path}: no such file")
    content, is_sealed = _read(path)
    version = content.get("version") if isinstance(content, dict) and content.get("format") == FORMAT else None
    if version not in READABLE:
        raise DataError(f"checkpoint {path}: expected {FORMAT} version {VERSION}, got {_what(content, version)}")
    if version == VERSION and not is_sealed:
        raise DataError(f"checkpoint {path}: damaged (its end is missing); use an older copy")
    return _checked(content, f"checkpoint {path}")


def write_sealed(path: Path, content: Mapping, *, older: Path | None = None) -> None:
    """Write plain data and tensors under a seal.

    Args:
        older: Where what had the name before is kept.

    Raises:
        EnvironmentFault: See ``save``.
    """
    with durable.replacing(path) as temporary:
        _write(temporary, content)
        durable.fsync(temporary)
        try:
            _verify(temporary)
        except zipfile.BadZipFile as error:
            raise EnvironmentFault(
                f"{path}: what was written can't be read back ({error}); look at the disk"
            ) from error
        if older is not None and path.is_file():
            durable.keep(path, older)


def read_sealed(path: Path) -> object:
    """Read what ``write_sealed`` wrote. Raises DataError where it is damaged."""
    content, is_sealed = _read(path)
    if not is_sealed:
        raise DataError(f"{path}: damaged (its end is missing)")
    return content


def _read(path: Path) -> tuple[Any, bool]:
    """The content, and whether it is sealed."""
    try:
        is_sealed = _verify(path)
        return torch.load(path, map_location="cpu", weights_only=True), is_sealed
    except MemoryError:
        raise
    except Exception as error:  # whatever a stranger's file makes of torch
        raise DataError(f"checkpoint {path}: damaged or no checkpoint ({error}); use an older copy") from error


def generations(path: Path) -> Iterator[tuple[Path, Checkpoint]]:
    """The whole checkpoints of this name and their files, newest first; of a damaged one a word is said.

    Raises:
        DataError: Something is there and none of it can be used.
    """
    there = [file for file in (path, older(path)) if file.is_file()]
    errors, found = [], 0
    for file in there:
        try:
            checkpoint = load(file)
        except DataError as error:
            errors.append(error)
            continue
        for told in errors:
            log.warning("%s; going on with the generation before, of epoch %d", told, checkpoint.epoch)
        errors, found = [], found + 1
        yield file, checkpoint
    if there and not found:
        raise errors[0]


class _Sealed:
    """A file that takes the hash of what is written to it as the comment of a zip archive.

    The archive's last two bytes are the length of its comment.
    """

    def __init__(self, file: IO[bytes]):
        self._file, self._digest, self._last = file, hashlib.sha256(), b""
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            self._put(view)
        except OSError as error:  # torch would call it an unexpected position
            self.error = error
            raise
        end = self._last + bytes(view[-2:]) if len(view) < 2 else bytes(view[-2:])
        self._digest.update(self._last if len(view) >= 2 else end[:-2])
        self._digest.update(view[:-2])
        self._last = end[-2:]
        return len(view)

    def _put(self, view: memoryview) -> None:
        self._file.write(view)

    def flush(self) -> None:
        self._file.flush()

    def seal(self) -> None:
        self._file.seek(-2, io.SEEK_END)
        self._file.write(SEAL_LENGTH.to_bytes(2, "little") + SEAL + self._digest.hexdigest().encode())


def _write(path: Path, content: Mapping) -> None:
    with path.open("xb") as file:
        sealed = _Sealed(file)
        try:
            torch.save(content, sealed)  # type: ignore[arg-type]  # it asks for no more than these methods
        except RuntimeError as error:
            raise sealed.error or error from error
        sealed.seal()


def _verify(path: Path) -> bool:
    """Whether the file is sealed. Raises zipfile.BadZipFile where it is not what was written."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - SEAL_LENGTH, 0))
        seal = file.read()
        if not seal.startswith(SEAL):  # of an older version: torch.load does not look at the checksums that it wrote
            with zipfile.ZipFile(file) as archive:
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(f"checksum of {damaged} differs")
            return False
        file.seek(0)
        digest, left = hashlib.sha256(), size - SEAL_LENGTH - 2
        while left > 0 and (part := file.read(min(left, 1 << 20))):
            digest.update(part)
            left -= len(part)
        if file.read(2) + seal != SEAL_LENGTH.to_bytes(2, "little") + SEAL + digest.hexdigest().encode():
            raise zipfile.BadZipFile("its checksum differs")
    return True


def _checked(content: dict, where: str) -> Checkpoint:
    """Raises DataError where something is missing, unknown or of another kind."""
    checked(content, _FIELDS, optional={"training": dict}, where=where)
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content["model"].items()):
        raise DataError("'model': expected tensors by name", where=where)
    training = content.get("training", {})
    if training:
        checked(
            training,
            _TRAINING,
            optional={"position": dict | None, "machine": dict, "before": int},
            where=f"{where}, training",
        )
        rows = training["history"]
        if not all(isinstance(row, dict) and {"epoch", "val/loss"} <= set(row) for row in rows):
            raise DataError("'history': expected the metrics of each epoch", where=where)
        if training.get("position") is not None:
            checked(training["position"], _POSITION, where=f"{where}, training, position")
    tasks = Tasks.from_json(content["tasks"], where=f"{where}, tasks")
    return Checkpoint(content["model"], tasks, content["settings"], content["epoch"], content["metrics"], training)


def _what(content: object, version: object) -> str:
    if version is not None:
        return f"version {version}: it was written by another version of fmtl, which can read it"
    return f"a {type(content).__name__} of something else"
