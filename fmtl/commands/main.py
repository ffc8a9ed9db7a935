"""``main``: the whole pipeline on a catalogue; what it records are children of one MLflow run."""

import json
import logging
from pathlib import Path
from typing import Any

from fmtl.catalogue import sample
from fmtl.catalogue.photos.cells import Cell, PhotoCell
from fmtl.catalogue.photos.folder import ImageFolder, PhotoFile
from fmtl.commands.compare import compare
from fmtl.commands.labelling.listing import Listing
from fmtl.commands.predict import predict
from fmtl.commands.prepare import SAMPLE, prepare
from fmtl.commands.train import train
from fmtl.dataset.prepared import PreparedDataset
from fmtl.settings.schema import (
    DEFAULT_ALIAS,
    DEFAULT_MODEL_NAME,
    CompareSettings,
    MainSettings,
    PredictSettings,
    PrepareSettings,
)
from fmtl.settings.train import MODES, TrainSettings
from fmtl.tracking.run import open_run

log = logging.getLogger(__name__)

NUM_SHOWN = 5
# Drawn garments are far from ImageNet's photos, so the backbone has more to learn than the default rates allow.
RECIPES: dict[str, dict[str, Any]] = {
    "tuned": {"learning_rate": 3e-3, "backbone_lr_scale": 0.3, "batch_size": 16},
    "baseline": {"learning_rate": 1e-3, "batch_size": 16},
}


def main(settings: MainSettings) -> None:
    """Prepare, train both modes, compare, register the best, predict the test photos, and say what to look at."""
    is_sample = settings.table == SAMPLE
    name = Path(settings.table).stem
    data = settings.data or f"data/{name}"
    with open_run("main", name=name) as run:
        run.log_params(settings.model_dump(mode="json"))
        _say("prepare: the sample catalogue" if is_sample else f"prepare: {settings.table}")
        px = max(settings.px, PrepareSettings.model_fields["px"].default)
        how: dict[str, Any] = {"sets": "auto", "applies": sample.APPLIES} if is_sample else {}
        dataset = prepare(
            PrepareSettings(table=settings.table, images=settings.images, out=data, px=px, seed=settings.seed, **how)
        )
        for mode in MODES:
            _say(f"train: {settings.backbone}, {mode}")
            common = settings.model_dump(include={"backbone", "weights", "epochs", "px", "seed"})
            train(TrainSettings(mode=mode, data=data, **(RECIPES[mode] if is_sample else {}), **common))
        _say("compare and register")
        compare(CompareSettings(out=settings.out, register=DEFAULT_MODEL_NAME, data=dataset.digest))
        _say("predict: the test photos")
        model = f"models:/{DEFAULT_MODEL_NAME}@{DEFAULT_ALIAS}"
        table = predict(PredictSettings(model=model, images=data, out="predictions.csv"), _test_photos(dataset))
        shown = [c for c in table if "/" not in c]
        print(table[shown].head(NUM_SHOWN).to_string(index=False))
    print("\nBrowse the runs: make ui (or mlflow ui --port 5000), then open http://127.0.0.1:5000")


def _test_photos(dataset: PreparedDataset) -> Listing:
    """The test photos: files of the image folder, or cells of the table."""
    rows = dataset.rows("test")
    names = dataset.table["path"].iloc[rows].tolist()
    sources = dataset.sources.iloc[dataset.image_of[rows]]
    if sources["cell"].any():
        return Listing(names, [PhotoCell(Cell(*json.loads(cell))) for cell in sources["cell"]])
    root = dataset.folder / dataset.manifest["source"]["images_path"]
    folder = ImageFolder(root, follow_links=dataset.manifest["settings"]["follow_links"])
    return Listing(names, [PhotoFile(folder, name) for name in names])


def _say(step: str) -> None:
    log.info("\n== %s", step)
