"""A part of ``saves.py``, which ``make reliability`` runs whole."""

import json
import subprocess
import sys
from pathlib import Path


def test_a_save_that_is_killed_or_fails_leaves_a_verified_checkpoint():
    script = Path(__file__).parent / "saves.py"
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "12", "--every", "8", "--flips", "60"], capture_output=True, text=True
    )
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["kills"] == {"tried": 12, "without a checkpoint": 0, "older than what was saved": 0}
    assert found["failures tried"] > 30 and found["broken promises"] == []
    assert found["flips"] == {"tried": 60, "silent": 0}
