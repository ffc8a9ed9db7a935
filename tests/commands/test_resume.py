"""A training that goes on: where it stands, elsewhere, longer, under other settings; and what can't be gone on with."""

import contextlib
import logging
import shutil

import mlflow
import pytest
import torch
from kills import content, digest, place_of, run_of, without_timing

from fmtl.commands.train import train
from fmtl.commands.training import resuming
from fmtl.errors import DataError, UsageError
from fmtl.reports import run_summary
from fmtl.settings.schema import TrainSettings
from fmtl.tracking import pyfunc
from fmtl.training import checkpoints

QUICK = {
    "backbone": "test_efficientnet", "weights": "none", "px": 32, "batch_size": 128, "epochs": 2, "extra_plots": False,
    "gallery": False, "precision": "fp32", "channels_last": False, "run_name": "quick",
}  # fmt: skip


def settings(folder, **more):
    return TrainSettings(data=str(folder), **QUICK | more)


def test_a_signal_ends_it_with_a_checkpoint_and_the_command_that_goes_on(store, dataset, signalled_after, capsys):
    signalled_after(1, settings(dataset.folder))
    place = place_of(store)
    run = mlflow.get_run(run_of(place))
    assert (run.info.status, run.data.tags["fmtl.outcome"]) == ("KILLED", "interrupted")
    assert f"to go on: fmtl train --resume {run.info.run_id}" in capsys.readouterr().out
    (last,) = (place.files / "checkpoints").glob("*_last.pt")
    assert checkpoints.load(last).epoch == 1
    moved = shutil.copytree(dataset.folder, store / "moved")
    assert train(TrainSettings(resume="last", data=str(moved))) == run.info.run_id
    run = mlflow.get_run(run.info.run_id)
    assert (run.data.tags["fmtl.outcome"], run.data.tags["fmtl.resume"]) == ("completed", "exact")
    assert not list((place.files / "checkpoints").glob(".*"))  # of a training that is over one generation is enough
    train(settings(dataset.folder, run_name="whole"))
    whole, resumed = content(place_of(store)), content(place)
    assert {k: v for k, v in whole.items() if k not in ("best", "last")} == {
        k: v for k, v in resumed.items() if k not in ("best", "last")
    }
    assert train(TrainSettings(resume=str(place.root))) == run.info.run_id
    assert "it completed, nothing to do; --extend-to N" in capsys.readouterr().out


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_was_said_of_the_end_is_not_said_twice(store, dataset, monkeypatch, when):
    """The scores stood in the record, and the model did or did not, when it was interrupted."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        where, what = {"before": (pyfunc, "save_model"), "after": (run_summary, "of_training")}[when]
        patched.setattr(where, what, interrupted)
        train(settings(dataset.folder))
    train(TrainSettings(resume="last"))
    client, run = mlflow.MlflowClient(), mlflow.get_run(run_of(place_of(store)))
    assert run.data.tags["fmtl.outcome"] == "completed" and len(run.outputs.model_outputs) == 1
    for name in ("best/epoch", "best/val/loss", "test/avg/f1"):
        assert len(client.get_metric_history(run.info.run_id, name)) == 1


def test_more_epochs_are_a_run_of_its_own_that_begins_where_the_other_ended(store, dataset, caplog):
    first = train(settings(dataset.folder))
    before = content(place_of(store))
    caplog.set_level(logging.INFO, "fmtl")
    second = train(TrainSettings(resume=first, extend_to=4))
    assert second != first
    assert (
        f"it goes on from run {first} after epoch 2: epochs 3 to 4 have a schedule of their own (onecycle)"
        in caplog.text
    )
    client = mlflow.MlflowClient()
    for name in ("val/loss", "train/loss", "val/avg/f1"):
        points = [[(p.step, p.value) for p in client.get_metric_history(run, name)] for run in (first, second)]
        assert [step for step, _ in points[1]] == [1, 2, 3, 4] and points[1][:2] == points[0]
    rates = [p.value for p in client.get_metric_history(second, "learning_rate/heads")]
    assert rates[3] < rates[2]
    run = client.get_run(second)
    assert run.data.tags["fmtl.forked_from"] == first
    assert (run.data.params["epochs"], run.info.run_name) == ("4", "quick-extended")
    (place,) = [p for p in (store / "mlruns").rglob("record") if second in str(p)]
    last = checkpoints.load(next((place.parent / "artifacts" / "checkpoints").glob("*_last.pt")))
    assert [without_timing(row)["epoch"] for row in last.training["history"]] == [1, 2, 3, 4]
    assert last.training["before"] == 2
    shutil.rmtree(place.parent)
    assert content(place_of(store)) == before  # the first one is as it was
    with pytest.raises(UsageError, match="the run has done 2 already, and 2 are asked for"):
        train(TrainSettings(resume=first, extend_to=2))


def test_an_extension_that_is_interrupted_goes_on_as_if_it_had_not_been(store, dataset, signalled_after):
    first = train(settings(dataset.folder, epochs=1))
    (store / "a").mkdir()
    signalled_after(2, TrainSettings(resume=first, extend_to=3))
    broken = place_of(store)
    train(TrainSettings(resume="last"))
    whole = train(TrainSettings(resume=first, extend_to=3))
    (other,) = [p for p in (store / "mlruns").rglob("record") if whole in str(p)]
    a, b = (checkpoints.load(next(folder.glob("checkpoints/*_last.pt")))
            for folder in (broken.files, other.parent / "artifacts"))  # fmt: skip
    assert digest(a.model) == digest(b.model)
    assert digest(a.training["updater"]) == digest(b.training["updater"])


def test_changed_settings_need_a_fork_and_a_fork_takes_weights_and_history(store, dataset):
    first = train(settings(dataset.folder))
    with pytest.raises(UsageError, match="learning_rate: the run has 0.003, got 0.0001"):
        train(TrainSettings(resume=first, learning_rate=1e-4))
    with pytest.raises(UsageError, match="backbone: the run's weights are of test_efficientnet"):
        train(TrainSettings(resume=first, fork=True, backbone="resnet18", epochs=3))
    fork = train(TrainSettings(resume=first, fork=True, learning_rate=1e-4, epochs=3, mode="baseline"))
    run = mlflow.get_run(fork)
    assert (run.data.params["mode"], run.data.params["learning_rate"], run.data.params["optimizer"]) == (
        "baseline", "0.0001", "adam",
    )  # fmt: skip
    with pytest.raises(Exception, match="name it: --resume RUN"):
        TrainSettings(fork=True)


class AtStart(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith("run quick"):
            raise KeyboardInterrupt


@contextlib.contextmanager
def interrupted_at_its_start():
    handler = AtStart()
    logging.getLogger("fmtl").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("fmtl").removeHandler(handler)


@pytest.mark.parametrize("keeps", [True, False])
def test_an_extension_that_is_interrupted_at_once_is_not_trained_from_scratch(store, dataset, caplog, keeps):
    caplog.set_level(logging.INFO, "fmtl")
    first = train(settings(dataset.folder, epochs=1))
    with interrupted_at_its_start(), pytest.raises(KeyboardInterrupt):
        train(TrainSettings(resume=first, extend_to=2, save_checkpoints=keeps))
    second = train(TrainSettings(resume="last"))
    assert second != first and f"it goes on from run {first} after epoch 1: epoch 2 has a schedule" in caplog.text
    assert "begins anew" not in caplog.text
    points = mlflow.MlflowClient().get_metric_history(second, "val/loss")
    assert [point.step for point in points] == [1, 2]


def test_the_best_weights_survive_two_saves_that_were_cut_off(store, dataset, signalled_after):
    """Each time the new best was written, and then not the state that knows of it."""
    signalled_after(1, settings(dataset.folder))
    found = resuming.find("last")
    last, path = found.last(), found.files.path("best")
    kept = checkpoints.load(path)
    for _ in range(2):
        checkpoints.save(path, model=kept.model, tasks=kept.tasks, settings={}, epoch=2, metrics={})
        assert resuming.best_of(found, last, is_held=True).epoch == 1
        assert checkpoints.load(path).epoch == 1


def test_a_damaged_checkpoint_does_not_take_the_place_of_the_generation_before(store, dataset, signalled_after):
    signalled_after(1, settings(dataset.folder))
    found = resuming.find("last")
    path = found.files.path("last")
    good = path.read_bytes()
    checkpoints.older(path).write_bytes(good)
    path.write_bytes(good[:-1])
    assert found.last().epoch == 1
    assert path.read_bytes() == good


def test_a_run_that_had_not_come_to_a_checkpoint_begins_anew_with_the_same_id(store, dataset, caplog):
    caplog.set_level(logging.INFO, "fmtl")

    with interrupted_at_its_start(), pytest.raises(KeyboardInterrupt):
        train(settings(dataset.folder))
    place = place_of(store)
    assert not (place.files / "config.yaml").is_file()
    assert train(TrainSettings(resume="last")) == run_of(place)
    assert "begins anew" in caplog.text
    assert mlflow.get_run(run_of(place)).data.tags["fmtl.outcome"] == "completed"


def test_what_can_not_be_gone_on_with_is_said(store, dataset, signalled_after, caplog):
    with pytest.raises(DataError, match="there is no training yet below"):
        train(TrainSettings(resume="last"))
    signalled_after(1, settings(dataset.folder))
    place = place_of(store)
    (last,) = (place.files / "checkpoints").glob("*_last.pt")
    kept = last.read_bytes()
    last.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(DataError, match="damaged"):  # of the first epoch there is no generation before
        train(TrainSettings(resume="last"))
    last.unlink()
    with pytest.raises(DataError, match="its checkpoints are gone"):
        train(TrainSettings(resume="last"))
    last.write_bytes(kept)
    shutil.copy(last, checkpoints.older(last))
    last.write_bytes(kept[:-1])
    train(TrainSettings(resume="last"))
    assert "going on with the generation before, of epoch 1" in caplog.text


def test_classes_in_another_order_are_refused(store, dataset, signalled_after):
    signalled_after(1, settings(dataset.folder))
    place = place_of(store)
    (path,) = (place.files / "checkpoints").glob("*_last.pt")
    saved = torch.load(path, weights_only=True)
    saved["tasks"][0]["classes"].reverse()
    checkpoints.write_sealed(path, saved)
    with pytest.raises(DataError, match="has the same classes in another order than the run"):
        train(TrainSettings(resume="last"))
