"""Training on a machine that is not ours alone: images per second beside busy processes, and under a quota.

    python benchmarks/busy.py [--backbones NAME ...] [--busy 2] [--repeats 3] [--json FILE]

Each figure is of steps in a process of its own (forward, backward, AdamW; batches of 32), in turn: alone and beside
busy processes, as fmtl sets OpenMP up, as GNU does by itself ("before"), and under settings made by hand, of which the
best counts. ``quota`` is a single processor (``taskset``) against ``OMP_NUM_THREADS=1`` there.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

BACKBONES = ["convnext_tiny", "resnet50", "vit_b_16", "efficientnet_b5", "tf_efficientnet_lite0"]
PX, BATCH, SECONDS = 128, 32, 8.0
OURS: dict[str, str] = {}
BEFORE = {"GOMP_SPINCOUNT": "300000"}  # GNU's default, three milliseconds or so
BY_HAND = [
    {"GOMP_SPINCOUNT": "0"}, {"GOMP_SPINCOUNT": "1000"}, {"GOMP_SPINCOUNT": "100000"},
    {"OMP_WAIT_POLICY": "passive"}, {"OMP_NUM_THREADS": "1"},
]  # fmt: skip

STEPS = """
import sys, time, fmtl, torch
from fmtl.model import autotune, backbones
name, px, batch, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
net = backbones.build(name, {"a": 40, "b": 30, "c": 9}, weights="none", px=px)
way = autotune.choose_execution(net, torch.device("cpu"), autotune.candidates("auto", None, False),
                                backbone=name, px=px, batch_size=batch)
net.run_on(torch.device("cpu"), way).train()
optimizer, images = torch.optim.AdamW(net.parameters(), fused=True), torch.rand(batch, 3, px, px)

def step():
    net.logits(images).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()

step()
done, started = 0, time.perf_counter()
while time.perf_counter() - started < seconds:
    step()
    done += batch
print(done / (time.perf_counter() - started))
"""


def rate(backbone: str, environment: dict[str, str], *, within: tuple[str, ...] = ()) -> float:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [*within, sys.executable, "-c", STEPS, backbone, str(PX), str(BATCH), str(SECONDS)],
        env=kept | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def busy(num: int) -> Iterator[None]:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(backbone: str, num_busy: int, repeats: int) -> dict[str, float]:
    """Medians of images per second, and their ratios."""
    rate(backbone, OURS)  # the trial of precision and layout is remembered from here on
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for _ in range(repeats):
        note("alone", rate(backbone, OURS))
        note("alone, before", rate(backbone, BEFORE))
        with busy(num_busy):
            note("busy", rate(backbone, OURS))
            note("busy, before", rate(backbone, BEFORE))
            for environment in BY_HAND:
                note(f"busy, {' '.join(f'{k}={v}' for k, v in environment.items())}", rate(backbone, environment))
        note("one processor", rate(backbone, OURS, within=("taskset", "-c", "0")))
        note("one processor, one thread", rate(backbone, {"OMP_NUM_THREADS": "1"}, within=("taskset", "-c", "0")))
    median = {name: statistics.median(values) for name, values in found.items()}
    by_hand = max(value for name, value in median.items() if name.startswith("busy, ") and "before" not in name)
    return median | {
        "busy / alone": median["busy"] / median["alone"],
        "busy / busy before": median["busy"] / median["busy, before"],
        "busy / best by hand": median["busy"] / by_hand,
        "alone / alone before": median["alone"] / median["alone, before"],
        "one processor / one thread there": median["one processor"] / median["one processor, one thread"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--busy", type=int, default=os.cpu_count() or 1, help="busy processes beside")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {}
    for backbone in options.backbones:
        results[backbone] = measure(backbone, options.busy, options.repeats)
        ratios = "  ".join(f"{name}: {value:.2f}" for name, value in results[backbone].items() if " / " in name)
        print(f"{backbone}: {results[backbone]['alone']:.1f} images/s alone; {ratios}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
