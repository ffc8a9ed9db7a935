import subprocess
import sys

import pytest
import torch

from fmtl.errors import DataError
from fmtl.tasks import make_tasks
from fmtl.training import checkpoints

TASKS = make_tasks({"season": ["Fall", "Summer"]})


def save(path):
    weights = {"w": torch.arange(4000, dtype=torch.float32), "n": torch.tensor(3)}
    checkpoints.save(path, model=weights, tasks=TASKS, settings={"px": 64, "augment": None}, epoch=2,
                     metrics={"val/loss": 0.5}, training={"history": [{"epoch": 1}]})  # fmt: skip
    return weights


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    weights = save(tmp_path / "x.pt")
    content = checkpoints.load(tmp_path / "x.pt")
    assert {k: torch.equal(v, weights[k]) for k, v in content["model"].items()} == {"w": True, "n": True}
    assert content["tasks"] == [{"name": "season", "slug": "season", "classes": ["Fall", "Summer"]}]
    assert (content["epoch"], content["metrics"], content["settings"]["px"]) == (2, {"val/loss": 0.5}, 64)
    assert content["training"] == {"history": [{"epoch": 1}]}


def test_every_flipped_bit_in_the_weights_is_noticed(tmp_path):
    path = tmp_path / "x.pt"
    save(path)
    good = path.read_bytes()
    start = good.index(torch.arange(4000, dtype=torch.float32).numpy().tobytes())
    for offset in range(start, start + 16000, 997):
        bad = bytearray(good)
        bad[offset] ^= 1 << (offset % 8)
        path.write_bytes(bad)
        with pytest.raises(DataError, match="damaged"):
            checkpoints.load(path)


def test_a_full_disk_is_named_and_the_old_checkpoint_stays(tmp_path):
    path = tmp_path / "x.pt"
    save(path)
    code = (
        "import resource, signal, sys, torch; from pathlib import Path\n"
        "from fmtl.tasks import Tasks; from fmtl.training import checkpoints\n"
        "from fmtl.errors import EnvironmentFault\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "try: checkpoints.save(Path(sys.argv[1]), model={'w': torch.zeros(9000)}, tasks=Tasks(), settings={}, epoch=9,"
        " metrics={})\n"
        "except EnvironmentFault as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "disk is full" in done.stdout
    assert checkpoints.load(path)["epoch"] == 2


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(tmp_path, share):
    path = tmp_path / "x.pt"
    save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match="damaged"):
        checkpoints.load(path)


def test_other_files_are_refused_and_no_code_in_them_runs(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"format": checkpoints.FORMAT, "x": Payload()}, tmp_path / "bad.pt")
    torch.save({"w": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(DataError):
        checkpoints.load(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(DataError, match="expected fmtl-checkpoint version 2"):
        checkpoints.load(tmp_path / "other.pt")
    with pytest.raises(DataError, match="no such file"):
        checkpoints.load(tmp_path / "none.pt")
