"""Commands by torchrun, for tests."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def torchrun(num: int, *command: object, options: tuple[str, ...] = ("--standalone",), **more) -> subprocess.Popen:
    """Start a script or ``-m module`` in so many processes of one thread each."""
    asked = [sys.executable, "-m", "torch.distributed.run", *options, "--nproc-per-node", str(num), *map(str, command)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more.pop("env", {})
    return subprocess.Popen(asked, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)


def done(process: subprocess.Popen, seconds: float = 240) -> str:
    """What it said, when it has ended well."""
    said, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, said
    return said


def train_options(data: Path, **settings: object) -> list[str]:
    """Of a quick training whose result does not depend on the machine's mood."""
    chosen = {
        "data": data, "backbone": "test_efficientnet", "weights": "none", "px": 32, "batch_size": 16,
        "precision": "fp32", "channels_last": "false", "gallery": "false", "extra_plots": "false", "epochs": 2,
    }  # fmt: skip
    return [part for name, value in (chosen | settings).items() for part in (f"--{name.replace('_', '-')}", str(value))]
