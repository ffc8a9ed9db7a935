"""The error gallery of a train run: mistakes, where the network looks, and labels that may be wrong."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from PIL import Image

from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.dataset.prepared import PreparedDataset
from fmtl.evaluation import gradcam
from fmtl.loading.preprocess import as_images, prepare_for_network
from fmtl.model.decisions import confidences
from fmtl.model.network import MultiTaskNet
from fmtl.reports import html
from fmtl.storage import durable, tables
from fmtl.tasks import IGNORE_INDEX
from fmtl.training.evaluating import Evaluation

MISTAKES_SHOWN = 18  # per task
SUSPECTS_SHOWN = 60
EXPLAINED, EXPLAINED_TASKS = 6, 12  # images, and attributes of each
PHOTO_PX, HEAT_SHARE = 132, 0.5


@dataclass(frozen=True)
class Gallery:
    """Where the gallery's numbers are, for those who report on the run.

    Attributes:
        mistakes: A row per wrong test prediction, the most confident first within a task.
        suspects: A row per suspect label, the most suspect first.
    """

    mistakes: pd.DataFrame
    suspects: pd.DataFrame


def write(
    folder: Path,
    *,
    net: MultiTaskNet,
    dataset: PreparedDataset,
    preprocess: Preprocess,
    test: Evaluation,
    suspect_labels: pd.DataFrame,
    title: str,
) -> Gallery:
    """Write ``gallery.html``, one file that needs nothing else, and its numbers ``mistakes.csv`` and ``suspects.csv``.

    Args:
        test: Evaluation of the test split, in the order of ``dataset.rows("test")``.
        suspect_labels: As ``label_issues.find`` gives them.
        title: Of the run.
    """
    found = Gallery(_mistakes(dataset, test), _with_photos(dataset, suspect_labels))
    durable.write_text(folder / "mistakes.csv", tables.to_csv(found.mistakes.drop(columns="row")))
    durable.write_text(folder / "suspects.csv", tables.to_csv(found.suspects.drop(columns="row")))
    heat, why_none = _explained(net, dataset, preprocess, test)
    page = html.render(
        "gallery.html",
        title=title,
        tasks=[_task_section(dataset, task.name, found.mistakes, test) for task in dataset.tasks],
        heat=heat,
        why_no_heat=why_none,
        more_tasks=max(0, len(dataset.tasks) - EXPLAINED_TASKS),
        suspects=_shown(dataset, found.suspects.head(SUSPECTS_SHOWN)),
        num_suspects=len(found.suspects),
        num_labels=int((dataset.targets != IGNORE_INDEX).sum()),
    )
    durable.write_text(folder / "gallery.html", page)
    return found


def _mistakes(dataset: PreparedDataset, test: Evaluation) -> pd.DataFrame:
    """Columns row, id, path, split, task, target, prediction, confidence, target_confidence."""
    parts, rows = [], dataset.rows("test")
    for task in dataset.tasks:
        probs, targets, predicted = test.probs[task.name], test.targets[task.name], test.predicted(task.name)
        confidence, of_target = confidences(probs, predicted), confidences(probs, targets)
        wrong = np.flatnonzero(~_right(predicted, targets) & _known(targets))
        wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
        parts.append(
            pd.DataFrame(
                {
                    "row": rows[wrong],
                    "task": task.name,
                    "target": task.texts(targets[wrong]),
                    "prediction": task.texts(predicted[wrong]),
                    "confidence": confidence[wrong],
                    "target_confidence": of_target[wrong],
                }
            )
        )
    return _with_photos(dataset, pd.concat(parts, ignore_index=True))


def _with_photos(dataset: PreparedDataset, table: pd.DataFrame) -> pd.DataFrame:
    """The table with id, path and split of its rows' photos in front."""
    photos = dataset.table[["id", "path", "split"]].iloc[table["row"]].reset_index(drop=True)
    return pd.concat([table[["row"]], photos, table.drop(columns="row")], axis=1)


def _task_section(dataset: PreparedDataset, name: str, mistakes: pd.DataFrame, test: Evaluation) -> dict:
    own = mistakes[mistakes["task"] == name]
    return {
        "name": name,
        "mistakes": _shown(dataset, own.head(MISTAKES_SHOWN)),
        "num": len(own),
        "images": int(_known(test.targets[name]).sum()),
    }


def _shown(dataset: PreparedDataset, table: pd.DataFrame) -> list[dict]:
    photos = dataset.pixels(table["row"].to_numpy()) if len(table) else ()
    return [
        {**row, "photo": html.photo(pixels, PHOTO_PX)}
        for row, pixels in zip(table.to_dict("records"), photos, strict=True)
    ]


def _explained(
    net: MultiTaskNet, dataset: PreparedDataset, preprocess: Preprocess, test: Evaluation
) -> tuple[list[dict], str]:
    """Test images with a heat map per attribute; and why there are none."""
    places = html.evenly(np.arange(len(dataset.rows("test"))), EXPLAINED)
    rows, tasks = dataset.rows("test")[places], dataset.tasks[:EXPLAINED_TASKS]
    pixels = dataset.pixels(rows)
    # Of a set its likeliest value.
    chosen = {task.name: torch.from_numpy(test.probs[task.name][places].argmax(axis=1)) for task in tasks}
    said = {task.name: test.predicted(task.name)[places] for task in tasks}
    confidence = {name: confidences(test.probs[name][places], predicted) for name, predicted in said.items()}
    device = next(net.parameters()).device
    images = prepare_for_network(as_images(pixels).to(device), preprocess)
    try:
        maps = gradcam.heat_maps(net, images, chosen)
    except gradcam.NoSpatialLayer as error:
        return [], str(error)
    found = []
    for i, (place, row) in enumerate(zip(places, rows, strict=True)):
        attributes = [
            {
                "task": task.name,
                "prediction": task.texts(said[task.name][i : i + 1])[0],
                "confidence": float(confidence[task.name][i]),
                "right": _is_right(said[task.name][i : i + 1], test.targets[task.name][place : place + 1]),
                "photo": html.photo(_overlaid(pixels[i], maps[task.name][i].numpy()), PHOTO_PX),
            }
            for task in tasks
        ]
        record = dataset.table.iloc[row]
        found.append({"id": record["id"], "photo": html.photo(pixels[i], PHOTO_PX), "attributes": attributes})
    return found, ""


def _known(targets: np.ndarray) -> np.ndarray:
    """Which images have a label, ``(N,)``."""
    return (targets.reshape(len(targets), -1) != IGNORE_INDEX).any(axis=1)


def _right(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Whether all that is known of an image was said of it, ``(N,)``."""
    return ((predicted == targets) | (targets == IGNORE_INDEX)).reshape(len(targets), -1).all(axis=1)


def _is_right(predicted: np.ndarray, target: np.ndarray) -> bool | None:
    """Of one image; None where nothing is known."""
    return bool(_right(predicted, target)[0]) if _known(target)[0] else None


def _overlaid(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A grey photo under the colours of its heat map, ``(H, W, 3)`` uint8."""
    side = pixels.shape[0]
    smooth = Image.fromarray(heat.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    colours = mpl.colormaps["inferno"](np.clip(np.asarray(smooth), 0, 1))[..., :3] * 255
    grey = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float32)[..., None]
    return ((1 - HEAT_SHARE) * grey + HEAT_SHARE * colours).round().astype(np.uint8)
