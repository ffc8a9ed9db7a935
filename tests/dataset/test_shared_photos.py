"""Rows that share a photo: it is decoded, stored and computed on once."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fmtl.commands.prepare import build_dataset
from fmtl.dataset import shards
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.dataset.prepared import open_dataset
from fmtl.model import backbones, feature_cache
from fmtl.settings.schema import PrepareSettings

PHOTOS, SIZES = 60, 3


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for n in range(PHOTOS):
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(tmp_path / "images" / f"{n}.png")
    colours = ["red", "blue", "green"]
    rows = [(f"{n}-{s}", f"{n}.png", colours[n % 3], f"size {s}") for s in range(SIZES) for n in range(PHOTOS)]
    pd.DataFrame(rows, columns=["id", "image", "colour", "size"]).to_csv(tmp_path / "t.csv", index=False)
    return tmp_path


def prepared(shop, **options):
    return build_dataset(PrepareSettings(table=str(shop / "t.csv"), out=str(shop / "out"), px=32, **options))


def test_a_photo_is_decoded_and_stored_once_and_every_row_has_its_own(shop):
    dataset, _ = prepared(shop)
    assert (len(dataset.table), dataset.num_images) == (PHOTOS * SIZES, PHOTOS)
    assert len(pd.read_parquet(dataset.folder / "images.parquet")) == PHOTOS
    stored = sum(file.stat().st_size for file in dataset.folder.glob("pixels-*.bin"))
    assert stored == PHOTOS * 32 * 32 * 3
    for row, path in enumerate(dataset.table["path"]):
        want = shards.images.decode((shop / "images" / path).read_bytes(), px=32)
        assert (dataset.pixels(np.array([row]))[0] == want).all()
    assert any("120 rows show a photo that a row above shows, too" in note for note in dataset.manifest["notes"])
    assert dataset.table.groupby("path")["split"].nunique().max() == 1


def test_again_nothing_is_decoded_and_splits_stay(shop):
    before, _ = prepared(shop)
    table = pd.read_csv(shop / "t.csv")
    pd.concat([table, table.iloc[:3].assign(id=["a", "b", "c"])]).to_csv(shop / "t.csv", index=False)
    after, said = prepared(shop)
    assert said == ["60 images were not decoded again"]
    assert len(after.table) == len(before.table) + 3 and after.num_images == PHOTOS
    splits = dict(zip(before.table["path"], before.table["split"], strict=True))
    assert after.table["split"].tolist() == [splits[path] for path in after.table["path"]]


def test_shards_are_called_by_their_hash_and_those_called_by_number_are_still_read(shop):
    dataset, _ = prepared(shop)
    manifest = json.loads((dataset.folder / "manifest.json").read_text())
    (name,) = manifest["shards"]
    assert name == f"pixels-{manifest['files'][name]['sha256'][:32]}.bin"
    (dataset.folder / name).rename(dataset.folder / "pixels-00000.bin")
    manifest["files"]["pixels-00000.bin"] = manifest["files"].pop(name)
    del manifest["shards"], manifest["sha256"]
    (dataset.folder / "manifest.json").write_text(json.dumps(manifest | {"version": 2}))
    old = open_dataset(dataset.folder)
    assert (old.pixels(np.arange(180)) == np.concatenate([old.images(np.arange(60))] * 3)).all()


def test_features_of_a_shared_photo_are_computed_once(shop):
    dataset, _ = prepared(shop)
    net = backbones.build("resnet18", {"colour": 3}, weights="none", px=32).eval()
    preprocess = Preprocess(32, "pad", "#ffffff", 32, (0.5,) * 3, (0.5,) * 3)
    seen = []
    hook = net.backbone.register_forward_hook(lambda module, images, out: seen.append(len(images[0])))
    found = feature_cache.compute(
        net, dataset, backbone="resnet18", preprocess=preprocess, batch_size=5, device=torch.device("cpu"),
        watch=lambda batches, what: batches, keep=False,
    )  # fmt: skip
    hook.remove()
    assert sum(seen) == PHOTOS and len(found) == PHOTOS * SIZES
    assert torch.equal(found[:PHOTOS], found[PHOTOS : 2 * PHOTOS])
