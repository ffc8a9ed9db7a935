"""What a run said of its test photos, and the dataset that they are of."""

import json

import pandas as pd
import pyarrow.parquet as pq
from pyarrow import ArrowInvalid

from fmtl.dataset.prepared import GROUP, PreparedDataset, open_dataset
from fmtl.errors import DataError
from fmtl.evaluation.answers import PHOTO
from fmtl.tasks import Tasks
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
        file = pq.ParquetFile(path)
        there = file.schema_arrow.names
        wanted = [*PHOTO, GROUP] if GROUP in there else PHOTO
        wanted = [*wanted, *(name for t in found for name in (t.slug, f"{t.slug}/target"))]
        limited = {f"{t.slug}/probs": t for t in found if t.name in found.applicability and not t.is_set}
        table = file.read(columns=[*wanted, *limited]).to_pandas()
        for probs, task in limited.items():
            likeliest = [task.classes[row.argmax()] for row in table.pop(probs)]
            table[task.slug] = pd.Series(likeliest, index=table.index, dtype=object)
        return table, found
    except (ArrowInvalid, OSError, ValueError, KeyError, DataError) as error:
        return f"its predictions of the test photos can't be read ({error})"


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
