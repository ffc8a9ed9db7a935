"""The photos of a prepared dataset: where they lie, and which of them a run was trained on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fmtl.catalogue.photos.cells import Cell, PhotoCell
from fmtl.catalogue.photos.folder import ImageFolder, PhotoFile
from fmtl.dataset.prepared import PreparedDataset
from fmtl.storage import durable
from fmtl.tracking import store
from fmtl.tracking.store import RunRecord

if TYPE_CHECKING:
    from fmtl.model.predictor import Photo

SPLITS_OF_PHOTOS = "photos.parquet"  # a run's artifact


def photos_of(dataset: PreparedDataset, rows: np.ndarray) -> "tuple[list[str], list[Photo]]":
    """Of some rows their paths, and the photos: files of the image folder, or cells of the table."""
    names = dataset.table["path"].iloc[rows].tolist()
    sources = dataset.sources.iloc[dataset.image_of[rows]]
    if sources["cell"].any():
        return names, [PhotoCell(Cell(*json.loads(cell))) for cell in sources["cell"]]
    root = dataset.folder / dataset.manifest["source"]["images_path"]
    folder = ImageFolder(root, follow_links=dataset.manifest["settings"]["follow_links"])
    return names, [PhotoFile(folder, name) for name in names]


def write_splits(folder: Path, dataset: PreparedDataset) -> None:
    """Keep which photos a run is trained, chosen and tested on, by their hash."""
    table = pd.DataFrame({"sha256": dataset.photo_hashes, "split": dataset.table["split"].to_numpy()})
    with durable.replacing(folder / SPLITS_OF_PHOTOS) as temporary:
        table.to_parquet(temporary, index=False)


def hashes_learnt_from(run: RunRecord) -> frozenset[str] | None:
    """sha256 of the photos that a run was trained on and chosen by; None where that was not kept."""
    path = store.artifact(run, SPLITS_OF_PHOTOS)
    if path is None:
        return None
    table = pd.read_parquet(path)
    return frozenset(table.loc[table["split"] != "test", "sha256"])
