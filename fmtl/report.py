"""Self-contained HTML pages: no script, no resource from elsewhere, every value escaped."""

import base64
import io

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from fmtl.dataset import PreparedDataset, class_counts
from fmtl.leaderboard import Leaderboard, score_text
from fmtl.tasks import IGNORE_INDEX

MOSAIC_COLUMNS, MOSAIC_ROWS, MOSAIC_PX = 12, 4, 96

_PAGES = Environment(
    loader=PackageLoader("fmtl"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def render(template: str, **values: object) -> str:
    """One page from ``fmtl/templates``."""
    return _PAGES.get_template(template).render(**values)


def prepare_report(dataset: PreparedDataset, listing) -> str:
    """What is in the catalogue: rows in and out, classes per split, a sample of the photos."""
    tasks = []
    for task, table in zip(dataset.tasks, class_counts(dataset).values(), strict=True):
        table = table.assign(total=table.sum(axis=1)).sort_values("total", ascending=False, kind="stable")
        tasks.append(
            {
                "name": task.name,
                "missing": int((dataset.table[task.slug] == IGNORE_INDEX).sum()),
                "rows": [(label, *map(int, row)) for label, row in zip(table.index, table.to_numpy(), strict=True)],
                "most": int(table["total"].max()),
            }
        )
    return render(
        "prepare.html",
        counts=dataset.manifest["counts"],
        source=dataset.manifest["source"],
        digest=dataset.digest,
        notes=dataset.manifest["notes"],
        tasks=tasks,
        mosaic=mosaic(dataset, MOSAIC_COLUMNS * MOSAIC_ROWS),
    )


def leaderboard_page(board: Leaderboard) -> str:
    """The whole leaderboard, every metric of every ranked run."""
    columns = [c for c in board.table.columns if "/" in c]
    groups = [
        {
            "data": data,
            "rows": [{**row, "scores": {c: score_text(row[c]) for c in columns}} for row in rows.to_dict("records")],
        }
        for data, rows in board.groups
    ]
    return render(
        "leaderboard.html",
        metric=board.metric,
        columns=columns,
        groups=groups,
        unranked=board.unranked.to_dict("records"),
    )


def mosaic(dataset: PreparedDataset, num_images: int) -> str:
    """A grid of photos, evenly taken from the whole table, as a JPEG data URI."""
    rows = np.unique(np.linspace(0, len(dataset.table) - 1, num_images).astype(int))
    num_lines = -(-len(rows) // MOSAIC_COLUMNS)
    canvas = Image.new("RGB", (MOSAIC_COLUMNS * MOSAIC_PX, num_lines * MOSAIC_PX), "white")
    for i, pixels in enumerate(dataset.pixels(rows)):
        thumbnail = Image.fromarray(pixels).resize((MOSAIC_PX, MOSAIC_PX))
        canvas.paste(thumbnail, (i % MOSAIC_COLUMNS * MOSAIC_PX, i // MOSAIC_COLUMNS * MOSAIC_PX))
    buffer = io.BytesIO()
    canvas.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
