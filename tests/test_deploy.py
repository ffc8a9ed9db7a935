"""The scripts of deploy/ are whole; walking them takes a database, a bucket and a proxy: deploy/walk.sh does."""

import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parent.parent / "deploy"


@pytest.mark.parametrize("script", sorted(path.name for path in DEPLOY.glob("*.sh")))
def test_a_script_is_whole_and_says_how_it_is_called(script):
    assert subprocess.run(["bash", "-n", str(DEPLOY / script)]).returncode == 0
    assert f"deploy/{script}" in (DEPLOY / script).read_text()
