"""Two processes of one thread each, under torchrun, against one process of two threads: the same batches, in turn.

    python benchmarks/ranks.py run DATA FILE.json [--pairs 10]

DATA is a prepared dataset. Prints the ratio of images per second for each backbone: the median and its range.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

CASES = {"tf_efficientnet_lite0": 128, "resnet50": 224}
BATCH, WARM, SECONDS = 32, 3, 20.0  # of all processes; steps that do not count; timed at most
WAYS = {"2 processes": 2, "1 process": 1}


class Enough(Exception):
    """So many seconds were timed."""


def one(data: str, backbone: str, px: str) -> None:
    """Images per second of one process, or of all that torchrun started."""
    import torch

    from fmtl.commands.training import calling
    from fmtl.together import collectives, ranks

    place = ranks.here()
    if place.size == 1:
        found = measured(data, backbone, int(px))
    else:
        with collectives.joined(place, torch.device("cpu")):
            if not place.is_first:
                calling.called()
            found = measured(data, backbone, int(px))
    if place.is_first:
        print(json.dumps(found))


def measured(data: str, backbone: str, px: int) -> float:
    import torch

    from fmtl.commands.training.work import prepare
    from fmtl.settings.train import TrainSettings
    from fmtl.together import collectives
    from fmtl.training import engine
    from fmtl.training.engine import Between
    from fmtl.training.optim import Updater
    from fmtl.training.position import Position

    settings = TrainSettings(
        data=data, backbone=backbone, weights="none", px=px, batch_size=BATCH,
        epochs=1, device="cpu", allow_stale=True,
    )  # fmt: skip
    work = prepare(settings)
    setup = work.setup
    collectives.spread(setup.net)
    (stage,) = work.data.stages()
    position, times = Position(torch.device("cpu")), [0.0]

    def at_step() -> None:
        times.append(time.monotonic())
        is_over = len(times) > WARM + 1 and times[-1] - times[WARM] > SECONDS
        if collectives.any_of(is_over)[0]:
            raise Enough

    updater = Updater(setup.net, setup.loss, stage.recipe, num_batches=len(stage.train))
    try:
        for _ in engine.fit(
            setup.net, stage.train, stage.val, recipe=stage.recipe, updater=updater, loss=setup.loss,
            device=setup.device, epochs=range(1, 2), between=Between(position, at_step),
        ):  # fmt: skip
            pass
    except Enough:
        pass
    steps = min(len(times), len(stage.train) + 1) - 1 - WARM
    return steps * BATCH / (times[WARM + steps] - times[WARM])


def run(options: argparse.Namespace) -> None:
    found: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name in CASES}
    for pair in range(options.pairs):
        for backbone, px in CASES.items():
            for way, num in list(WAYS.items())[:: 1 if pair % 2 else -1]:
                rate = launched(num, options.data, backbone, px)
                found[backbone][way].append(rate)
                print(f"{pair + 1}  {backbone}@{px}  {way}: {rate:.1f} images/s", flush=True)
            options.file.write_text(json.dumps(found, indent=1) + "\n")
    show(found)


def launched(num: int, data: str, backbone: str, px: int) -> float:
    script = [str(Path(__file__).resolve()), "one", data, backbone, str(px)]
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num)] if num > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": str(2 // num)}
    done = subprocess.run(
        [sys.executable, *together, *script], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return float(done.stdout.splitlines()[-1])


def show(found: dict[str, dict[str, list[float]]]) -> None:
    print("\n| backbone | images per second, 2 processes over 1 |\n|---|---|")
    for backbone, rates in found.items():
        ratios = [two / one for two, one in zip(rates["2 processes"], rates["1 process"], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"| `{backbone}`, {CASES[backbone]} px | {statistics.median(ratios):.2f} ({spread}, {len(ratios)} pairs) |"
        )


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        one(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run"])
    parser.add_argument("data")
    parser.add_argument("file", type=Path)
    parser.add_argument("--pairs", type=int, default=10)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
