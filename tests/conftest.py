"""Shared fixtures: real temporary MLflow stores, and a small prepared sample."""

import contextlib
import logging
import os
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image

from fmtl.catalogue import sample
from fmtl.commands.prepare import build_dataset
from fmtl.dataset.prepared import PreparedDataset
from fmtl.settings.schema import PrepareSettings

ROOT = Path(__file__).parent.parent
NO_STORE = "sqlite:////proc/no-test-may-use-a-store-it-did-not-ask-for"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What fmtl remembers of this machine comes from these tests alone."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("XDG_CACHE_HOME") if before is None else os.environ.update(XDG_CACHE_HOME=before)


@pytest.fixture(autouse=True)
def no_experiment_stays():
    """What a test chose of MLflow is not the next one's."""
    yield
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        os.environ.pop(name, None)
    mlflow.tracking.fluent._active_experiment_id = None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real photos; tests that use it are skipped where it is not there."""
    folder = os.environ.get("FMTL_REAL_DATA")
    if not folder:
        pytest.skip("FMTL_REAL_DATA is not set")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A store whose schema is made; making it is most of what a new store costs."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    mlflow.search_experiments()
    mlflow.set_tracking_uri(NO_STORE)
    return path


@pytest.fixture
def store(tmp_path, empty_store, monkeypatch) -> Path:
    """A working directory with an MLflow store of its own, as a user's checkout has."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    mlflow.set_tracking_uri(uri)
    yield tmp_path
    while mlflow.active_run():
        mlflow.end_run()
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)  # a test's choice, which MLflow puts there
    mlflow.set_tracking_uri(NO_STORE)


@pytest.fixture(scope="session")
def catalogue_table(tmp_path_factory) -> Path:
    """The sample catalogue's table, photos beside it."""
    return sample.draw_catalogue(tmp_path_factory.mktemp("sample") / "catalogue")


@pytest.fixture(scope="session")
def dataset(catalogue_table) -> PreparedDataset:
    """The sample prepared at 64 px. Read only: tests share it."""
    out = catalogue_table.parent.parent / "prepared"
    prepared, _ = build_dataset(PrepareSettings(table=str(catalogue_table), out=str(out), px=64))
    return prepared


@pytest.fixture
def write_catalogue(tmp_path):
    """Write a table of text and a distinct photo for each named image; returns the table's path."""

    def write(text: str, images: tuple[str, ...] = ()) -> Path:
        folder = tmp_path / "shop"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for i, name in enumerate(images):
            pixels = np.random.default_rng(i).integers(0, 256, (20, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name)
        table = folder / "products.csv"
        table.write_text(text)
        return table

    return write


class Interrupt(logging.Handler):
    """Ctrl-C when a training has said that it did an epoch."""

    def __init__(self, epoch: int):
        super().__init__()
        self._said = f"epoch {epoch}/"

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(self._said):
            raise KeyboardInterrupt


@pytest.fixture
def interrupted_after(caplog):
    """Within it, a training is interrupted after an epoch, and the interrupt is expected."""

    @contextlib.contextmanager
    def interrupted(epoch: int):
        handler, log = Interrupt(epoch), logging.getLogger("fmtl")
        log.addHandler(handler)
        try:
            with caplog.at_level(logging.INFO, "fmtl"), pytest.raises(KeyboardInterrupt):
                yield
        finally:
            log.removeHandler(handler)

    return interrupted
