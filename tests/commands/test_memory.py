"""A long training takes no more memory than a short one."""

import json
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow

EPOCHS, SETTLED = 30, 5
SCRIPT = """
import json, logging, sys
from fmtl import cli

memory = []

class Look(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith("epoch "):
            status = open("/proc/self/status").read()
            memory.append(int(status.partition("VmRSS:")[2].split()[0]) / 1024)

logging.getLogger("fmtl").addHandler(Look())
code = cli.main(sys.argv[1:])
print(json.dumps(memory))
raise SystemExit(code)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_grows_by_less_than_a_megabyte_per_epoch(dataset, store):
    train = ["train", "--data", str(dataset.folder), "--backbone", "test_efficientnet", "--weights", "none", "--px",
             "64", "--epochs", str(EPOCHS), "--patience", "0", "--checkpoint-minutes", "0.02"]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", SCRIPT, *train], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    memory = json.loads(done.stdout.splitlines()[-1])
    assert len(memory) == EPOCHS
    slope = np.polyfit(np.arange(SETTLED, EPOCHS), memory[SETTLED:], 1)[0]
    print(
        f"{memory[SETTLED]:.0f} MB after {SETTLED} epochs, {memory[-1]:.0f} MB after {EPOCHS}: {slope:.2f} MB per epoch"
    )
    assert slope < 1
