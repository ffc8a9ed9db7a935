"""This machine without torch: processors, memory, and what glibc does with it."""

import contextlib
import ctypes
import errno
import os
import platform
import re
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

# As torch says it, of a file or of a worker process.
_SHARED = re.compile(r"</torch_\d+_\d+.*No space left|out of shared memory|insufficient shared memory")


def num_cpus() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Its name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def free_bytes() -> int:
    """Memory that a new array could take."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@contextlib.contextmanager
def memory_kept() -> Iterator[None]:
    """Within it, glibc keeps the memory of freed tensors for the next ones; after it the process is as before.

    By default glibc gives large blocks back to the system, and each step pays a page fault per 4 KB of activations:
    half of the time of small networks. Elsewhere than on glibc nothing happens. It may be entered again within itself
    and by several threads; the last that leaves gives the memory back.
    """
    _keepers.change(1)
    try:
        yield
    finally:
        _keepers.change(-1)


_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of mallopt(3)
_LARGEST_MMAP_THRESHOLD = 32 << 20  # to which glibc moves its thresholds when blocks of that size are freed


class _Keepers:
    """How many keep memory: the allocator's settings are the process's, and so is this number."""

    def __init__(self) -> None:
        self._num, self._lock = 0, threading.Lock()

    def change(self, by: int) -> None:
        with self._lock, contextlib.suppress(OSError, AttributeError, ValueError):
            self._num += by
            libc = ctypes.CDLL(None)
            if self._num == by == 1:
                libc.mallopt(_MMAP_MAX, 0)
                libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
            elif self._num == 0:
                given = os.environ.get
                libc.mallopt(_MMAP_MAX, int(given("MALLOC_MMAP_MAX_", 65536)))
                libc.mallopt(_MMAP_THRESHOLD, int(given("MALLOC_MMAP_THRESHOLD_", _LARGEST_MMAP_THRESHOLD)))
                libc.mallopt(_TRIM_THRESHOLD, int(given("MALLOC_TRIM_THRESHOLD_", 2 * _LARGEST_MMAP_THRESHOLD)))
                libc.malloc_trim(0)


_keepers = _Keepers()


def place() -> str:
    """This machine and the space in which its process ids are counted: only there a process id means anything."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="utf-8").strip()
    except OSError:
        machine = ""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return f"{socket.gethostname()} {machine} {space}"  # clones of a machine have the same id


def num_killed_for_memory() -> int | None:
    """Processes that the kernel has killed since its boot, since memory had run out; None where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    except (OSError, StopIteration):
        return None


def process_started(pid: int) -> str | None:
    """When a process of this place began, in clock ticks since the boot; empty if it is not known.

    None if there is no such process, or only its remains.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # somebody else's
        pass
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux, or hidden from other users
        return ""
    fields = stat.rpartition(")")[2].split()  # after the name, which may hold anything
    return None if fields[0] in "ZX" else fields[19]


def exhausted(error: BaseException) -> str | None:
    """What an error says has run out on this machine, and what to do; None where it is something else.

    torch has no exception of its own for a processor's memory, nor for what its worker processes share.
    """
    said = str(error)
    first = next(iter(said.splitlines()), type(error).__name__)
    number = error.errno if isinstance(error, OSError) else None
    in_shared = number == errno.ENOSPC and str(getattr(error, "filename", "")).startswith("/dev/shm/")
    if in_shared or (isinstance(error, RuntimeError) and _SHARED.search(said)):
        return f"the memory that processes share (/dev/shm) is full: docker run --shm-size=2g, or no workers ({first})"
    no_memory = "out of memory" in said or "can't allocate memory" in said
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError | OSError) and no_memory):
        return f"out of memory; lower batch_size (with accumulate the steps stay as large) or px ({first})"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full; free some space and run again ({first})"
    if number in (errno.EMFILE, errno.ENFILE):
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"too many open files: a process may have {most} here; 'ulimit -n 4096' lets it have more ({first})"
    no_fork = number == errno.EAGAIN and getattr(error, "strerror", "") == os.strerror(errno.EAGAIN)
    if no_fork or (isinstance(error, RuntimeError) and "can't start new thread" in said):
        return f"no more threads or processes may be started; raise 'ulimit -u' or the container's limit ({first})"
    return None
