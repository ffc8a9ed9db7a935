"""What recipes are worth on splits that nobody tuned on: many random splits of two catalogues, the same for each arm.

    python benchmarks/evidence.py run FILE.json [--arms ARM ...] [--splits 3] [--catalogues fashion styles] [--jobs 1]
    python benchmarks/evidence.py show FILE.json [--against ARM]

Each training judges several heads on the same network: the epoch that was chosen (``best``), the last epoch
(``last``), its heads refitted (``refit``), the mirror image averaged in (``mirror``), attributes decoded together
(``decode``). What is chosen is chosen on ``val``; ``test`` is for the report. Differences are paired by split, with
intervals over splits that are corrected for overlapping training photos. Needs ``FMTL_REAL_DATA``. Runs that the file
holds already, of the same settings, are not repeated.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

CATALOGUES = {
    "fashion": {"table": "fashion/fashion.csv", "images": "fashion/images"},
    "styles": {"table": "styles/styles.csv", "images": "styles/images", "preset": "kaggle-fashion"},
}
BASE: dict[str, Any] = {"backbone": "tf_efficientnet_lite0", "weights": "bundled", "px": 128, "epochs": 12}
BARE = {"mode": "tuned", "label_smoothing": 0.0, "class_weights": 0.0, "augment": False}
TURNS = {"augment": True, "crop_scale": 1.0, "rotation": 10.0, "colour_jitter": 0.1}
CROPS = {"augment": True, "crop_scale": 0.75, "rotation": 0.0, "colour_jitter": 0.0}
BEFORE = {"mode": "tuned", "label_smoothing": 0.1, "class_weights": 0.5, **CROPS}  # tuned, until this was measured
# Settings of train, and of prepare under "prepare". The plain loop keeps its last epoch: look at its ``last``.
ARMS: dict[str, dict[str, Any]] = {
    **{
        f"plain loop, {rate:g}": {**BARE, **TURNS, "learning_rate": 10 * rate, "prepare": {"fit": "stretch"}}
        for rate in (1e-4, 3e-4, 1e-3)
    },
    "tuned": {"mode": "tuned"},
    "tuned, 192 px": {"mode": "tuned", "px": 192},
    "crops, class weights 0.5, smoothing 0.1": BEFORE,
    "bare": BARE,
    "bare, stretched": {**BARE, "prepare": {"fit": "stretch"}},
    "bare, turns": {**BARE, **TURNS},
    "bare, mirror": {**BARE, **CROPS, "crop_scale": 1.0},
    "bare, class weights 0.5": {**BARE, "class_weights": 0.5},
    "bare, class weights 0.25": {**BARE, "class_weights": 0.25},
    "bare, smoothing 0.05": {**BARE, "label_smoothing": 0.05},
    "bare, average 0.99": {**BARE, "ema_decay": 0.99},
    "bare, rates x 2": {**BARE, "learning_rate": 6e-3},
    "bare, backbone at 0.2": {**BARE, "backbone_lr_scale": 0.2},
    "bare, 192 px": {**BARE, "px": 192},
    "bare, turns, 192 px": {**BARE, **TURNS, "px": 192},
    "bare, class weights 0.25, 192 px": {**BARE, "class_weights": 0.25, "px": 192},
    "bare, 224 px, 9 epochs": {**BARE, "px": 224, "epochs": 9},
    "bare, turns, 224 px, 9 epochs": {**BARE, **TURNS, "px": 224, "epochs": 9},
    "bare, turns, class weights 0.25, 192 px": {**BARE, **TURNS, "class_weights": 0.25, "px": 192},
    "bare, turns, average 0.99, 192 px": {**BARE, **TURNS, "ema_decay": 0.99, "px": 192},
    "bare, turns, rates x 2, 192 px": {**BARE, **TURNS, "learning_rate": 6e-3, "px": 192},
    "bare, turns, smoothing 0.05, 192 px": {**BARE, **TURNS, "label_smoothing": 0.05, "px": 192},
    "bare, turns, stretched, 192 px": {**BARE, **TURNS, "px": 192, "prepare": {"fit": "stretch"}},
    "bare, turns, stretched, 224 px": {**BARE, **TURNS, "px": 224, "prepare": {"fit": "stretch"}},
    "bare, turns, px auto": {**BARE, **TURNS, "px": "auto"},
    "bare, turns, stretched, px auto": {**BARE, **TURNS, "px": "auto", "prepare": {"fit": "stretch"}},
    "bare, turns, lite1, 192 px, 8 epochs": {
        **BARE,
        **TURNS,
        "backbone": "tf_efficientnet_lite1",
        "px": 192,
        "epochs": 8,
    },
    "bare, turns, lite2, 160 px, 9 epochs": {
        **BARE,
        **TURNS,
        "backbone": "tf_efficientnet_lite2",
        "px": 160,
        "epochs": 9,
    },
    "bare, 160 px": {**BARE, "px": 160},
    "bare, 192 px, 8 epochs": {**BARE, "px": 192, "epochs": 8},
    "bare, lite1": {**BARE, "backbone": "tf_efficientnet_lite1"},
    "bare, lite2": {**BARE, "backbone": "tf_efficientnet_lite2"},
    "bare, 18 epochs": {**BARE, "epochs": 18},
}
STRENGTHS = (1e-3, 1e-2, 1e-1)  # C of the refitted heads
SHARES = (0.0, 0.25, 0.5, 1.0)  # of what training counts say together, in decoding


# -- one training, in a process of its own ----------------------------------------------------------------------------


def train_and_judge(data: str, settings: dict[str, Any], kept: str = "") -> dict[str, Any]:
    """Seconds, and scores on val and test by heads; what the last network sees, in a file ``kept``. Works in the
    current folder."""
    import time

    import torch

    from fmtl.commands.train import train_whole
    from fmtl.commands.training.work import prepare
    from fmtl.settings.train import TrainSettings
    from fmtl.training import checkpoints
    from fmtl.training.history import best_by

    chosen = TrainSettings(data=data, extra_plots=False, gallery=False, checkpoint_minutes=0, offline=True, **settings)
    begun = time.process_time()
    _, folder = train_whole(chosen)
    core_seconds = time.process_time() - begun  # of all threads: the same whatever else the machine does
    (last,) = (folder.files / "checkpoints").glob("*_last.pt")
    history = checkpoints.load(last).training["history"]
    work = prepare(chosen.model_copy(update={"weights": "none"}))
    found: dict[str, Any] = {
        "seconds": sum(row["epoch_seconds"] for row in history),
        "core_seconds": core_seconds,
        "best_epoch": best_by(history, _chosen_by(chosen))["epoch"],
        "images": {split: len(work.dataset.rows(split)) for split in ("train", "val", "test")},
        "heads": {},
    }
    with torch.no_grad():
        for which in ("best", "last"):
            (path,) = (folder.files / "checkpoints").glob(f"*_{which}.pt")
            work.setup.net.load_state_dict(checkpoints.load(path).model)
            seen = _Seen(work)
            found["heads"][which] = seen.judged(seen.logits())
        if kept:
            seen.keep(kept)
        found["heads"] |= {"mirror": seen.judged(seen.logits(mirror=True)), **seen.refitted(), **seen.decoded()}
    return found


def _chosen_by(settings: Any) -> str:
    from fmtl.metric_names import BY_CHOICE

    return BY_CHOICE[str(settings.with_mode().choose_by)]


class _Seen:
    """Features of all photos and of their mirror images, ``(rows, D)``, as a trained network sees them."""

    def __init__(self, work: Any):
        import torch

        self.net, self.dataset = work.setup.net.eval(), work.dataset
        parts, mirrored, colours = {}, {}, {}
        for split in ("train", "val", "test"):
            batches = work.data.batches(split, work.data.photos())
            batches = batches if split != "train" else _in_order(work)
            found = [
                (self.net.features(images), self.net.features(images.flip(-1)), _colours(images, work.data.preprocess))
                for images, _ in batches
            ]
            parts[split], mirrored[split], colours[split] = (torch.cat(some) for some in zip(*found, strict=True))
        self.features, self.mirrored, self.colours = parts, mirrored, colours
        self.targets = {split: self.dataset.targets[self.dataset.rows(split)] for split in parts}

    def logits(self, *, mirror: bool = False) -> dict[str, dict[str, np.ndarray]]:
        """By split and task name."""
        found = {}
        for split in ("train", "val", "test"):
            heads = self.net.heads(self.features[split])
            if mirror:
                heads = (heads + self.net.heads(self.mirrored[split])) / 2
            found[split] = {name: part.numpy() for name, part in self.net.packing.split(heads).items()}
        return found

    def keep(self, file: str) -> None:
        """Features, colours, targets and logits by split, for questions that need no training again."""
        arrays = {}
        for split, targets in self.targets.items():
            seen = {"features": self.features, "mirrored": self.mirrored, "colours": self.colours}
            arrays |= {f"{split}/{name}": values[split].half() for name, values in seen.items()}
            arrays[f"{split}/targets"] = targets
        for mirror in (False, True):
            for split, by_task in self.logits(mirror=mirror).items():
                arrays |= {f"{split}/{'mirror' if mirror else 'logits'}/{task}": part for task, part in by_task.items()}
        np.savez_compressed(file, **arrays)

    def judged(self, logits: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, float]]:
        return {split: self.scores(logits[split], split) for split in ("val", "test")}

    def scores(self, logits: dict[str, np.ndarray], split: str) -> dict[str, float]:
        """Means over tasks: accuracy, macro-F1, and what is left of the loss under the best temperatures."""
        import torch
        from scipy.special import softmax

        from fmtl.model.confidence import temperature
        from fmtl.training import evaluating, metrics

        predicted = torch.stack([torch.from_numpy(part.argmax(axis=1)) for part in logits.values()], dim=1)
        targets = torch.from_numpy(self.targets[split])
        counts = evaluating.confusions(predicted, targets, self.net.num_classes)
        average = metrics.all_metrics(counts)["avg"]
        left = [
            temperature.fit(softmax(part, axis=1), self.targets[split][:, t]).loss
            for t, part in enumerate(logits.values())
        ]
        return {"accuracy": average["accuracy"], "f1": average["f1"], "refined_loss": float(np.nansum(left))}

    def refitted(self) -> dict[str, Any]:
        """Multinomial logistic regression per task on photos and mirror images, its C chosen on val."""
        found = {}
        for name, power, has_colours in (
            ("refit", 0.0, False), ("refit, rare weighted", 0.5, False), ("refit, rare weighted, colours", 0.5, True)
        ):  # fmt: skip
            rows = {"train": np.concatenate([self._rows("train", self.features, has_colours),
                                             self._rows("train", self.mirrored, has_colours)])}  # fmt: skip
            rows |= {split: self._rows(split, self.features, has_colours) for split in ("val", "test")}
            mean, spread = rows["train"].mean(axis=0), rows["train"].std(axis=0) + 1e-6
            rows = {split: (values - mean) / spread for split, values in rows.items()}
            logits: dict[str, dict[str, np.ndarray]] = {split: {} for split in ("val", "test")}
            for t, (task, size) in enumerate(self.net.num_classes.items()):
                tried = [self._regression(rows, t, size, power, strength) for strength in STRENGTHS]
                best = max(tried, key=lambda logits_of: self._task_score(logits_of["val"], t))
                for split, by_task in logits.items():
                    by_task[task] = best[split]
            found[name] = self.judged(logits)
        return found

    def _rows(self, split: str, features: dict[str, Any], has_colours: bool) -> np.ndarray:
        return np.concatenate([features[split], self.colours[split]][: 1 + has_colours], axis=1)

    def _regression(
        self, rows: dict[str, np.ndarray], t: int, size: int, power: float, strength: float
    ) -> dict[str, np.ndarray]:
        """Logits of a task on val and test."""
        from sklearn.linear_model import LogisticRegression

        from fmtl.tasks import IGNORE_INDEX

        targets = np.tile(self.targets["train"][:, t], 2)
        known = targets != IGNORE_INDEX
        count = np.bincount(targets[known], minlength=size)
        weights = {k: float(n) ** -power for k, n in enumerate(count) if n}
        mean_weight = sum(weights[k] * count[k] for k in weights) / known.sum()
        weights = {k: w / mean_weight for k, w in weights.items()}
        model = LogisticRegression(C=strength, class_weight=weights, max_iter=100)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of iterations
            model.fit(rows["train"][known], targets[known])
        logits = {}
        for split in ("val", "test"):
            logits[split] = np.full((len(rows[split]), size), -1e4, np.float32)
            found = model.decision_function(rows[split])
            logits[split][:, model.classes_] = np.stack([-found / 2, found / 2], axis=1) if found.ndim == 1 else found
        return logits

    def _task_score(self, logits: np.ndarray, t: int) -> float:
        """Accuracy and macro-F1 of a task on val, in equal parts."""
        from sklearn.metrics import accuracy_score, f1_score

        from fmtl.tasks import IGNORE_INDEX

        known = self.targets["val"][:, t] != IGNORE_INDEX
        if not known.any():
            return 0.0
        want, said = self.targets["val"][known, t], logits[known].argmax(axis=1)
        return float(accuracy_score(want, said) + f1_score(want, said, average="macro"))

    def decoded(self) -> dict[str, Any]:
        """Other attributes' log P(class | likeliest class of the attribute with the most classes), its share by val."""
        from scipy.special import log_softmax

        logits, sizes = self.logits(), self.net.num_classes
        names = list(sizes)
        anchor = max(names, key=lambda name: sizes[name] if self._decides(name) else 0)
        tables = {name: self._together(anchor, name) for name in names if name != anchor}
        tried = []
        for share in SHARES:
            found: dict[str, dict[str, np.ndarray]] = {}
            for split in ("val", "test"):
                likeliest = logits[split][anchor].argmax(axis=1)
                found[split] = {
                    name: part if name == anchor else log_softmax(part, axis=1) + share * tables[name][likeliest]
                    for name, part in logits[split].items()
                }
            scores = self.judged(found)
            tried.append((scores["val"]["accuracy"] + scores["val"]["f1"], scores))
        return {"decode": max(tried, key=lambda item: item[0])[1]}

    def _decides(self, name: str) -> bool:
        return "colour" not in name.casefold()

    def _together(self, anchor: str, name: str) -> np.ndarray:
        """log P(class of a task | class of the anchor), smoothed by one photo spread as in all of training."""
        from fmtl.tasks import IGNORE_INDEX

        names, sizes = list(self.net.num_classes), self.net.num_classes
        a, b = (self.targets["train"][:, names.index(task)] for task in (anchor, name))
        known = (a != IGNORE_INDEX) & (b != IGNORE_INDEX)
        counts = np.zeros((sizes[anchor], sizes[name]))
        np.add.at(counts, (a[known], b[known]), 1)
        prior = (counts.sum(axis=0) + 1) / (counts.sum() + sizes[name])
        return np.log((counts + prior) / (counts.sum(axis=1, keepdims=True) + 1))


