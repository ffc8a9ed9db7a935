"""What a run said of its test photos, and the dataset that they are of."""

import io
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pyarrow import ArrowInvalid

from fmtl.dataset.prepared import GROUP, PreparedDataset, open_dataset
from fmtl.errors import DataError
from fmtl.evaluation.answers import PHOTO
from fmtl.tasks import Task, Tasks
from fmtl.tracking import store
from fmtl.tracking.store import RunRecord

TASKS, PREDICTIONS = "tasks.json", "predictions/test.parquet"  # artifacts of a run


def tested(run: RunRecord) -> tuple[pd.DataFrame, Tasks] | str:
    """Its predictions table, without probabilities, and its tasks; or why there is none.

    Of an attribute that does not apply to every product the table has here what it would be, whether or not it is said
    to apply: that is what a training's metrics score, which ask the other question by a task of its own.
    """
    path, tasks = store.artifact(run, PREDICTIONS), store.artifact(run, TASKS)
    if path is None or tasks is None:
        return "its predictions of the test photos were not logged"
    try:
        found = Tasks.from_json(json.loads(tasks.read_text(encoding="utf-8")), where=str(tasks))
        file = pq.ParquetFile(path, memory_map=True)
        there = file.schema_arrow.names
        wanted = [*PHOTO, GROUP] if GROUP in there else PHOTO
        wanted = [*wanted, *(name for t in found for name in (t.slug, f"{t.slug}/target"))]
        limited = {f"{t.slug}/probs": t for t in found if t.name in found.applicability}
        table = file.read(columns=[*wanted, *limited], use_threads=False).to_pandas()
        for probs, task in limited.items():
            cells = _regardless(run, task, table.pop(probs))
            table[task.slug] = pd.Series(cells, index=table.index, dtype=object)
        return table, found
    except (ArrowInvalid, OSError, ValueError, KeyError, DataError) as error:
        return f"its predictions of the test photos can't be read ({error})"


def _regardless(run: RunRecord, task: Task, probs: pd.Series) -> list:
    """What an attribute would be, by its probabilities; of a set with the thresholds that the run told it by."""
    if not task.is_set:
        return [task.classes[row.argmax()] for row in probs]
    path = store.artifact(run, f"per_class/{task.slug}.csv")
    if path is None:
        raise ValueError(f"the thresholds of '{task.name}' were not logged")
    thresholds = pd.read_csv(io.BytesIO(path.read_bytes()))["threshold"].to_numpy(np.float32)
    return [list(task.label((row >= thresholds).astype(int).tolist()) or ()) for row in probs]


def dataset_of(run: RunRecord) -> PreparedDataset | str:
    """The dataset that a run was trained on, if it is still where it was; or why not."""
    place = run.param("data")
    try:
        dataset = open_dataset(place, verify=False)
    except DataError as error:
        return f"the photos that it is to be tested on are not there ({error})"
    if dataset.digest != run.tags.get("fmtl.data"):
        return f"the photos that it is to be tested on are not there: {place} holds another dataset now"
    return dataset
