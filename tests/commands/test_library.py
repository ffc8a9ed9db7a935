"""What docs/library.md shows works as it stands there."""

import re
from pathlib import Path

import pandas as pd
import pytest

import fmtl
from fmtl.errors import UsageError

ROOT = Path(__file__).parents[2]


def test_the_program_of_the_docs_trains(store, dataset, catalogue_table, capsys):
    (store / "data").mkdir()
    (store / "data" / "prepared").symlink_to(dataset.folder)
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(encoding="utf-8"), re.S)
    assert len([line for line in program.splitlines() if line.strip()]) <= 10
    names: dict = {}
    exec(program, names)  # noqa: S102  # what it runs is ours
    run = names["run"]
    assert run.metrics["best/epoch"] in (1, 2) and 0 <= run.metrics["test/avg/f1"] <= 1
    assert f"macro-F1 on the test photos: {run.metrics['test/avg/f1']:.3f}" in capsys.readouterr().out
    photos = pd.DataFrame({"image": [str(catalogue_table.parent / "images" / f"g000{i}.jpg") for i in (1, 2)]})
    assert names["model"].predict(photos)["status"].tolist() == ["ok", "ok"]


def test_a_wrong_setting_is_named_with_the_nearest(store):
    with pytest.raises(UsageError, match="unknown setting 'backbon'; did you mean 'backbone'"):
        fmtl.train(backbon="resnet18")


def test_the_package_offers_its_public_functions_and_nothing_else():
    assert dir(fmtl) == ["__version__", "run_complete_model_analysis", "train", "train_and_evaluate_model"]
    assert all(callable(getattr(fmtl, name)) for name in fmtl.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'tran'"):
        _ = fmtl.tran