BINS = (5, 9, 9)  # of L, a and b


def _colours(images: Any, preprocess: Any) -> Any:
    """Roots of the shares of colours in each photo but for its white ground, ``(N, bins)``, in CIE Lab."""
    import torch
    from torch.nn import functional

    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (preprocess.mean, preprocess.std))
    small = functional.interpolate((images * std + mean).clamp(0, 1), size=(48, 48), mode="area").flatten(2).mT
    linear = torch.where(small > 0.04045, ((small + 0.055) / 1.055) ** 2.4, small / 12.92)
    xyz = linear @ torch.tensor([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    ratio = xyz / torch.tensor([0.9505, 1.0, 1.089])
    f = torch.where(ratio > 216 / 24389, ratio.clamp(min=1e-6) ** (1 / 3), (24389 / 27 * ratio + 16) / 116)
    lab = torch.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], dim=-1)
    low, high, bins = torch.tensor([0.0, -50, -50]), torch.tensor([100.0, 60, 60]), torch.tensor(BINS)
    cells = ((lab - low) / (high - low) * bins).long().clamp(min=0).minimum(bins - 1)
    index = (cells[..., 0] * BINS[1] + cells[..., 1]) * BINS[2] + cells[..., 2]
    is_ground = (lab[..., 0] > 96) & (lab[..., 1:].abs().amax(dim=-1) < 4)
    counts = torch.zeros(len(images), BINS[0] * BINS[1] * BINS[2])
    counts.scatter_add_(1, index, (~is_ground).float())
    return (counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).sqrt()


