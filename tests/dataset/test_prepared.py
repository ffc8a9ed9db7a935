import hashlib
import json
import os
import shutil
import threading

import numpy as np
import pandas as pd
import pytest
import torch

from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.dataset.prepared import MANIFEST, TABLE, class_counts, open_dataset
from fmtl.errors import DataError
from fmtl.loading.augment import Augmentation
from fmtl.loading.batches import Batches
from fmtl.loading.prefetch import prefetched
from fmtl.loading.sources import Features, Photos

PREPROCESS = Preprocess(64, "pad", "#ffffff", 32, (0.5,) * 3, (0.5,) * 3)


def batches(dataset, rows=None, augment=False, seed=0, batch_size=32, **options):
    augmentation = Augmentation(colour_jitter=0.2, policy="trivial") if augment else None
    photos = Photos(dataset, preprocess=PREPROCESS, augmentation=augmentation, seed=seed)
    rows = dataset.rows("train") if rows is None else rows
    return Batches(photos, dataset.targets, rows, tasks=dataset.tasks, batch_size=batch_size, seed=seed, **options)


def epoch(loader, number=1):
    loader.set_epoch(number)
    images, targets = zip(*loader, strict=True)
    return torch.cat(images), {k: torch.cat([t[k] for t in targets]) for k in targets[0]}


@pytest.mark.parametrize("name", ["table.parquet", "pixels-*.bin", "rejects.csv"])
def test_a_changed_file_is_noticed(tmp_path, dataset, name):
    copy = shutil.copytree(dataset.folder, tmp_path / "copy")
    name = next(copy.glob(name)).name
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: missing or changed"):
        open_dataset(copy)


def test_no_dataset_and_other_versions_are_refused(tmp_path, dataset):
    with pytest.raises(DataError, match="run 'fmtl prepare'"):
        open_dataset(tmp_path)
    manifest = dict(dataset.manifest, version=99)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="version 3"):
        open_dataset(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="not a readable manifest"):
        open_dataset(tmp_path)


def test_every_training_image_comes_once_per_epoch(dataset):
    loader = batches(dataset, shuffle=True)
    _, targets = epoch(loader)
    rows = dataset.rows("train")
    assert len(targets["kind"]) == len(rows)
    for t, task in enumerate(dataset.tasks):
        assert sorted(targets[task.name].tolist()) == sorted(dataset.targets[rows, t].tolist())


def test_an_epoch_repeats_whatever_came_before_it(dataset):
    fresh, used = (batches(dataset, shuffle=True, augment=True, seed=5) for _ in range(2))
    epoch(used, 1)
    torch.rand(3)
    (a, _), (b, _), (c, _) = epoch(fresh, 2), epoch(used, 2), epoch(used, 3)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_last_batch_of_one_joins_the_one_before(dataset):
    rows = dataset.rows("train")[:9]
    loader = batches(dataset, rows, batch_size=4, shuffle=True)
    assert [len(images) for images, _ in loader] == [4, 5]
    assert len(loader) == 2
    evaluation = batches(dataset, rows, batch_size=4)
    assert [len(images) for images, _ in evaluation] == [4, 4, 1]


def test_images_that_are_made_ahead_in_a_thread_are_the_same(dataset):
    here, ahead = (epoch(batches(dataset, shuffle=True, prefetch=prefetch)) for prefetch in (False, True))
    assert torch.equal(here[0], ahead[0])
    assert all(torch.equal(here[1][name], ahead[1][name]) for name in here[1])


def test_an_error_in_the_thread_reaches_the_caller_and_leaving_early_ends_the_thread():
    def broken():
        yield 1
        raise DataError("the disk is gone")

    found = prefetched(broken(), 2)
    assert next(found) == 1
    with pytest.raises(DataError, match="the disk is gone"):
        next(found)
    before = threading.active_count()
    endless = prefetched(iter(int, 1), 2)
    next(endless)
    assert threading.active_count() == before + 1
    endless.close()
    assert threading.active_count() == before


def test_features_come_with_the_targets_of_their_rows(dataset):
    numbers = torch.arange(len(dataset.table), dtype=torch.float32).unsqueeze(1)
    rows = dataset.rows("val")
    loader = Batches(Features(numbers), dataset.targets, rows, tasks=dataset.tasks, batch_size=7, shuffle=True, seed=3)
    features, targets = epoch(loader)
    assert sorted(features.flatten().tolist()) == rows.tolist()
    for t, task in enumerate(dataset.tasks):
        assert targets[task.name].tolist() == dataset.targets[features.flatten().long().numpy(), t].tolist()


def test_the_photos_own_size_is_the_median_of_their_longer_sides(dataset):
    assert dataset.source_px == 192  # the sample is drawn at 192 x 192


def test_class_counts_add_up_to_the_labelled_images(dataset):
    for t, (name, table) in enumerate(class_counts(dataset).items()):
        assert dataset.tasks[t].name == name
        assert table.to_numpy().sum() == (dataset.targets[:, t] >= 0).sum()
        assert (table.sum(axis=1) > 0).all()


@pytest.mark.parametrize(
    ("change", "is_read_before"),
    [
        (lambda file: os.truncate(file, 100), True),
        (lambda file: os.truncate(file, 100), False),
        (lambda file: file.write_bytes(bytes(file.stat().st_size)), True),
        (lambda file: os.replace(shutil.copy(file, file.with_name("other")), file), False),
        (lambda file: file.unlink(), False),
    ],
)
def test_a_shard_that_changes_or_goes_while_it_is_in_use_is_an_error(tmp_path, dataset, change, is_read_before):
    opened = open_dataset(shutil.copytree(dataset.folder, tmp_path / "copy"))
    if is_read_before:
        opened.pixels(np.arange(40))
    for file in opened.folder.glob("pixels-*"):
        change(file)
    with pytest.raises(DataError, match="replaced, changed or removed while it was in use"):
        opened.pixels(np.arange(40))


def test_a_shard_that_was_opened_outlives_its_name(tmp_path, dataset):
    opened = open_dataset(shutil.copytree(dataset.folder, tmp_path / "copy"))
    before = opened.pixels(np.arange(40))
    shutil.rmtree(opened.folder)
    np.testing.assert_array_equal(opened.pixels(np.arange(40)), before)


@pytest.mark.parametrize(
    "number, told", [(99, "row 0, 'colour': class number 99, of "), (-2, "class number -2"), (None, "no column")]
)
def test_a_table_of_other_classes_than_the_manifest_names_is_refused_with_its_row(dataset, tmp_path, number, told):
    folder = tmp_path / "copy"
    shutil.copytree(dataset.folder, folder)
    table = pd.read_parquet(folder / TABLE)
    slug = dataset.tasks[0].slug
    if number is None:
        table = table.drop(columns=slug)
    else:
        table.loc[0, slug] = number
    table.to_parquet(folder / TABLE)
    manifest = json.loads((folder / MANIFEST).read_text())
    content = (folder / TABLE).read_bytes()
    manifest["files"][TABLE] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    del manifest["sha256"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=told.replace("colour", slug)):
        open_dataset(folder)
