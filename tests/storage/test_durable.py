import os
import subprocess
import sys
from pathlib import Path

import pytest

from fmtl.errors import EnvironmentFault
from fmtl.storage import durable


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "x.txt"
    durable.write_text(path, "old")
    with pytest.raises(RuntimeError), durable.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_full_disk_is_an_environment_fault_and_keeps_the_old_file(tmp_path):
    code = (
        "import resource, signal, sys; from pathlib import Path; from fmtl.storage import durable\n"
        "from fmtl.errors import EnvironmentFault\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: durable.write_bytes(Path(sys.argv[1]), b'x' * 5000)\n"
        "except EnvironmentFault as error: print(error)\n"
    )
    path = tmp_path / "x"
    durable.write_bytes(path, b"old")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "disk is full" in done.stdout
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(ValueError), durable.publishing(target) as folder:
        (folder / "a").write_text("1")
        raise ValueError
    assert os.listdir(tmp_path) == []
    for content in ("1", "2"):
        with durable.publishing(target) as folder:
            (folder / "a").write_text(content)
        assert (target / "a").read_text() == content
    assert os.listdir(tmp_path) == ["out"]


def test_a_place_that_cannot_be_written_is_an_environment_fault(tmp_path):
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "file" / "sub", tmp_path.__class__("/proc/fmtl-test/x")):
        with pytest.raises(EnvironmentFault, match="can't be written"):
            durable.write_text(target, "x")
        with pytest.raises(EnvironmentFault, match="can't be written"), durable.publishing(target):
            raise AssertionError("work began")
    assert (tmp_path / "file").read_text() == "x"


def test_a_folder_behind_a_symbolic_link_is_replaced_there(tmp_path):
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    real.mkdir(parents=True)
    link.symlink_to(real)
    with durable.publishing(link) as folder:
        (folder / "a").write_text("1")
    assert link.is_symlink()
    assert (real / "a").read_text() == "1"
    assert os.listdir(tmp_path / "disk") == ["real"]


def test_nan_is_refused_in_json(tmp_path):
    with pytest.raises(ValueError):
        durable.write_json(tmp_path / "x.json", {"f1": float("nan")})


@pytest.fixture
def disk(monkeypatch):
    """What is synced and renamed, in order, by name; all of it is done as well."""
    done = []
    sync, replace, rename = os.fsync, os.replace, os.rename

    def name(descriptor):
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name

    monkeypatch.setattr(os, "fsync", lambda descriptor: (done.append(("sync", name(descriptor))), sync(descriptor))[1])
    for how, call in (("replace", replace), ("rename", rename)):
        monkeypatch.setattr(
            os, how, lambda a, b, call=call: (done.append(("rename", Path(a).name, Path(b).name)), call(a, b))[1]
        )
    return done


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_its_name_before_it_is_relied_on(tmp_path, disk):
    durable.write_text(tmp_path / "x.txt", "content")
    temporary = disk[0][1]
    assert temporary.startswith(durable.TEMPORARY_PREFIX)
    assert disk == [("sync", temporary), ("rename", temporary, "x.txt"), ("sync", tmp_path.name)]


def test_every_file_of_a_folder_is_on_the_disk_before_the_folder_gets_its_name(tmp_path, disk):
    with durable.publishing(tmp_path / "out") as folder:
        (folder / "sub").mkdir()
        for name in ("a", "sub/b"):
            (folder / name).write_text(name, encoding="utf-8")
    assert disk == [
        ("sync", "a"), ("sync", "sub"), ("sync", "b"), ("sync", ".out.new"), ("rename", ".out.new", "out"),
        ("sync", tmp_path.name),
    ]  # fmt: skip


def test_what_may_be_lost_is_not_waited_for(tmp_path, disk):
    with durable.replacing(tmp_path / "x", sync=False) as temporary:
        temporary.write_text("content", encoding="utf-8")
    assert [what for what, *_ in disk] == ["rename"]


@pytest.fixture
def read_only_parent(tmp_path, monkeypatch):
    """A folder that can have no neighbours, as a mounted volume; root may write everywhere, so that it is told here."""
    monkeypatch.setattr(durable, "stands_alone", lambda folder: folder.resolve() == tmp_path / "volume")
    (tmp_path / "volume" / "lost+found").mkdir(parents=True)
    return tmp_path / "volume"


def test_a_volume_gets_its_contents_and_keeps_nothing_else(read_only_parent):
    for content in ("1", "2"):
        with durable.publishing(read_only_parent, mark="mark") as folder:
            assert folder.parent == read_only_parent
            (folder / "a").write_text(content)
            (folder / "mark").write_text(content)
        assert (read_only_parent / "a").read_text() == (read_only_parent / "mark").read_text() == content
        assert sorted(os.listdir(read_only_parent)) == ["a", "lost+found", "mark"]
    assert os.listdir(read_only_parent.parent) == ["volume"]


@pytest.mark.parametrize("moves", range(1, 6))
def test_a_volume_is_whole_or_nothing_whenever_its_publishing_is_killed(read_only_parent, monkeypatch, moves):
    """What lies there with the mark is always of one kind, and ``recover`` brings back one that is whole."""
    with durable.publishing(read_only_parent, mark="mark") as folder:
        for name in ("a", "mark", "z"):
            (folder / name).write_text("old")
    rename, left = Path.replace, moves

    def dying(self, target):
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    monkeypatch.setattr(durable.shutil, "rmtree", lambda *a, **k: None)  # as a kill leaves it
    with pytest.raises(KeyboardInterrupt), durable.publishing(read_only_parent, mark="mark") as folder:
        for name in ("a", "mark", "z"):
            (folder / name).write_text("new")
    monkeypatch.undo()
    monkeypatch.setattr(durable, "stands_alone", lambda folder: folder.resolve() == read_only_parent)
    found = {
        name: (read_only_parent / name).read_text() for name in ("a", "mark", "z") if (read_only_parent / name).exists()
    }
    assert "mark" not in found or (len(found) == 3 and len(set(found.values())) == 1)
    durable.recover(read_only_parent, mark="mark")
    assert {(read_only_parent / name).read_text() for name in ("a", "mark", "z")} == {"old"}
    assert sorted(os.listdir(read_only_parent)) == ["a", "lost+found", "mark", "z"]


def test_a_mounted_volume_is_published_into(tmp_path):
    code = (
        "import sys; from pathlib import Path; from fmtl.storage import durable\n"
        "with durable.locked(Path('out')), durable.publishing(Path('out'), mark='m') as folder:\n"
        "    (folder / 'm').write_text('x')\n"
        "print(sorted(p.name for p in Path('.').iterdir()), sorted(p.name for p in Path('out').iterdir()))\n"
    )
    (tmp_path / "out").mkdir()
    script = f'mount -t tmpfs none out || exit 77; PYTHONPATH={Path.cwd()} exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script, sys.executable, code], cwd=tmp_path, capture_output=True, text=True
    )
    if done.returncode in (1, 77) and not done.stdout:
        pytest.skip(f"can't mount here: {done.stderr}")
    assert done.stdout == "['out'] ['.out.lock', 'm']\n", done.stderr