def _in_order(work: Any) -> Any:
    from fmtl.loading.batches import Batches

    dataset, setup = work.dataset, work.setup
    return Batches(
        work.data.photos(), dataset.targets, dataset.rows("train"), tasks=dataset.tasks, batch_size=setup.batch_size
    )


# -- all of them ------------------------------------------------------------------------------------------------------


class Results:
    """By catalogue, arm and split; written after each run."""

    def __init__(self, file: Path):
        self.file, self._writing = file, threading.Lock()
        kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        self.runs: dict[str, dict[str, dict[str, Any]]] = kept

    def get(self, catalogue: str, arm: str, split: int) -> dict[str, Any] | None:
        found = self.runs.get(catalogue, {}).get(arm, {}).get(str(split))
        return found if found and found["settings"] == _settings(arm) else None

    def put(self, catalogue: str, arm: str, split: int, found: dict[str, Any]) -> None:
        with self._writing:
            self.runs.setdefault(catalogue, {}).setdefault(arm, {})[str(split)] = found
            self.file.write_text(json.dumps(self.runs, indent=1, sort_keys=True) + "\n")


def _settings(arm: str) -> dict[str, Any]:
    return {**BASE, **ARMS[arm]}


def prepared(root: Path, catalogue: str, split: int, how: dict[str, Any]) -> str:
    """A split of a catalogue, made once."""
    from fmtl.commands.prepare import build_dataset
    from fmtl.settings.schema import PrepareSettings

    name = "-".join([catalogue, str(split), *(f"{k}={v}" for k, v in sorted(how.items()))])
    folder = root / name
    if not folder.is_dir():
        data = Path(os.environ["FMTL_REAL_DATA"]).resolve()
        source = {k: str(data / v) if k != "preset" else v for k, v in CATALOGUES[catalogue].items()}
        build_dataset(PrepareSettings(**source, out=str(folder), seed=split, **how))
    return str(folder)


