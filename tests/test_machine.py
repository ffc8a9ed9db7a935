"""What a process gets back after memory was kept for it, and what is said where a machine has no more."""

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fmtl import machine

CGROUPS = Path("/sys/fs/cgroup")

KEPT = """
import numpy as np
from fmtl import machine

def megabytes():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) >> 10

def grown():
    start = megabytes()
    arrays = [np.ones(5_000_000) for _ in range(8)]  # 305 MB in all
    del arrays
    return megabytes() - start

print(grown())
with machine.memory_kept():
    with machine.memory_kept():
        print(grown())
    print(grown())  # it is there already
start = megabytes()
print(start - 300, grown())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_memory_is_kept_within_and_given_back_after():
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    before, within, again, left, after = map(int, done.stdout.split())
    assert within > 250  # of 305
    assert max(before, again, left, after) < 20


@pytest.mark.parametrize(
    "error, told",
    [
        (MemoryError(), "out of memory; lower batch_size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory; lower batch_size"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "the disk is full"),
        (OSError(errno.ENOSPC, "No space left on device", "/dev/shm/x"), "(/dev/shm) is full: docker run --shm-size"),
        (RuntimeError("unable to write to file </torch_12_3>: No space left on device (28)"), "--shm-size=2g"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Bus error. It is possible that dataloader's "
                      "workers are out of shared memory."), "--shm-size=2g"),
        (OSError(errno.EMFILE, "Too many open files"), "too many open files: a process may have "),
        (RuntimeError("can't start new thread"), "no more threads or processes"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no more threads or processes"),
    ],
)  # fmt: skip
def test_what_ran_out_is_named_with_what_to_do(error, told):
    assert told in machine.exhausted(error)


@pytest.mark.parametrize("error", [
    RuntimeError("size mismatch"), OSError(errno.ENOENT, "x"), KeyError('no column "out of memory"'),
    RuntimeError("Parent directory /data/torch_runs/checkpoints does not exist."),
    RuntimeError("/root/.cache/torch_extensions/x: no space left"),
    RuntimeError("triton: out of resource: shared memory, Required: 131072, Hardware limit: 101376"),
    BlockingIOError(errno.EAGAIN, "write could not complete without blocking"),
])  # fmt: skip
def test_another_error_is_not_taken_for_one(error):
    assert machine.exhausted(error) is None


@pytest.fixture
def group():
    """Makes a control group with a limit that processes can be started in."""
    made = []

    def make(controller, file_v2, value_v2, values_v1):
        mount = next((path for path in (CGROUPS / controller, CGROUPS) if (path / "cgroup.procs").exists()), None)
        folder = mount / f"fmtl-test-{os.getpid()}" if mount else None
        try:
            folder.mkdir()
        except (AttributeError, OSError):
            pytest.skip("no control group can be made here")
        made.append(folder)
        values = values_v1 if (CGROUPS / controller).exists() else {file_v2: value_v2}
        for name, value in values.items():
            (folder / name).write_text(value)
        return folder

    yield make
    for folder in made:
        folder.rmdir()


def said_within(group, code, **environment):
    """What a process in a control group prints, without what this environment says of threads."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    started = f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n" if group else ""
    done = subprocess.run(
        [sys.executable, "-c", started + code], capture_output=True, text=True, check=True, env=kept | environment
    )
    return done.stdout.split()


THREADS = """
import fmtl, os, torch
from fmtl import machine
print(machine.num_cpus(), torch.get_num_threads(), os.environ.get("GOMP_SPINCOUNT"))
"""


def test_a_quota_decides_on_the_threads_and_not_the_processors_of_the_host(group):
    folder = group("cpu", "cpu.max", "90000 100000", {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "90000"})
    assert said_within(folder, THREADS)[:2] == ["1", "1"]
    assert said_within(folder, THREADS, OMP_NUM_THREADS="2")[1] == "2"  # the user's own


def test_threads_wait_in_a_way_that_leaves_others_their_time_but_as_the_user_says():
    assert said_within(None, THREADS)[2] == "10000"
    assert said_within(None, THREADS, GOMP_SPINCOUNT="7")[2] == "7"
    assert said_within(None, THREADS, OMP_WAIT_POLICY="active")[2] == "None"


def test_memory_is_what_the_container_has_left(group):
    most = 600 << 20
    folder = group("memory", "memory.max", str(most), {"memory.limit_in_bytes": str(most)})
    code = """
from fmtl import machine
before = machine.free_bytes()
kept = b"x" * (200 << 20)
print(before, machine.free_bytes())
"""
    before, after = map(int, said_within(folder, code))
    assert most - (100 << 20) < before <= most and (190 << 20) < before - after < (210 << 20)
