"""The photos of a prepared dataset: where they lie, and which of them a run was trained on."""

import json
import logging
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pyarrow import ArrowInvalid

from fmtl.catalogue.photos.cells import Cell, PhotoCell
from fmtl.catalogue.photos.folder import ImageFolder, PhotoFile
from fmtl.dataset.pixels.preprocess import Preprocess
from fmtl.dataset.prepared import PreparedDataset
from fmtl.errors import DataError
from fmtl.settings.train import is_model_address
from fmtl.storage import durable
from fmtl.tracking import logged_models, store
from fmtl.tracking.store import RunRecord

if TYPE_CHECKING:
    from fmtl.model.labeller import Photo

log = logging.getLogger(__name__)

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


def sees(preprocess: Preprocess, dataset: PreparedDataset) -> bool:
    """Whether the dataset's squares are those that a model makes of photos."""
    image = dataset.manifest["image"]
    mine = (dataset.px, image["fit"], image["background"], image.get("profiles", False))
    return mine == (preprocess.stored_px, preprocess.fit, preprocess.background, preprocess.profiles)


def write_splits(folder: Path, dataset: PreparedDataset) -> None:
    """Keep which photos a run is trained, chosen and tested on, by their hash."""
    table = pd.DataFrame({"sha256": dataset.photo_hashes, "split": dataset.table["split"].to_numpy()})
    with durable.replacing(folder / SPLITS_OF_PHOTOS) as temporary:
        table.to_parquet(temporary, index=False)


def hashes_learnt_from(run: RunRecord) -> frozenset[str] | None:
    """sha256 of the photos that a run was trained on and chosen by, and those of the model that it began with; None
    where that was not kept."""
    path = store.artifact(run, SPLITS_OF_PHOTOS)
    if path is None:
        return None
    try:
        table = pd.read_parquet(path, columns=["sha256", "split"])
    except (ArrowInvalid, OSError, ValueError) as error:
        log.warning("%s of run %s can't be read: %s", SPLITS_OF_PHOTOS, run.run_id, error)
        return None
    found = frozenset(table.loc[table["split"] != "test", "sha256"])
    source = run.param("weights")
    if not is_model_address(source):  # a model's folder does not say where it comes from
        return None if source.startswith("/") and not PurePath(source).suffix else found
    inherited = learnt_by(source)
    return None if inherited is None else found | inherited


def learnt_by(uri: str) -> frozenset[str] | None:
    """``hashes_learnt_from`` of the run of a logged model; None where it is not known."""
    try:
        run_id = logged_models.run_id_of(uri)
        return hashes_learnt_from(store.get_run(run_id)) if run_id else None
    except DataError as error:  # deleted meanwhile
        log.debug("%s", error)
        return None
