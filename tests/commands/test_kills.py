"""A part of ``kills.py``, which ``make reliability`` runs whole."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.reliability
def test_a_training_that_is_killed_anywhere_goes_on_to_the_same_bits(tmp_path):
    script = Path(__file__).parent / "kills.py"
    done = subprocess.run([sys.executable, str(script), "--points", "10"], capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["kills"] == found["to the same bits"] == 10
