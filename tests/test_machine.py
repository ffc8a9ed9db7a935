"""What a process gets back after memory was kept for it."""

import platform
import subprocess
import sys

import pytest

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
