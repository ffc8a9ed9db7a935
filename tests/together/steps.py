"""Ten steps on a prepared dataset and an evaluation, in as many processes as torchrun starts.

torchrun --nproc-per-node 2 steps.py DATA BACKBONE OUT.json [SETTING=VALUE ...]
"""

import json
import sys
from pathlib import Path

import torch

from fmtl.commands.training import calling
from fmtl.commands.training.work import prepare
from fmtl.settings.train import TrainSettings
from fmtl.together import collectives, ranks
from fmtl.training import engine
from fmtl.training.engine import Between
from fmtl.training.optim import Updater
from fmtl.training.position import Position

STEPS = 10


class Enough(Exception):
    pass


def main(data: str, backbone: str, out: str, *more: str) -> None:
    place = ranks.here()
    asked = {"data": data, "backbone": backbone, "weights": "none", "px": 32, "batch_size": 22, "precision": "fp32",
             "channels_last": False, "epochs": 3, "device": "cpu"}  # fmt: skip
    settings = TrainSettings.model_validate(asked | dict(pair.split("=") for pair in more))
    if place.size == 1:
        train(settings, Path(out))
        return
    with collectives.joined(place, torch.device("cpu")):
        if place.is_first:
            train(settings, Path(out))
        else:
            calling.called()
            train(settings, Path(out))


def train(settings: TrainSettings, out: Path) -> None:
    work = prepare(settings)
    setup = work.setup
    collectives.spread(setup.net)
    (stage,) = work.data.stages()
    seen, position = record(stage.train.source), Position(torch.device("cpu"))
    updater = Updater(setup.net, setup.loss, stage.recipe, num_batches=len(stage.train))
    losses = []

    def at_step() -> None:
        if position.epoch == 1 and len(losses) < min(STEPS, len(stage.train)):
            losses.append(float(position.loss_sum) / position.num_images)

    results = engine.fit(
        setup.net, stage.train, stage.val, recipe=stage.recipe, updater=updater, loss=setup.loss,
        device=setup.device, epochs=range(1, 2), between=Between(position, at_step),
    )  # fmt: skip
    (result,) = list(results)
    val = result.val
    evaluated = {
        "confusion": {name: counts.tolist() for name, counts in val.confusion.items()},
        "targets": {name: values.tolist() for name, values in val.targets.items()},
        "probs": {name: values.tolist() for name, values in val.probs.items()},
        "loss": val.loss,
    }
    everyone = [part.tolist() for part in collectives.gathered(torch.tensor(seen))]
    if collectives.place().is_first:
        told = {"losses": losses, "train_loss": result.train_loss, "seen": everyone, "val": evaluated,
                "rows": work.dataset.rows("train").tolist()}  # fmt: skip
        out.write_text(json.dumps(told))


def record(source) -> list[int]:
    """Rows that are loaded from now on, in their order."""
    seen, load = [], source.load

    def recorded(rows, epoch):
        seen.extend(rows.tolist())
        return load(rows, epoch)

    source.load = recorded
    return seen


if __name__ == "__main__":
    main(*sys.argv[1:])
