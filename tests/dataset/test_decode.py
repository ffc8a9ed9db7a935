"""What was decoded before is taken over where it would come out the same, and nowhere else."""

import numpy as np
import pytest

from fmtl.catalogue.photos.folder import ImageFolder
from fmtl.commands.prepare import build_dataset
from fmtl.dataset import shards
from fmtl.dataset.decode import decode_all
from fmtl.dataset.freshness import scan
from fmtl.dataset.pixels import images
from fmtl.dataset.reuse.previous import Previous
from fmtl.settings.schema import PrepareSettings

NAMES = tuple(f"{i}.png" for i in range(1, 13))  # 16 x 20 pixels each: neither square nor alike
TABLE = "id,image,colour\n" + "".join(f"{i},{i}.png,{['red', 'blue'][i % 2]}\n" for i in range(1, 13))
WAYS = [{"fit": "crop"}, {"fit": "stretch"}, {"background": "#204060"}, {"px": 24}]


def decoded(folder, px=32, **how):
    return np.stack([images.decode((folder / name).read_bytes(), px=px, **how) for name in NAMES])


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_dataset_of_another_fit_or_background_is_decoded_anew(write_catalogue, tmp_path, way):
    table, out = write_catalogue(TABLE, NAMES), str(tmp_path / "out")
    build_dataset(PrepareSettings(table=str(table), out=out, px=32))
    dataset, _ = build_dataset(PrepareSettings(table=str(table), out=out, **{"px": 32} | way))
    np.testing.assert_array_equal(dataset.pixels(np.arange(12)), decoded(table.parent / "images", **way))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_what_an_interrupted_run_decoded_in_another_way_is_decoded_anew(write_catalogue, tmp_path, way):
    folder = write_catalogue(TABLE, NAMES).parent / "images"
    sources = scan(NAMES, ImageFolder(folder))
    for how in ({}, way):
        how = {"px": 32, "fit": "pad", "background": "#ffffff"} | how
        decoding = shards.decoding(**how)
        previous = Previous(tmp_path / "nothing", decoding, take_pixels=True)
        found = decode_all(
            sources, folder=ImageFolder(folder), decoding=decoding, work=tmp_path / "work", previous=previous
        )
        np.testing.assert_array_equal(found.pixels(how["px"]).read(np.arange(12)), decoded(folder, **how))


def test_what_an_interrupted_run_decoded_is_not_decoded_again_and_its_thumbnails_are_kept(write_catalogue, tmp_path):
    folder = write_catalogue(TABLE, NAMES).parent / "images"
    sources, decoding = scan(NAMES, ImageFolder(folder)), shards.decoding(32, "pad", "#ffffff")
    previous = Previous(tmp_path / "nothing", decoding, take_pixels=True)
    common = {"folder": ImageFolder(folder), "decoding": decoding, "work": tmp_path / "work", "previous": previous}
    first, again = decode_all(sources, **common), decode_all(sources, **common)
    assert (first.taken_over, again.taken_over) == (0, 12)
    want = np.stack([shards.thumbnail(image) for image in decoded(folder)])
    for found in (first, again):
        np.testing.assert_array_equal(found.thumbnails(), want)
        assert found.table()["thumbnail"].tolist() == [look.tobytes().hex() for look in want]
