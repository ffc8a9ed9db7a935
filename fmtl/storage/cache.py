"""What can be made again: kept where there is room, and as good as none where it is damaged."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
DAMAGE = (OSError, ValueError, KeyError, TypeError, RecursionError)  # what a reader raises of a file that is not whole


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/fmtl``, else ``~/.cache/fmtl``; a place where nothing can be kept for who has no home."""
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(root) if root else Path.home() / ".cache") / "fmtl"
    except RuntimeError:  # a container's user that the system does not know
        return Path(os.devnull) / "fmtl"


def recall(read: Callable[[], T | None], *damage: type[Exception]) -> T | None:
    """What ``read`` finds; None where there is nothing, or nothing whole.

    Args:
        damage: Further errors that a damaged file raises.
    """
    try:
        return read()
    except Exception as error:
        if isinstance(error, (*DAMAGE, *damage)):
            return None
        raise


def prune(folder: Path, pattern: str, most_bytes: int) -> None:
    """Remove the files that were used longest ago, until the others take at most so many bytes; never the last used."""
    files = sorted(folder.glob(pattern), key=lambda f: f.stat().st_mtime, reverse=True)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > most_bytes and file != files[0]:
            file.unlink(missing_ok=True)


def prune_folders(place: Path, most_bytes: int) -> None:
    """As ``prune``, of whole folders."""
    folders = sorted(
        (f for f in place.iterdir() if f.is_dir() and f.name[0] != "."), key=lambda f: f.stat().st_mtime, reverse=True
    )
    total = 0
    for folder in folders:
        total += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        if total > most_bytes and folder != folders[0]:
            shutil.rmtree(folder, ignore_errors=True)
