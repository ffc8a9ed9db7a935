"""``main``: the whole pipeline on a catalogue; what it records are children of one MLflow run."""

import logging
from pathlib import Path
from typing import Any

from fmtl.catalogue import sample
from fmtl.commands.choosing.photos import photos_of
from fmtl.commands.compare import compare
from fmtl.commands.labelling.listing import Listing
from fmtl.commands.predict import predict
from fmtl.commands.prepare import SAMPLE, prepare
from fmtl.commands.train import train
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
        gate = settings.model_dump(include={"if_better", "margin", "floor", "force"})
        compare(CompareSettings(out=settings.out, register=DEFAULT_MODEL_NAME, data=dataset.digest, **gate))
        _say("predict: the test photos")
        model = f"models:/{DEFAULT_MODEL_NAME}@{DEFAULT_ALIAS}"
        table = predict(
            PredictSettings(model=model, images=data, out="predictions.csv"),
            Listing(*photos_of(dataset, dataset.rows("test"))),
        )
        shown = [c for c in table if "/" not in c]
        print(table[shown].head(NUM_SHOWN).to_string(index=False))
    print("\nBrowse the runs: make ui (or mlflow ui --port 5000), then open http://127.0.0.1:5000")


def _say(step: str) -> None:
    log.info("\n== %s", step)
