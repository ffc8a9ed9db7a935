"""This machine without torch: processors and memory, what limits them, and what glibc and OpenMP do with them."""

import contextlib
import ctypes
import errno
import gc
import math
import os
import platform
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

# As torch says it, of a file or of a worker process.
_SHARED = re.compile(r"</torch_\d+_\d+.*No space left|out of shared memory|insufficient shared memory")


_CGROUPS = Path("/sys/fs/cgroup")


def num_cpus() -> int:
    """Processors this process may use: of those that it may run on, as many as its container has the time of."""
    allowed = _num_allowed()
    return max(min(allowed, math.ceil(min(_quotas(), default=allowed))), 1)


def _num_allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas() -> Iterator[float]:
    """Processors' time per time that the control groups of this process have."""
    for group in _control_groups("cpu"):
        of_version_1 = _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
        for quota in (_words(group / "cpu.max"), of_version_1):
            if len(quota) == 2 and all(word.isdigit() and int(word) for word in quota):
                yield int(quota[0]) / int(quota[1])


def _control_groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups, of either version, that limit this process, the innermost first.

    In a container the outermost may be its own under another name than this process is told, or not be there.
    """
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, path = line.split(":", 2)
        inner = Path(path.lstrip("/"))
        if ".." in inner.parts:  # as seen from a space beside it
            inner = Path()
        if not controllers:
            mounts = [_CGROUPS, _CGROUPS / "unified"]
        elif controller in controllers.split(","):
            mounts = [_CGROUPS / name for name in {controllers, controller}]
        else:
            continue
        yield from (mount / group for mount in mounts for group in dict.fromkeys([inner, *inner.parents]))


def _words(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


def _lines(file: Path) -> list[str]:
    """Of a file that the system may not have."""
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


SPINS = 10_000  # some microseconds: longer than threads wait within a step, shorter than another process would like


def share_processors() -> None:
    """Have OpenMP's threads wait in a way that leaves other processes their time, and be as many as there is time for.

    By default GNU's wait at full speed for a long time: beside another process, steps take six to ten times as long.
    It is read when torch is loaded. What the user has set stays.
    """
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
    if num_cpus() < _num_allowed():  # which is what OpenMP itself counts
        os.environ.setdefault("OMP_NUM_THREADS", str(num_cpus()))


def processor() -> str:
    """Its name as the system tells it."""
    names = (line.split(":")[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def free_bytes() -> int:
    """Memory that a new array could take, of the machine's and of what this process's container is allowed."""
    free = (int(line.split()[1]) << 10 for line in _lines(Path("/proc/meminfo")) if line.startswith("MemAvailable"))
    on_machine = next(free, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    return min([on_machine, *_left_by_limits()])


def _left_by_limits() -> Iterator[int]:
    """Bytes that the control groups of this process leave; pages of files that were read only give way."""
    for group in _control_groups("memory"):
        for most, used, prefix in (
            ("memory.max", "memory.current", ""),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),  # version 1
        ):
            limit, now = _words(group / most), _words(group / used)
            if limit and now and limit[0].isdigit():
                stat = dict(line.split() for line in _lines(group / "memory.stat"))
                files = sum(int(stat.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
                yield max(int(limit[0]) - int(now[0]) + files, 0)


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
    return next((int(line.split()[1]) for line in _lines(Path("/proc/vmstat")) if line.startswith("oom_kill ")), None)


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


def since_1970(ticks: str) -> float:
    """Ticks since the boot, as ``process_started`` has them, in seconds since 1970; 0 where that is not known."""
    uptime = _words(Path("/proc/uptime"))
    if not (uptime and ticks.isdecimal()):
        return 0.0
    return time.time() - float(uptime[0]) + int(ticks) / os.sysconf("SC_CLK_TCK")


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


@contextlib.contextmanager
def young_garbage() -> Iterator[None]:
    """Collect only what is made inside.

    Figures hold themselves in cycles, and runs of a store are thousands of objects, so that drawing and reading set off
    collections, which would go through all objects of torch and MLflow each time.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
