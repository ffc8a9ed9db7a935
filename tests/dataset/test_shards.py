import itertools
import json

import numpy as np
import pytest

from fmtl.catalogue.photos.folder import ImageFolder, signature
from fmtl.dataset import shards
from fmtl.dataset.pixels import images
from fmtl.dataset.shards import Job, Known, Result, Source


@pytest.fixture
def photos(write_catalogue):
    return write_catalogue("id\n1\n", tuple(f"{i}.png" for i in range(6))).parent / "images"


def sources(folder, names):
    files = ImageFolder(folder)
    return [Source(name, *signature(files.find(name)[1])) for name in names]


def job(folder, target, names, known=None):
    return Job(str(target), sources(folder, names), known or {}, {}, str(folder), shards.decoding(32, "pad", "#ffffff"))


def test_a_shard_holds_the_decoded_images_in_order_and_its_record_their_hash(photos, tmp_path):
    names = [f"{i}.png" for i in range(6)]
    (photos / "2.png").write_bytes(b"")
    shards.make(Job.from_json(job(photos, tmp_path / "s", names).to_json()))
    found = shards.load(tmp_path / "s")
    assert [result.reason for result in found.results] == ["", "", "empty", "", "", ""]
    stored = np.fromfile(tmp_path / "s.bin", np.uint8).reshape(-1, 32, 32, 3)
    want = [images.decode((photos / name).read_bytes(), px=32) for name in names if name != "2.png"]
    assert (stored == np.stack(want)).all()
    assert json.loads((tmp_path / "s.json").read_text())["sha256"] == found.sha256
    looks = np.stack([shards.thumbnail(image) for image in want])
    np.testing.assert_array_equal(found.thumbnails, looks)


def test_a_shard_that_was_cut_or_changed_is_not_taken_for_finished(photos, tmp_path):
    shards.make(job(photos, tmp_path / "s", ["0.png", "1.png"]))
    content = (tmp_path / "s.bin").read_bytes()
    for damaged in (content[:-1], bytes([content[0] ^ 1]) + content[1:]):
        (tmp_path / "s.bin").write_bytes(damaged)
        assert shards.load(tmp_path / "s") is None
    (tmp_path / "s.bin").write_bytes(content)
    assert shards.load(tmp_path / "s") is not None
    looks = (tmp_path / "s.looks").read_bytes()
    (tmp_path / "s.looks").write_bytes(bytes([looks[0] ^ 1]) + looks[1:])
    assert shards.load(tmp_path / "s") is None
    (tmp_path / "s.looks").write_bytes(looks)
    (tmp_path / "s.json").write_text("{")
    assert shards.load(tmp_path / "s") is None


def test_known_pixels_are_copied_when_the_source_is_the_same_or_has_the_same_hash(photos, tmp_path):
    shards.make(job(photos, tmp_path / "a", ["0.png", "1.png", "2.png"]))
    results = shards.load(tmp_path / "a").results
    marked = np.fromfile(tmp_path / "a.bin", np.uint8)
    marked[:] = 77  # so that a copy can be told from a decoded image
    marked.tofile(tmp_path / "a.bin")
    known = {
        0: Known(results[1], str(tmp_path / "a.bin"), 1, same=True),
        1: Known(results[2], str(tmp_path / "a.bin"), 2, same=False),
        2: Known(Result(sha256="another"), str(tmp_path / "a.bin"), 0, same=False),
    }
    shards.make(job(photos, tmp_path / "b", ["1.png", "2.png", "3.png"], known))
    stored = np.fromfile(tmp_path / "b.bin", np.uint8).reshape(-1, 32, 32, 3)
    assert (stored[:2] == 77).all()
    assert (stored[2] == images.decode((photos / "3.png").read_bytes(), px=32)).all()


def test_rows_that_come_change_the_shards_around_them_only():
    paths = [f"photos/{i:06d}.jpg" for i in range(20_000)]
    more = paths[:7000] + [f"new/{i}.jpg" for i in range(100)] + paths[7000:]

    def chunks(names):
        bounds = shards.bounds(names)
        assert bounds[0] == 0 and bounds[-1] == len(names)
        assert all(0 < b - a <= shards.MAX_ROWS for a, b in itertools.pairwise(bounds))
        return {tuple(names[a:b]) for a, b in itertools.pairwise(bounds)}

    before, after = chunks(paths), chunks(more)
    assert len(before - after) <= 2
    assert 60 < len(paths) / len(before) < 260


def test_no_rows_are_no_shards():
    assert shards.bounds([]) == [0]


@pytest.mark.parametrize("px", [16, 33, 64, 250])
def test_a_thumbnail_is_the_mean_of_the_blocks_it_stands_for(px):
    pixels = np.zeros((px, px, 3), np.uint8)
    pixels[: px // 2] = (200, 100, 50)
    thumbnail = shards.thumbnail(pixels)
    assert thumbnail.shape == (8, 9, 3)
    assert (thumbnail[0] == [200, 100, 50]).all() and (thumbnail[-1] == 0).all()
