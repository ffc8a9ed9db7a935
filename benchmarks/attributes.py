"""Sets and attributes that some products do not have, on real photos: columns of fashion.csv, joined and divided.

    python benchmarks/attributes.py [--epochs 12] [--px 128] [--seed 0]

Gender, colour and usage become one set, ``Tags``; the type of a product becomes ``Shoe``, which applies to footwear
only, and ``Garment``, which applies to apparel only. Prints the table of the run's note, on the test split; then the
same tags told by a network that has them as three attributes of one label. Needs ``FMTL_REAL_DATA``.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd

from fmtl.commands.prepare import build_dataset
from fmtl.commands.train import train
from fmtl.dataset.prepared import open_dataset
from fmtl.settings.schema import PrepareSettings
from fmtl.settings.train import TrainSettings
from fmtl.training import metrics

JOINED = ["Gender", "Colour", "Usage"]
APPLIES = {"Shoe": {"Category": ("Footwear",)}, "Garment": {"Category": ("Apparel",)}}


def table_of(source: Path) -> pd.DataFrame:
    table = pd.read_csv(source, dtype=str)
    table["Tags"] = table[JOINED].agg("|".join, axis=1)
    for name, rule in APPLIES.items():
        table[name] = table["ProductType"].where(table["Category"].isin(rule["Category"]))
    return table


def trained(root: Path, name: str, options: dict[str, Any], how: dict[str, Any]) -> tuple[str, pd.DataFrame]:
    """The note's table, and what the test photos were said to be."""
    build_dataset(PrepareSettings(out=str(root / name), seed=how["seed"], **options))
    run_id = train(TrainSettings(data=str(root / name), extra_plots=False, gallery=False, **how))
    note = mlflow.get_run(run_id).data.tags["mlflow.note.content"]
    (files,) = Path.cwd().glob(f"**/{run_id}/artifacts")
    said = pd.read_parquet(files / "predictions" / "test.parquet").set_index("path")
    return "\n".join(line for line in note.splitlines() if line.startswith("|")), said


def as_sets(root: Path, joined: pd.DataFrame, apart: pd.DataFrame) -> str:
    """Scores of ``Tags``, from both networks, on the test photos of both."""
    (task,) = (task for task in open_dataset(root / "joined").tasks if task.name == "Tags")
    rows = joined.index.intersection(apart.index)
    wanted = np.array(task.targets(tuple(cell) for cell in joined.loc[rows, "Tags/target"]))
    told = {
        "as one set": [tuple(cell) for cell in joined.loc[rows, "Tags"]],
        "as three attributes": list(apart.loc[rows, JOINED].itertuples(index=False, name=None)),
    }
    lines = ["| tags | exact set | macro-F1 | micro-F1 | Jaccard |", "|---|---|---|---|---|"]
    for name, labels in told.items():
        found = metrics.set_metrics(np.array(task.targets(labels)), wanted)
        lines.append(
            f"| {name} | " + " | ".join(f"{found[s]:.3f}" for s in ("accuracy", "f1", "micro_f1", "jaccard")) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--px", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    how = {"backbone": "tf_efficientnet_lite0", "weights": "bundled", **vars(parser.parse_args())}
    data = Path(os.environ["FMTL_REAL_DATA"]).resolve() / "fashion"
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        mlflow.set_tracking_uri(f"sqlite:///{temporary}/mlflow.db")
        root = Path(temporary)
        table = table_of(data / "fashion.csv")
        table.to_csv(root / "table.csv", index=False)
        common = {"images": str(data / "images"), "image_col": "Image", "id_col": "ProductId", "applies": APPLIES}
        labels = ("Category", "Shoe", "Garment")
        joined = {"table": str(root / "table.csv"), "label_cols": labels, "set_cols": ("Tags",), **common}
        note, sets = trained(root, "joined", joined, how)
        splits = open_dataset(root / "joined").table.set_index("id")["split"]
        table.assign(split=table["ProductId"].map(splits)).to_csv(root / "same.csv", index=False)
        apart = {"table": str(root / "same.csv"), "label_cols": (*labels, *JOINED), "split_col": "split", **common}
        _, singles = trained(root, "apart", apart, how)
        print(note, as_sets(root, sets, singles), sep="\n\n")


if __name__ == "__main__":
    main()