def run(options: argparse.Namespace) -> None:
    results, making = Results(options.file), threading.Lock()
    threads = max((os.cpu_count() or 1) // options.jobs, 1)
    todo = [
        (catalogue, split, arm)
        for split in range(options.splits)
        for arm in options.arms
        for catalogue in options.catalogues
        if results.get(catalogue, arm, split) is None
    ]
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(options.jobs) as pool:

        def one(what: tuple[str, int, str]) -> None:
            catalogue, split, arm = what
            settings = _settings(arm)
            how = {k: v for k, v in settings.items() if k != "prepare"}
            with making:
                data = prepared(Path(temporary), catalogue, split, settings.get("prepare", {}))
            with tempfile.TemporaryDirectory(dir=temporary) as here:
                environment = os.environ | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": str(threads)}
                done = subprocess.run(
                    [sys.executable, str(Path(__file__).resolve()), "one", data, json.dumps(how | {"seed": split}),
                     _kept(options.keep, what)],
                    cwd=here, env=environment, capture_output=True, text=True, check=False,
                )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"{what}: {done.stderr[-2000:]}")
            found = json.loads(done.stdout.splitlines()[-1]) | {"settings": settings, "threads": threads}
            results.put(catalogue, arm, split, found)
            said = "  ".join(
                f"{k} {v['test']['accuracy']:.3f}/{v['test']['f1']:.3f}" for k, v in found["heads"].items()
            )
            print(
                f"{catalogue} {split} {arm}: {found['seconds']:.0f} s, epoch {found['best_epoch']}: {said}", flush=True
            )

        list(pool.map(one, todo))


