"""``prepare`` killed, out of disk space, or run twice at once: nothing half made is ever seen, nothing is lost."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fmtl.commands.prepare import build_dataset
from fmtl.commands.train import train
from fmtl.dataset.pixels import images
from fmtl.dataset.prepared import IMAGES, open_dataset
from fmtl.errors import DataError, UsageError
from fmtl.settings.schema import PrepareSettings
from fmtl.settings.train import TrainSettings

NUM_ROWS, PX = 700, 48
RUN = (
    "import sys; from fmtl.settings.schema import PrepareSettings\n"
    "from fmtl.errors import FmtlError; from fmtl.commands.prepare import build_dataset\n"
    "print('ready', flush=True); sys.stdin.readline()\n"
    "try: build_dataset(PrepareSettings(table=sys.argv[1], out=sys.argv[2], px=int(sys.argv[3])))\n"
    "except FmtlError as error: sys.exit(error.exit_code)\n"
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """A folder with photos and the tables ``old.csv`` and ``new.csv``, which has more rows."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    lines = ["id,image,colour,kind"]
    for i in range(NUM_ROWS):
        side = int(rng.integers(40, 160))
        photo = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8).repeat(side // 8, 0).repeat(side // 9, 1)
        Image.fromarray(photo).save(folder / "images" / f"{i}.jpg", quality=90)
        lines.append(f"{i},{i}.jpg,{['red', 'green', 'blue'][i % 3]},{['hat', 'bag'][i % 2]}")
    lines[300:300] = ["x1,none.jpg,red,hat", "x2,../x.jpg,red,hat"]
    for name, rows in (("old.csv", lines[:500]), ("new.csv", lines)):
        (folder / name).write_text("\n".join(rows) + "\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def build(table: Path, out: Path):
    return build_dataset(PrepareSettings(table=str(table), out=str(out), px=PX))


def start(table: Path, out: Path) -> subprocess.Popen:
    """A process that has imported all it needs and waits for a line to begin."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(table), str(out), str(PX)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen) -> int:
    process.communicate("\n")
    return process.returncode


@pytest.fixture(scope="module")
def undisturbed(shop) -> dict[bool, tuple[dict[str, bytes], float]]:
    """By whether an older dataset was there: the files of a run that nothing disturbed, and its seconds."""
    found = {}
    for update in (False, True):
        out = shop / f"whole-{update}"
        if update:
            build(shop / "old.csv", out)
        process, began = start(shop / "new.csv", out), time.perf_counter()
        assert finish(process) == 0
        found[update] = contents(out), time.perf_counter() - began
    return found


def kill_once(shop: Path, out: Path, after: float) -> None:
    """Kill a run without a chance to clean up; its workers are left behind, as they would be."""
    process = start(shop / "new.csv", out)
    process.stdin.write("\n")
    process.stdin.flush()
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("trial", [*range(4), *(pytest.param(n, marks=pytest.mark.slow) for n in range(4, 40))])
def test_killed_at_any_moment_nothing_half_made_is_seen_and_the_rerun_gives_the_same_bytes(
    trial, shop, undisturbed, tmp_path_factory
):
    update = trial % 2 == 1
    whole, seconds = undisturbed[update]
    out = shop / f"killed-{trial}"
    if update:
        before = build(shop / "old.csv", out)[0].digest
    kill_once(shop, out, float(np.random.default_rng(trial).uniform(0, 1.1 * seconds)))
    if out.exists():
        seen = open_dataset(out)  # verifies every file
        assert not update or len(seen.table) == NUM_ROWS or seen.digest == before
    build(shop / "new.csv", out)
    assert contents(out) == whole
    assert [p.name for p in shop.glob(f".killed-{trial}.*")] == [f".killed-{trial}.lock"]
    shutil.rmtree(out)


@pytest.mark.parametrize("trial", [*range(2), *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 10))])
def test_a_file_that_cannot_grow_ends_the_run_and_the_rerun_gives_the_same_bytes(trial, shop, undisturbed):
    whole, _ = undisturbed[False]
    out = shop / f"limited-{trial}"
    largest = max(map(len, whole.values()))
    limit = int(largest * (trial + 0.5) / 10)
    command = [sys.executable, "-c", RUN, str(shop / "new.csv"), str(out), str(PX)]
    limited = subprocess.run(
        ["bash", "-c", f'ulimit -f {limit // 1024}; exec "$0" "$@"', *command], input="\n", text=True,
        capture_output=True,
    )  # fmt: skip
    assert limited.returncode == 4, limited.stderr
    assert not out.exists()
    build(shop / "new.csv", out)
    assert contents(out) == whole


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_at_ten_moments_leaves_nothing_half_made_and_the_rerun_gives_the_same_bytes(shop, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    build(shop / "new.csv", tmp_path / "elsewhere" / "out")
    needed = sum(len(content) for content in contents(tmp_path / "elsewhere" / "out").values())
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine does not let root mount a file system")
    try:
        for share in np.linspace(0.03, 0.97, 10):
            shutil.rmtree(disk / "out", ignore_errors=True)
            subprocess.run(["mount", "-o", f"remount,size={int(needed * share)}", disk], check=True)
            assert finish(start(shop / "new.csv", disk / "out")) == 4, share
            assert not (disk / "out").exists()
            subprocess.run(["mount", "-o", f"remount,size={4 * needed}", disk], check=True)
            build(shop / "new.csv", disk / "out")
            found, whole = contents(disk / "out"), contents(tmp_path / "elsewhere" / "out")
            assert found.keys() == whole.keys()
            assert all(found[name] == whole[name] for name in whole if name not in ("manifest.json"))
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_of_two_runs_at_once_one_waits_and_both_see_a_whole_dataset(shop, undisturbed):
    out = shop / "twice"
    first, second = start(shop / "new.csv", out), start(shop / "new.csv", out)
    for process in (first, second):
        process.stdin.write("\n")
        process.stdin.flush()
    for process in (first, second):
        process.communicate()
        assert process.returncode == 0
    assert contents(out) == undisturbed[False][0]


def test_what_has_not_changed_is_not_decoded_again(shop, tmp_path):
    photos = tmp_path / "images"
    shutil.copytree(shop / "images", photos)
    table = tmp_path / "table.csv"
    shutil.copy(shop / "old.csv", table)
    _, news = build(table, tmp_path / "out")
    assert news == []
    num_before = len(pd.read_parquet(tmp_path / "out" / IMAGES))
    assert build(table, tmp_path / "out")[1] == ["nothing has changed since this dataset was made"]
    Image.new("RGB", (50, 50), "red").save(photos / "7.jpg")
    os.utime(photos / "8.jpg")  # touched, with the same content: read again, not decoded again
    shutil.copy(shop / "new.csv", table)
    again, news = build(table, tmp_path / "out")
    assert news == [f"{num_before - 2} images were not decoded again"]
    looked_at = pd.read_parquet(again.folder / IMAGES)
    assert (again.pixels(np.array([7]))[0].reshape(-1, 3) == [254, 0, 0]).all()
    fresh, _ = build_dataset(PrepareSettings(table=str(table), out=str(tmp_path / "fresh"), px=PX))
    assert (again.pixels(np.arange(NUM_ROWS)) == fresh.pixels(np.arange(NUM_ROWS))).all()
    assert looked_at["sha256"].tolist() == pd.read_parquet(fresh.folder / IMAGES)["sha256"].tolist()


def small_shop(shop: Path, folder: Path, rows=60) -> Path:
    """A table of its own with the first rows and photos of the shop."""
    (folder / "images").mkdir(parents=True)
    for i in range(rows):
        shutil.copy2(shop / "images" / f"{i}.jpg", folder / "images")
    table = folder / "table.csv"
    table.write_text("".join((shop / "new.csv").read_text().splitlines(keepends=True)[: rows + 1]))
    return table


@pytest.mark.parametrize("damage", ["report.html", "pixels-*.bin"])
def test_splits_are_kept_where_other_files_are_damaged_and_damaged_pixels_are_not(damage, shop, tmp_path):
    table = small_shop(shop, tmp_path)
    old = build(table, tmp_path / "out")[0].table.set_index("id")["split"]
    path = next((tmp_path / "out").glob(damage))
    content = bytearray(path.read_bytes())
    content[-PX * PX * 3 :] = bytes(PX * PX * 3)  # its last image turns black
    path.write_bytes(content)
    lines = table.read_text().splitlines()
    shutil.copy(tmp_path / "images" / "0.jpg", tmp_path / "images" / "new.jpg")
    table.write_text("\n".join([*lines[:1], "new,new.jpg,red,hat", *lines[1:]]) + "\n")
    build(table, tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")  # verifies every file
    assert dataset.table.set_index("id")["split"][old.index].equals(old)
    want = [images.decode((tmp_path / "images" / name).read_bytes(), px=PX) for name in dataset.table["path"]]
    assert (dataset.pixels(np.arange(61)) == np.stack(want)).all()


def test_photos_of_another_folder_are_not_taken_for_those_of_the_same_name_size_and_time(shop, tmp_path):
    table = small_shop(shop, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    size = max(path.stat().st_size for path in (tmp_path / "images").iterdir())
    for i in range(60):  # another picture in as many bytes, with the same time
        content = (tmp_path / "images" / f"{i}.jpg").read_bytes().ljust(size, b"\0")
        (tmp_path / "images" / f"{i}.jpg").write_bytes(content)
        (other / f"{59 - i}.jpg").write_bytes(content)
    for path in [*(tmp_path / "images").iterdir(), *other.iterdir()]:
        os.utime(path, (1, 1))
    build(table, tmp_path / "out")
    dataset, _ = build_dataset(PrepareSettings(table=str(table), images=str(other), out=str(tmp_path / "out"), px=PX))
    want = [images.decode((other / name).read_bytes(), px=PX) for name in dataset.table["path"]]
    assert (dataset.pixels(np.arange(60)) == np.stack(want)).all()


def test_what_somebody_else_put_into_the_dataset_is_not_lost(shop, tmp_path):
    table = small_shop(shop, tmp_path)
    build(table, tmp_path / "out")
    (tmp_path / "out" / "my_notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"also holds my_notes.txt, which would be lost"):
        build(table, tmp_path / "out")
    assert (tmp_path / "out" / "my_notes.txt").exists()


def test_a_dataset_of_more_shards_than_may_be_open_is_read(shop, tmp_path, monkeypatch):
    monkeypatch.setattr("fmtl.dataset.pixel_store.MOST_OPEN", 3)
    monkeypatch.setattr("fmtl.dataset.shards.MAX_ROWS", 4)
    dataset, _ = build(small_shop(shop, tmp_path), tmp_path / "out")
    rows = np.random.default_rng(0).permutation(60)
    want = [
        images.decode((tmp_path / "images" / path).read_bytes(), px=PX) for path in dataset.table["path"].iloc[rows]
    ]
    assert (dataset.pixels(rows) == np.stack(want)).all()


def test_a_dataset_that_is_replaced_while_it_is_in_use_is_noticed(shop, tmp_path):
    table = small_shop(shop, tmp_path)
    build(table, tmp_path / "out")
    in_use = open_dataset(tmp_path / "out")
    build_dataset(PrepareSettings(table=str(table), out=str(tmp_path / "out"), px=PX, reuse=False, seed=5))
    with pytest.raises(DataError, match="replaced, changed or removed while it was in use"):
        in_use.pixels(np.arange(3))


def test_when_a_catalogue_grows_every_image_keeps_its_split(shop, tmp_path):
    before, _ = build(shop / "old.csv", tmp_path / "out")
    old = before.table.set_index("id")["split"]
    after, _ = build(shop / "new.csv", tmp_path / "out")
    new = after.table.set_index("id")["split"]
    assert (new[old.index] == old).all()
    added = new.drop(old.index).value_counts(normalize=True)
    assert added["train"] == pytest.approx(0.7, abs=0.1)


def test_training_on_a_dataset_whose_source_has_changed_is_refused(shop, store, tmp_path):
    shutil.copytree(shop / "images", tmp_path / "images")
    table = tmp_path / "table.csv"
    shutil.copy(shop / "old.csv", table)
    build(table, tmp_path / "out")
    settings = TrainSettings(data=str(tmp_path / "out"), backbone="resnet18", weights="none", epochs=1)
    (tmp_path / "images" / "9.jpg").write_bytes((tmp_path / "images" / "10.jpg").read_bytes())
    with pytest.raises(DataError, match=r"the photo 9.jpg has changed"):
        train(settings)
    table.write_text(table.read_text() + "new,1.jpg,red,hat\n")
    with pytest.raises(DataError, match=r"table.csv has changed.*\n.*9.jpg"):
        train(settings)
