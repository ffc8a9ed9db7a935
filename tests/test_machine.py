"""What a process gets back after memory was kept for it, and what is said where a machine has no more."""

import errno
import platform
import subprocess
import sys

import pytest
import torch

from fmtl import machine

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
