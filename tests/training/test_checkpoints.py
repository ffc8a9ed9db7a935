import subprocess
import sys
import zipfile

import pytest
import torch

from fmtl.errors import DataError
from fmtl.tasks import make_tasks
from fmtl.training import checkpoints

TRAINING = {"updater": {}, "history": [{"epoch": 1, "val/loss": 0.5}]}
TASKS = make_tasks({"season": ["Fall", "Summer"]})


def save(path, epoch=2):
    weights = {"w": torch.arange(4000, dtype=torch.float32), "n": torch.tensor(3)}
    checkpoints.save(path, model=weights, tasks=TASKS, settings={"px": 64, "augment": None}, epoch=epoch,
                     metrics={"val/loss": 0.5}, training=TRAINING)  # fmt: skip
    return weights


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    weights = save(tmp_path / "x.pt")
    content = checkpoints.load(tmp_path / "x.pt")
    assert {k: torch.equal(v, weights[k]) for k, v in content.model.items()} == {"w": True, "n": True}
    assert content.tasks == TASKS
    assert (content.epoch, content.metrics, content.settings["px"]) == (2, {"val/loss": 0.5}, 64)
    assert content.training == TRAINING


def test_any_program_that_reads_torchs_files_reads_it(tmp_path):
    weights = save(tmp_path / "x.pt")
    found = torch.load(tmp_path / "x.pt", weights_only=True, mmap=True)
    assert torch.equal(found["model"]["w"], weights["w"])
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"sha256:")


def test_the_generation_before_stays_and_is_taken_where_the_last_one_is_damaged(tmp_path, caplog):
    path = tmp_path / "x.pt"
    assert list(checkpoints.generations(path)) == []
    save(path, epoch=1)
    save(path, epoch=2)
    assert [found.epoch for _, found in checkpoints.generations(path)] == [2, 1]
    path.write_bytes(path.read_bytes()[:-1])
    assert [found.epoch for _, found in checkpoints.generations(path)] == [1]
    assert "damaged" in caplog.text and "the generation before, of epoch 1" in caplog.text
    checkpoints.forget_older(path)
    assert checkpoints.older(path).is_file()  # since the newer one is damaged
    path.unlink()
    assert [found.epoch for _, found in checkpoints.generations(path)] == [1]
    checkpoints.older(path).write_bytes(b"")
    with pytest.raises(DataError, match="damaged"):
        list(checkpoints.generations(path))
    save(path, epoch=3)
    checkpoints.forget_older(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.pt"]


def test_a_checkpoint_of_the_version_before_is_read(tmp_path):
    content = {"format": "fmtl-checkpoint", "version": 2, "model": {"w": torch.ones(3)}, "tasks": TASKS.to_json(),
               "settings": {}, "epoch": 4, "metrics": {}, "training": TRAINING}  # fmt: skip
    torch.save(content, tmp_path / "x.pt")
    assert checkpoints.load(tmp_path / "x.pt").epoch == 4
    torch.save(content | {"version": 3}, tmp_path / "x.pt")  # which would have a seal
    with pytest.raises(DataError, match="damaged"):
        checkpoints.load(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("model"), "lacks 'model'"),
        (lambda c: c.update(extra=1), "has 'extra', which is unknown here"),
        (lambda c: c.update(epoch="2"), "'epoch': expected a whole number, got text"),
        (lambda c: c.update(model={"w": 3}), "'model': expected tensors by name"),
        (lambda c: c.update(tasks=[{"name": "a", "slug": "../a", "classes": []}]), "is no slug"),
        (lambda c: c.update(tasks=[{"name": "a"}]), "expected of each task its name, slug and classes"),
        (lambda c: c["training"].pop("updater"), "training: lacks 'updater'"),
        (lambda c: c["training"].update(history=[{}]), "'history': expected the metrics of each epoch"),
        (lambda c: c["training"].update(position={}), "training, position: lacks 'epoch'"),
    ],
)
def test_what_it_lacks_or_has_too_much_of_is_a_sentence(tmp_path, change, message):
    content = {"format": "fmtl-checkpoint", "version": 3, "model": {"w": torch.ones(3)}, "tasks": TASKS.to_json(),
               "settings": {}, "epoch": 4, "metrics": {}, "training": dict(TRAINING)}  # fmt: skip
    change(content)
    checkpoints.write_sealed(tmp_path / "x.pt", content)
    with pytest.raises(DataError) as caught:
        checkpoints.load(tmp_path / "x.pt")
    assert message in str(caught.value)


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "x.pt"
    save(path)
    good = path.read_bytes()
    for offset in [*range(0, len(good), 97), *range(len(good) - 120, len(good))]:
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
    assert checkpoints.load(path).epoch == 2


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
    with pytest.raises(DataError, match="expected fmtl-checkpoint version 3"):
        checkpoints.load(tmp_path / "other.pt")
    with pytest.raises(DataError, match="no such file"):
        checkpoints.load(tmp_path / "none.pt")
