"""Every lasting write: a temporary file beside the target, fsync, rename, fsync of the folder.

A file's name holds its old content or its new one at any instant; a folder's never half of either.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from fmtl import machine
from fmtl.errors import EnvironmentFault

log = logging.getLogger(__name__)

TEMPORARY_PREFIX = ".tmp-"
LOST_AND_FOUND = "lost+found"  # of a volume, whatever lies on it
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on a clean exit it takes the place of ``path``.

    Args:
        sync: Wait for the disk, so that the file outlives a power cut. Without it, whoever reads the file must
            verify it.

    Raises:
        EnvironmentFault: The disk is full or not writable; ``path`` is untouched.
    """
    temporary = _temporary(path)
    try:
        with _faults_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if sync:
                fsync(temporary)
            temporary.replace(path)
            if sync:
                fsync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder outside of everything that lasts; it is removed at the end, and by ``sweep`` after a kill."""
    with tempfile.TemporaryDirectory(prefix=f"fmtl-{_place()}-{os.getpid()}-") as folder:
        yield Path(folder)


def sweep() -> None:
    """Remove the temporary folders that killed processes of this user and machine left."""
    for folder in Path(tempfile.gettempdir()).glob(f"fmtl-{_place()}-*-*"):
        pid = folder.name.split("-")[2]
        with contextlib.suppress(OSError):
            is_ours = folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid()
            if is_ours and pid.isdecimal() and machine.process_started(int(pid)) is None:
                shutil.rmtree(folder, ignore_errors=True)


def _place() -> str:
    """In few letters."""
    return hashlib.sha256(machine.place().encode()).hexdigest()[:8]


def check_writable(folder: Path) -> None:
    """Make a folder if need be. Raises EnvironmentFault where no file can be made in it."""
    with _faults_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_json(path: Path, content: object) -> None:
    """Write as readable JSON. NaN is refused: an undefined number is written as None."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Only one process at a time gets past this for one ``target``; the others wait, and are told so."""
    path = beside(target, "lock")
    with _faults_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("%s: another process is writing it; waiting", target)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def beside(target: Path, what: str) -> Path:
    """A hidden neighbour of ``target`` that belongs to its making; within it where it can have no neighbours."""
    target = target.resolve()
    return (target if stands_alone(target) else target.parent) / f".{target.name}.{what}"


def stands_alone(folder: Path) -> bool:
    """Whether a folder can't be renamed and has no room beside it: a mounted volume, or one in a read-only folder."""
    return folder.is_dir() and (_is_mounted(folder) or not os.access(folder.parent, os.W_OK))


def _is_mounted(folder: Path) -> bool:
    """Path.is_mount compares devices, and so does not see what is mounted from the same one, as containers do."""
    if folder.is_mount():
        return True
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # not Linux
        return False
    points = {re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), line.split()[4]) for line in mounts.splitlines()}
    return str(folder.resolve()) in points


@contextlib.contextmanager
def publishing(folder: Path, *, mark: str = "") -> Iterator[Path]:
    """Yield a temporary folder beside ``folder``; on a clean exit it takes its place as a whole.

    Of an older folder there, the moment between two renames shows neither; what is killed in it is undone or
    finished by ``recover``. Call it with the lock held where two processes may publish the same folder.

    Args:
        mark: Name of the file without which the folder is nothing: where the folder itself can't be renamed, its
            contents are, and the mark goes first and comes last.

    Raises:
        EnvironmentFault: The disk is full or not writable; ``folder`` is untouched.
    """
    folder = folder.resolve()  # through a symbolic link, which stays as it is
    temporary = beside(folder, "new")
    with _faults_named(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    try:
        with _faults_named(folder, full_only=True):  # the caller may read as well as write
            yield temporary
        with _faults_named(folder):
            for path in sorted(temporary.rglob("*")):
                fsync(path)
            fsync(temporary)
            if stands_alone(folder):
                _swap_contents(temporary, folder, mark)
                fsync(folder)
            else:
                _swap(temporary, folder)
                fsync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover(folder: Path, *, mark: str = "") -> None:
    """Put right what a killed ``publishing`` left: the older folder comes back if nothing took its place."""
    old = beside(folder, "old")
    with _faults_named(folder):
        if stands_alone(folder):
            _recover_contents(folder, old, mark)
        elif old.exists() and not folder.exists():
            old.rename(folder.resolve())
        for leftover in (old, beside(folder, "new")):
            shutil.rmtree(leftover, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        shutil.copy2(source, target)  # with its time, by which it is known
        fsync(target)


def keep(path: Path, other: Path) -> None:
    """Give a file a second name, which it keeps when another file takes the first; what had that name goes."""
    temporary = _temporary(other)
    temporary.unlink(missing_ok=True)  # of a process that was killed
    link(path, temporary)
    temporary.replace(other)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _swap(new: Path, target: Path) -> None:
    if not target.exists():
        new.rename(target)
        return
    old = beside(target, "old")
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old)


def _swap_contents(new: Path, target: Path, mark: str) -> None:
    """Without its mark a folder is nothing, so that no instant shows a mixture as something whole."""
    old, leaving = beside(target, "old"), beside(target, "leaving")
    shutil.rmtree(old, ignore_errors=True)
    _move_contents(target, leaving, mark)
    leaving.rename(old)
    _move_contents(new, target, mark)
    shutil.rmtree(old)


def _recover_contents(folder: Path, old: Path, mark: str) -> None:
    leaving = beside(folder, "leaving")
    if leaving.exists():  # nothing new had come yet
        _move_contents(leaving, folder, mark)
        leaving.rmdir()
    elif old.exists() and not (folder / mark).is_file():
        _move_contents(folder, beside(folder, "new"), mark)  # a part of the new ones
        _move_contents(old, folder, mark)


def _move_contents(source: Path, target: Path, mark: str) -> None:
    """What is not hidden, the mark first if it leaves and last if it comes."""
    target.mkdir(exist_ok=True)
    names = sorted(path.name for path in source.iterdir() if path.name[0] != "." and path.name != LOST_AND_FOUND)
    leaves = target.name[:1] == "."
    for name in sorted(names, key=lambda name: (name == mark) != leaves):
        (source / name).replace(target / name)
    fsync(target)


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _faults_named(path: Path, *, full_only: bool = False) -> Iterator[None]:
    """Turn system errors, or only that of a full disk, into the user's view of a failed write."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise EnvironmentFault(f"{path}: the disk is full; free some space and run again") from error
        if full_only:
            raise
        raise EnvironmentFault(f"{path}: can't be written ({error.strerror or error}); choose another place") from error
