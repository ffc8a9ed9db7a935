"""``main``: the whole pipeline on the sample catalogue; what it records are children of one MLflow run."""

import logging
from typing import Any

from fmtl.commands.compare import compare
from fmtl.commands.predict import predict
from fmtl.commands.prepare import prepare, sample_folder
from fmtl.commands.train import train
from fmtl.settings.schema import (
    DEFAULT_ALIAS,
    DEFAULT_MODEL_NAME,
    CompareSettings,
    MainSettings,
    PredictSettings,
    PrepareSettings,
)
from fmtl.settings.train import TrainSettings
from fmtl.tracking.run import open_run

log = logging.getLogger(__name__)

NUM_SHOWN = 5
# Drawn garments are far from ImageNet's photos, so the backbone has more to learn than the default rates allow.
RECIPES: dict[str, dict[str, Any]] = {
    "tuned": {"learning_rate": 3e-3, "backbone_lr_scale": 0.3, "batch_size": 16},
    "baseline": {"learning_rate": 1e-3, "batch_size": 16},
}


def main(settings: MainSettings) -> None:
    """Prepare the sample, train both modes, compare, register the best, predict, and say what to look at."""
    with open_run("main", name="sample") as run:
        run.log_params(settings.model_dump(mode="json"))
        _say("prepare: the sample catalogue")
        dataset = prepare(PrepareSettings(table="sample", out=settings.data, seed=settings.seed))
        for mode, recipe in RECIPES.items():
            _say(f"train: {settings.backbone}, {mode}")
            common = settings.model_dump(include={"backbone", "weights", "epochs", "px", "data", "seed"})
            train(TrainSettings(mode=mode, **recipe, **common))
        _say("compare and register")
        data = dataset.digest
        compare(CompareSettings(out=settings.out, register=DEFAULT_MODEL_NAME, data=data))
        _say("predict: the sample's photos")
        photos = sample_folder(settings.data) / "images"
        model = f"models:/{DEFAULT_MODEL_NAME}@{DEFAULT_ALIAS}"
        table = predict(PredictSettings(model=model, images=str(photos), out="predictions.csv"))
        shown = [c for c in table if "/" not in c]
        print(table[shown].head(NUM_SHOWN).to_string(index=False))
    print("\nBrowse the runs: make ui (or mlflow ui --port 5000), then open http://127.0.0.1:5000")


def _say(step: str) -> None:
    log.info("\n== %s", step)