def _kept(folder: Path | None, what: tuple[str, int, str]) -> str:
    if folder is None:
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder.resolve() / ("-".join(map(str, what)).replace(" ", "_") + ".npz"))


def show(options: argparse.Namespace) -> None:
    """A row for each arm and kind of heads: means, and differences to the arm that is named, paired by split."""
    from fmtl.evaluation.statistics import over_splits

    for catalogue, arms in Results(options.file).runs.items():
        against = _column(arms.get(options.against, {}), "last")
        print(f"\n{catalogue}, against '{options.against}', its last epoch\n")
        print("| recipe | heads | splits | val | accuracy | macro-F1 | accuracy more | macro-F1 more | core seconds |")
        print("|---|---|---|---|---|---|---|---|---|")
        for arm, runs in arms.items():
            for which in next(iter(runs.values()))["heads"]:
                found = _column(runs, which)
                common = sorted(set(found) & set(against), key=int)
                images = next(iter(runs.values()))["images"]
                share = images["test"] / (images["train"] + images["val"])
                kinds = [(split, metric) for split in ("val", "test") for metric in ("accuracy", "f1")]
                means = [np.mean([scores[s][m] for scores in found.values()]) for s, m in kinds]
                more = []
                for metric in ("accuracy", "f1"):
                    gains = [found[split]["test"][metric] - against[split]["test"][metric] for split in common]
                    more.append(str(over_splits(gains, test_share=share)) if len(gains) > 1 else "")
                seconds = np.mean([r["core_seconds"] for r in runs.values()])
                print(f"| {arm} | {which} | {len(found)} | {means[0]:.3f}/{means[1]:.3f} | {means[2]:.3f} | "
                      f"{means[3]:.3f} | {more[0]} | {more[1]} | {seconds:.0f} |")  # fmt: skip


def _column(runs: dict[str, Any], which: str) -> dict[str, Any]:
    return {split: found["heads"][which] for split, found in runs.items() if which in found["heads"]}


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(train_and_judge(sys.argv[2], json.loads(sys.argv[3]), sys.argv[4])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "show"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--catalogues", nargs="+", default=list(CATALOGUES), choices=list(CATALOGUES))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, which share the processors")
    parser.add_argument("--keep", type=Path, help="a folder for what each network sees")
    parser.add_argument("--against", default="plain loop, 0.0003")
    options = parser.parse_args()
    if options.what == "show":
        show(options)
    elif "FMTL_REAL_DATA" not in os.environ:
        print("benchmarks/evidence.py: skipped, FMTL_REAL_DATA is not set")
    else:
        run(options)


if __name__ == "__main__":
    main()
