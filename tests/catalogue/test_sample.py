import hashlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fmtl.catalogue import sample


def test_the_sample_has_the_faults_of_a_real_catalogue(catalogue_table):
    raw = catalogue_table.read_text()
    table = pd.read_csv(catalogue_table, dtype=str, keep_default_na=False)
    files = {p.name: p.read_bytes() for p in (catalogue_table.parent / "images").iterdir()}
    assert set(table["image"]) - set(files) == {"g0030.jpg"}
    assert len({hashlib.sha256(content).digest() for content in files.values()}) == len(files) - 3
    assert (table["kind"].str.strip() == sample.RARE_KIND).sum() == 2
    assert " ," in raw or ", " in raw
    for column in ("colour", "pattern", "fit"):
        assert 0 < (table[column] == "").sum() < len(table)


def test_same_seed_same_bytes(tmp_path, catalogue_table):
    again = sample.draw_catalogue(tmp_path / "again")
    assert again.read_bytes() == catalogue_table.read_bytes()
    one, two = (sorted((t.parent / "images").iterdir()) for t in (again, catalogue_table))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_it_is_not_trivial(dataset):
    """Logistic regression on 8x8 thumbnails stays below 0.75 average macro-F1."""
    thumbnails = [
        np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling.BOX)).ravel() / 255
        for pixels in dataset.pixels(np.arange(len(dataset.table)))
    ]
    inputs, scores = np.array(thumbnails), []
    for t in range(len(dataset.tasks)):
        column = dataset.targets[:, t]
        train, test = (dataset.rows(s)[column[dataset.rows(s)] >= 0] for s in ("train", "test"))
        best = 0.0
        for strength in (0.001, 0.01, 0.1, 1.0):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
            preds = model.fit(inputs[train], column[train]).predict(inputs[test])
            best = max(best, f1_score(column[test], preds, average="macro"))
        scores.append(best)
    assert np.mean(scores) < 0.75
