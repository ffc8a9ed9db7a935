"""A few of the damages that ``damages.py`` does by the thousand."""

import json
import subprocess
import sys
from pathlib import Path


def test_a_damaged_file_of_any_kind_is_refused_in_a_sentence_or_mended(tmp_path):
    out = tmp_path / "rows.json"
    script = [sys.executable, Path(__file__).parent / "damages.py", "--mutations", "12", "--flips", "12"]
    done = subprocess.run([*script, "--json", out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = {row["kind"]: row for row in json.loads(out.read_text())}
    assert len(rows) == 22 and all(row["mutations"]["tried"] > 6 for row in rows.values())
    for sealed in ("dataset: manifest.json", "dataset: pixels-*.bin", "model: weights.safetensors", "checkpoint"):
        assert rows[sealed]["flips"] == {"tried": 12, "refused": 12}
    assert rows["features"]["flips"] == {"tried": 12, "same": 12}
