"""What each part of a recipe is worth: one change at a time, several seeds, on real photos.

    python benchmarks/recipe.py ablation [--json FILE]      px 96, 3 seeds; docs/recipe.md holds its table
    python benchmarks/recipe.py equal-time [--json FILE]    tuned against baseline, 4 minutes each, px 128, 3 seeds
    python benchmarks/recipe.py tuned [--json FILE]         experiments/real_photos.yaml (12 epochs, px 128), 3 seeds

Needs ``FMTL_REAL_DATA``, a folder with ``fashion/fashion.csv``. Split seed 0 throughout; the seeds are those of
initialisation, order and augmentation. Runs that a JSON file holds already, of the same settings, are not repeated.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from fmtl.settings.train import TrainSettings

BACKBONE = {
    "backbone": "tf_efficientnet_lite0",
    "weights": "bundled",
    "extra_plots": False,
    "gallery": False,
    "save_checkpoints": False,
}
SEEDS = (0, 1, 2)
ABLATION = {"px": 96, "epochs": 6, "precision": "fp32", "channels_last": True}
EQUAL_TIME = {"px": 128, "minutes": 4.0}
# What mode=tuned was when these studies were made; they chose it on the test split of one division of the photos.
CROPS = {"crop_scale": 0.75, "rotation": 0.0, "colour_jitter": 0.0}
FORMER = {"mode": "tuned", "label_smoothing": 0.1, "class_weights": 0.5, **CROPS}
EQUAL_TIME_ARMS = {
    "tuned": FORMER,
    "tuned without label smoothing": {**FORMER, "label_smoothing": 0.0},
    "baseline": {"mode": "baseline"},
}
TUNED = {"px": 128, "epochs": 12, **FORMER}
STUDIES = {"ablation": ABLATION, "equal-time": EQUAL_TIME, "tuned": TUNED}

# One change each. The reference is the notebook's tuned recipe with crops and mirror images.
REFERENCE = {
    "learning_rate": 1e-3,
    "backbone_lr_scale": 0.1,
    "decay_norms": True,
    "label_smoothing": 0.0,
    "ema_decay": 0.0,
    **CROPS,
    "class_weights": 0.0,
    "warmup": 0.3,
    "schedule": "onecycle",
}
CHANGES: dict[str, dict] = {
    "reference": {},
    "no crops, no mirror images": {"augment": False},
    "no decay of norms and biases": {"decay_norms": False},
    "backbone at 0.3 of the heads' rate": {"backbone_lr_scale": 0.3},
    "all rates x 3": {"learning_rate": 3e-3},
    "layer decay 0.8": {"layer_decay": 0.8},
    "cosine with 10 % warm-up": {"schedule": "cosine", "warmup": 0.1},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "moving average 0.99": {"ema_decay": 0.99},
    "class weights 0.5": {"class_weights": 0.5},
    "learnt task weights": {"task_weights": "uncertainty"},
    "colour jitter 0.2": {"colour_jitter": 0.2},
    "TrivialAugment, shapes only": {"policy": "trivial"},
    "MixUp 0.2": {"mixup": 0.2},
    "CutMix 1.0": {"cutmix": 1.0},
    "2 frozen epochs first": {"freeze_epochs": 2},
    "no clipping": {"clip_norm": 0.0},
    "rates x 3 and class weights 0.5": {"learning_rate": 3e-3, "class_weights": 0.5},
    "the same and label smoothing 0.1: tuned": {"learning_rate": 3e-3, "class_weights": 0.5, "label_smoothing": 0.1},
    "baseline": {"mode": "baseline"},
}


def run(settings: dict, folder: str) -> dict[str, float]:
    """Final metrics of one training in a process of its own, with an MLflow store of its own."""
    with tempfile.TemporaryDirectory() as store:
        environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db", "TQDM_DISABLE": "1"}
        environment.pop("MLFLOW_RUN_ID", None)
        code = (
            "import json, sys, mlflow\n"
            "from fmtl.settings.train import TrainSettings\n"
            "from fmtl.commands.train import train\n"
            "run_id = train(TrainSettings(**json.loads(sys.argv[1])))\n"
            "print(json.dumps(mlflow.get_run(run_id).data.metrics))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(settings | {"data": folder})],
            env=environment, cwd=store, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{settings}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def prepare(data: Path, folder: str) -> None:
    from fmtl.commands.prepare import build_dataset
    from fmtl.settings.schema import PrepareSettings

    build_dataset(PrepareSettings(table=str(data / "fashion" / "fashion.csv"), out=folder))


class Results:
    """Settings by name, and metrics by name and seed, written after each run."""

    def __init__(self, file: Path | None, facts: dict):
        self.file = file
        kept = json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}
        self.content = {"runs": {}, "recipes": {}, "epochs": {}} | kept | facts

    def make(self, name: str, seed: int, settings: dict, folder: str) -> None:
        """Train with these settings, unless that is done. Runs under this name with others are forgotten."""
        recipe = TrainSettings(**settings).with_mode().model_dump(mode="json", exclude={"data", "device"})
        if self.content["recipes"].get(name) != recipe:
            self.content["recipes"][name], self.content["runs"][name] = recipe, {}
        if str(seed) in self.content["runs"][name]:
            return
        metrics = run(settings | {"seed": seed}, folder)
        kept = {k: v for k, v in metrics.items() if k.startswith(("test/avg/", "best/")) or k == "epoch_seconds"}
        self.content["runs"][name][str(seed)] = kept
        if self.file:
            self.file.write_text(json.dumps(self.content, indent=1, sort_keys=True) + "\n")
        print(f"{name}, seed {seed}: F1 {kept['test/avg/f1']:.3f}", flush=True)

    def by_seed(self, name: str, metric: str) -> dict[str, float]:
        return {seed: found[metric] for seed, found in sorted(self.content["runs"].get(name, {}).items())}

    def values(self, name: str, metric: str) -> list[float]:
        return list(self.by_seed(name, metric).values())


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"


def ablation(folder: str, results: Results, seeds: tuple[int, ...], only: list[str]) -> None:
    for seed in seeds:
        for name in only or CHANGES:
            base = {} if CHANGES[name].get("mode") == "baseline" else REFERENCE
            results.make(name, seed, {**BACKBONE, **ABLATION, **base, **CHANGES[name]}, folder)


def show_ablation(results: Results) -> None:
    reference = results.by_seed("reference", "test/avg/f1")
    print("\n| change | macro-F1 | against the reference, same seeds | accuracy | lowest validation loss |")
    print("|---|---|---|---|---|")
    for name in CHANGES:
        f1 = results.by_seed(name, "test/avg/f1")
        if f1:
            gains = [f1[seed] - reference[seed] for seed in f1 if seed in reference]
            gain = f"{statistics.mean(gains):+.3f}" if gains else "no seed in common"
            others = [spread(results.values(name, metric)) for metric in ("test/avg/accuracy", "best/val/loss")]
            print(f"| {name} | {spread(list(f1.values()))} | {gain} | {' | '.join(others)} |")


def equal_time(folder: str, results: Results, seeds: tuple[int, ...]) -> None:
    """Each arm gets as many epochs as fit into the time, by the seconds of its own second epoch."""
    epochs = results.content["epochs"]
    if epochs.keys() != EQUAL_TIME_ARMS.keys():  # all of them on one machine
        for name, settings in EQUAL_TIME_ARMS.items():
            seconds = run({**BACKBONE, "px": EQUAL_TIME["px"], **settings, "epochs": 2}, folder)["epoch_seconds"]
            epochs[name] = int(EQUAL_TIME["minutes"] * 60 / seconds)
    print(f"epochs in {EQUAL_TIME['minutes']:g} minutes: {epochs}", flush=True)
    for seed in seeds:
        for name in list(EQUAL_TIME_ARMS)[:: 1 if seed % 2 else -1]:
            settings = {**EQUAL_TIME_ARMS[name], "px": EQUAL_TIME["px"], "epochs": epochs[name]}
            results.make(name, seed, {**BACKBONE, **settings}, folder)
    for name in EQUAL_TIME_ARMS:
        f1, accuracy = (spread(results.values(name, f"test/avg/{metric}")) for metric in ("f1", "accuracy"))
        print(f"{name}: macro-F1 {f1}, accuracy {accuracy}")


def tuned(folder: str, results: Results, seeds: tuple[int, ...]) -> None:
    for seed in seeds:
        results.make("tuned", seed, {**BACKBONE, **TUNED}, folder)
    for metric in ("f1", "accuracy"):
        print(f"tuned, {TUNED['epochs']} epochs: {metric} {spread(results.values('tuned', f'test/avg/{metric}'))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(STUDIES))
    parser.add_argument("--json", type=Path, help="also write the figures there, after each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--only", nargs="+", default=[], choices=list(CHANGES))
    options = parser.parse_args()
    if "FMTL_REAL_DATA" not in os.environ:
        print("benchmarks/recipe.py: skipped, FMTL_REAL_DATA is not set")
        return
    facts = {"what": options.what, "versions": {name: version(name) for name in ("torch", "torchvision", "timm")}}
    facts |= {"settings": BACKBONE | STUDIES[options.what]}
    results = Results(options.json, facts)
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(Path(temporary) / "prepared")
        prepare(Path(os.environ["FMTL_REAL_DATA"]).resolve(), folder)
        if options.what == "ablation":
            ablation(folder, results, tuple(options.seeds), options.only)
            show_ablation(results)
        elif options.what == "equal-time":
            equal_time(folder, results, tuple(options.seeds))
        else:
            tuned(folder, results, tuple(options.seeds))


if __name__ == "__main__":
    main()
