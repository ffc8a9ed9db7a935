"""Draw ``docs/images/speed.png`` from ``docs/benchmarks/training.json``, and print the tables of ``docs/speed.md``.

python benchmarks/chart.py
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from fmtl.reports.plots import style
from fmtl.storage import tables

ROOT = Path(__file__).parent.parent
FIGURES, PICTURE = ROOT / "docs" / "benchmarks" / "training.json", ROOT / "docs" / "images" / "speed.png"


@style.in_style
def draw(rows: dict[str, dict]) -> Figure:
    """Bars of the median ratio by backbone, the range as a line.

    Args:
        rows: Of the part ``notebook``.
    """
    found = {name: row["fmtl / notebook"] for name, row in rows.items()}
    names = sorted(found, key=lambda name: found[name]["median"])
    figure = style.new_figure(7.2, 0.34 * len(names) + 1.1)
    axes = figure.subplots()
    axes.barh(names, [found[name]["median"] for name in names], color=style.COLOURS[0], height=0.66)
    for y, name in enumerate(names):
        axes.plot(found[name]["range"], [y, y], color=style.INK, linewidth=1.6, solid_capstyle="butt")
        axes.text(0.06, y, f"{found[name]['median']:.2f}", va="center", color="white", fontsize=9)
    axes.axvline(1, color=style.COLOURS[1], linewidth=1.6)
    axes.set(xlim=(0, None), xlabel="training images per second, fmtl over a notebook's loop (1: as fast)")
    axes.tick_params(axis="y", length=0)
    style.bare(axes)
    return figure


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return tables.to_markdown(pd.DataFrame(rows, columns=heads)) + "\n"


def cells(row: dict) -> list[str]:
    """Median and range of a ratio."""
    digits = 3 if row["median"] < 1.2 else 2 if row["median"] < 20 else 1
    return [f"**{row['median']:.{digits}f}**", " to ".join(f"{value:.{digits}f}" for value in row["range"])]


def against_notebook(rows: dict[str, dict]) -> str:
    found = []
    for name, row in rows.items():
        how, paces, scores = row["execution"], row["images per second"], row["accuracy"]
        layout = "channels last" if how["channels_last"] else "channels first"
        pace, accuracy = (
            " / ".join(f"{statistics.mean(values[arm]):.{digits}f}" for arm in ("fmtl", "notebook"))
            for values, digits in ((paces, 1), (scores, 3))
        )
        found.append([f"`{name}`", *cells(row["fmtl / notebook"]), pace, accuracy, f"{how['precision']}, {layout}"])
    return table(["backbone", "ratio", "range", "images/s", "accuracy", "chosen"], found)


def against_peers(backbones: dict[str, dict]) -> str:
    found = []
    for backbone, lanes in backbones.items():
        for name in (name for name in lanes["matched"] if name != "fmtl"):
            row = [cells(lanes[lane][name]) for lane in ("default", "matched")]
            package = {"huggingface": "transformers"}.get(name, name)
            version = (lanes["matched"][name]["versions"] or {}).get(package, "")
            scores = " / ".join(f"{statistics.mean(lanes['matched'][arm]['accuracy']):.3f}" for arm in (name, "fmtl"))
            found.append([f"`{backbone}`", f"{name} {version}".strip(), row[0][0], *row[1], scores])
    return table(["backbone", "fmtl /", "default", "matched", "range", "accuracy, its / fmtl's"], found)


def main() -> None:
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    style.save(PICTURE, draw(figures["notebook"]))
    print(figures["machine"], figures["versions"], "\n")
    for name, row in figures["limits"].items():
        print(f"{name}: {row['median']:.0f}")
    print(f"\n{against_notebook(figures['notebook'])}")
    print(
        table(
            ["epoch / steps in memory", "median", "range"],
            [[f"`{k}`", *cells(v)] for k, v in figures["resident"].items()],
        )
    )
    print(against_peers(figures["peers"]))
    others = figures["frozen"] | figures["tasks"]
    print(table(["", "ratio", "range"], [[name, *cells(row)] for name, row in others.items()]))
    low, high = figures["mlflow"]["range"]
    print(f"MLflow's share of an epoch: {figures['mlflow']['median']:.2%} ({low:.2%} to {high:.2%})")


if __name__ == "__main__":
    main()
