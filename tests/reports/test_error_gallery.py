import re

import numpy as np
import pandas as pd
import pytest
import torch

from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.evaluation import label_issues
from fmtl.loading.batches import Batches
from fmtl.loading.sources import Photos
from fmtl.model import backbones
from fmtl.model.execution import Execution
from fmtl.reports import error_gallery
from fmtl.training import evaluating
from fmtl.training.criterion import MultiTaskLoss

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(dataset, tmp_path_factory):
    torch.manual_seed(0)
    classes = dataset.tasks.num_classes
    net = backbones.build("resnet18", classes, weights="none", px=64).run_on(CPU, Execution("fp32"))
    preprocess = Preprocess(dataset.px, "pad", "#ffffff", 64, (0.5,) * 3, (0.25,) * 3)
    rows = dataset.rows("test")
    batches = Batches(Photos(dataset, preprocess=preprocess), dataset.targets, rows, tasks=dataset.tasks, batch_size=32)
    test = evaluating.evaluate(net, batches, loss=MultiTaskLoss(classes), device=CPU)
    noise = torch.randn(len(dataset.table), 8, generator=torch.Generator().manual_seed(0))
    doubtful = label_issues.find(noise, dataset.targets, dataset.tasks, groups=np.arange(len(noise)), seed=0)
    folder = tmp_path_factory.mktemp("gallery")
    found = error_gallery.write(
        folder, net=net, dataset=dataset, preprocess=preprocess, test=test, suspect_labels=doubtful, title="a <run>"
    )
    return folder, found, test, doubtful


def test_every_wrong_test_prediction_is_listed_the_most_confident_first(made, dataset):
    folder, _, test, _ = made
    table = pd.read_csv(folder / "mistakes.csv")
    rows = dataset.table.iloc[dataset.rows("test")].reset_index(drop=True)
    for task in dataset.tasks:
        own = table[table["task"] == task.name]
        counts = test.confusion[task.name]
        assert len(own) == counts.sum() - np.trace(counts)
        assert own["confidence"].is_monotonic_decreasing
        place = rows.index[rows["id"] == own.iloc[0]["id"]][0]
        assert own.iloc[0]["target"] == task.classes[test.targets[task.name][place]]
        assert own.iloc[0]["prediction"] == task.classes[test.probs[task.name][place].argmax()]
        assert own.iloc[0]["confidence"] == pytest.approx(test.probs[task.name][place].max(), abs=1e-6)


def test_every_suspect_is_listed_with_its_photo(made, dataset):
    folder, _, _, doubtful = made
    table = pd.read_csv(folder / "suspects.csv")
    assert len(table) == len(doubtful)
    record = dataset.table.iloc[doubtful["row"].iloc[0]]
    assert table.iloc[0][["id", "path", "split"]].tolist() == record[["id", "path", "split"]].tolist()


def test_the_page_needs_nothing_else_and_shows_photos_and_maps(made, dataset):
    folder, found, _, _ = made
    page = (folder / "gallery.html").read_text()
    assert "a &lt;run&gt;" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "<script" not in page
    shown = sum(min(error_gallery.MISTAKES_SHOWN, n) for n in found.mistakes.groupby("task").size())
    maps = error_gallery.EXPLAINED * (1 + len(dataset.tasks))
    assert page.count("<img ") == shown + maps + min(error_gallery.SUSPECTS_SHOWN, len(found.suspects))
    assert len(page) < 4_000_000
