"""Photos that are files below one folder, nothing outside which is ever opened."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fmtl.catalogue.reasons import Reason

MAX_BYTES = 64 << 20  # of a photo's file; the largest that cameras write are below


class ImageError(Exception):
    """An image that can't be used.

    Attributes:
        reason: One word for counting.
        detail: What was found.
    """

    def __init__(self, reason: Reason, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ImageFolder:
    """A folder of images. Nothing outside it is ever opened, whatever a path says or links to.

    Args:
        follow_links: Whether links below it may lead out, as those of DVC, git-annex or a hub's cache do; what they
            lead to must be a regular file.
    """

    def __init__(self, root: Path | str, *, follow_links: bool = False):
        self.root = os.path.realpath(root)
        self.follow_links = follow_links
        self._folders: dict[str, str] = {}  # relative folder: real path, checked once

    def find(self, relative: str) -> tuple[str, os.stat_result]:
        """Real path and status of a regular file.

        Raises:
            ImageError: ``outside_root``, ``missing``, ``unreadable`` or ``not_regular_file``.
        """
        folder, name = os.path.split(_below_root(relative))
        try:
            real = self._folders.get(folder)
            if real is None:
                real = self._folders[folder] = self._inside(os.path.join(self.root, folder), relative)
            path = f"{real}/{name}"
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                path = self._inside(path, relative)
                status = os.lstat(path)
        except (OSError, ValueError) as error:  # absent, a loop of links, a name too long
            raise _unopened(relative, error) from error
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(Reason.NOT_REGULAR_FILE, f"'{relative}' is a folder, pipe or device")
        return path, status

    def read(self, relative: str) -> tuple[bytes, os.stat_result]:
        """A file's bytes and its status, which did not change while it was read.

        Raises:
            ImageError: As ``find``, ``too_large`` or ``changed``.
        """
        path, status = self.find(relative)
        if status.st_size > MAX_BYTES:
            raise ImageError(Reason.TOO_LARGE, f"'{relative}' has {status.st_size:,} bytes, more than {MAX_BYTES:,}")
        try:
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb", buffering=0) as file:
                content = file.readall()
                after = os.fstat(file.fileno())
        except OSError as error:
            raise _unopened(relative, error) from error
        if signature(after) != signature(status) or len(content) != after.st_size:
            raise ImageError(Reason.CHANGED, f"'{relative}' changed while it was read; run again")
        return content, status

    def names(self, folder: str) -> set[str]:
        """Of what lies directly in a folder below the root; none where it is not there or leads out."""
        try:
            return set(os.listdir(self._inside(os.path.join(self.root, folder), folder)))
        except (ImageError, OSError, ValueError):
            return set()

    def walk(self, *, into_links: bool = False) -> Iterator[tuple[str, str]]:
        """(folder, name) of every file below the root, in sorted order, hidden ones left out.

        Folders that links lead to are entered once, and only where links are followed.

        Args:
            into_links: List what lies behind links all the same; reading it is another matter.
        """
        entered = set()
        for folder, below, names in os.walk(self.root, followlinks=self.follow_links or into_links):
            real = os.path.realpath(folder)
            if real in entered or (folder != self.root and self.root.startswith(real)):
                below.clear()
                continue
            entered.add(real)
            below[:] = sorted(name for name in below if name[0] != ".")
            relative = os.path.relpath(folder, self.root)
            for name in sorted(names):
                if name[0] != ".":
                    yield "" if relative == "." else relative, name

    def leads_out(self, relative: str) -> bool:
        """Whether a link on the way to a photo leads out of the folder."""
        real = os.path.realpath(os.path.join(self.root, relative))
        return os.path.commonpath([real, self.root]) != self.root

    def _inside(self, path: str, relative: str) -> str:
        real = os.path.realpath(path, strict=True)
        if not self.follow_links and os.path.commonpath([real, self.root]) != self.root:
            told = f"'{relative}' links to a place outside the image folder; --follow-links true reads it"
            raise ImageError(Reason.OUTSIDE_ROOT, told)
        return real


def signature(status: os.stat_result) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns: equal while a file is the same."""
    return status.st_size, status.st_mtime_ns


def _below_root(relative: str) -> str:
    """The path with slashes, as long as it can't point outside."""
    path = relative.replace("\\", "/")  # as tables written on Windows have them
    if "\0" in path or "://" in path or path.startswith("/") or re.match("[A-Za-z]:", path) or ".." in path.split("/"):
        raise ImageError(Reason.OUTSIDE_ROOT, f"{relative!r} is not a path below the image folder")
    return path


def _unopened(relative: str, error: OSError | ValueError) -> ImageError:
    if isinstance(error, PermissionError):
        return ImageError(Reason.UNREADABLE, f"'{relative}': permission denied")
    if getattr(error, "errno", None) in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, None):
        return ImageError(Reason.MISSING, f"'{relative}': {getattr(error, 'strerror', None) or error}")
    return ImageError(Reason.UNREADABLE, f"'{relative}': {getattr(error, 'strerror', error)}")


@dataclass(frozen=True)
class PhotoFile:
    """One photo of a folder, which is looked up when it is read and not before."""

    folder: ImageFolder
    name: str

    @classmethod
    def named(cls, path: Path) -> "PhotoFile":
        """A file that the user named; links are followed."""
        path = path.resolve()
        return cls(ImageFolder(path.parent), path.name)

    def read(self) -> bytes:
        """Its bytes; ImageError where there are none."""
        return self.folder.read(self.name)[0]
