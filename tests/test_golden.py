"""What earlier versions left on a disk is read, predicts as it did then, and goes on. ``golden/make.py`` writes it."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from fmtl.commands.predict import predict
from fmtl.commands.train import train
from fmtl.dataset.prepared import open_dataset
from fmtl.settings.schema import PredictSettings, TrainSettings
from fmtl.tracking.record import journal
from fmtl.tracking.record.folder import RunFolder
from fmtl.training import checkpoints

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(params=sorted(path.name for path in GOLDEN.iterdir() if path.is_dir() and path.name[0].isdigit()))
def version(request):
    return GOLDEN / request.param


def test_a_dataset_is_opened_and_verified(version):
    dataset = open_dataset(version / "dataset")
    assert dataset.tasks.num_classes == {"colour": 3, "size": 2}
    assert dataset.images([0]).shape == (1, 32, 32, 3) and len(dataset.table) == 36


def test_a_model_predicts_as_it_did_then(version, store):
    settings = PredictSettings(model=str(version / "model"), images=str(version / "images"), out="now.csv")
    predict(settings)
    then, now = pd.read_csv(version / "predictions.csv"), pd.read_csv("now.csv")
    assert list(then) == list(now) and (then["status"] == "ok").all()
    for task in ("colour", "size"):
        assert (then[task] == now[task]).all()
        assert (then[f"{task}/confidence"] - now[f"{task}/confidence"]).abs().max() < 1e-4


def test_a_checkpoint_labels_and_an_interrupted_run_goes_on(version, store):
    run = shutil.copytree(version / "run", store / "run")
    (best,) = (run / "checkpoints").glob("*_best.pt")
    predict(PredictSettings(model=str(best), images=str(version / "images"), out="best.csv"))
    assert (pd.read_csv("best.csv")["status"] == "ok").all()
    train(TrainSettings(resume=str(run), data=str(version / "dataset"), offline=True))
    (last,) = (run / "checkpoints").glob("*_last.pt")
    saved = checkpoints.load(last)
    assert saved.epoch == 2 and [row["epoch"] for row in saved.training["history"]] == [1, 2]
    assert journal.last_end(RunFolder.at(run).journal().lines())["outcome"] == "completed"
