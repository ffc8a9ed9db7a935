"""What came of a sweep: the page of its run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fmtl.reports import markdown
from fmtl.settings.wording import as_text

SHOWN = 10  # trials


@dataclass(frozen=True)
class Trained:
    """What a slot came to.

    Attributes:
        slot: Its name.
        state: ``completed``, ``ended early``, ``failed``, or ``not trained``, where another slot had its settings.
        value: What is best; None where it came to none.
        values: By setting, of those that differ.
        seed, run: Its seed, its run's id.
        why: It failed, or whose settings it had.
    """

    slot: str
    state: str
    value: float | None
    values: Mapping[str, Any]
    seed: int
    run: str = ""
    why: str = ""


def table(trained: Sequence[Trained]) -> pd.DataFrame:
    """A row per slot, as ``trials.csv`` has it."""
    names = list(dict.fromkeys(name for one in trained for name in one.values))
    rows = [
        {"trial": one.slot, "state": one.state, "value": one.value, "seed": one.seed, "run": one.run}
        | {name: one.values.get(name) for name in names} | {"why": one.why}
        for one in trained
    ]  # fmt: skip
    return pd.DataFrame(rows)


def note(
    ranked: Sequence[Trained], trained: Sequence[Trained], importances: Mapping[str, float], *, metric: str, again: str
) -> str:
    """The note on the page of the sweep's run, in Markdown.

    Args:
        ranked: Those that were trained to the end with the first seed, the best first.
        again: The command that trains with the best settings.
    """
    lines = []
    if ranked:
        best = ranked[0]
        told = ", ".join(f"{name} {_short(value)}" for name, value in best.values.items())
        lines += [f"**Best: trial {best.slot}, {metric} {best.value:.4f}**: {markdown.text(told)}", "",
                  f"    {again}", "", f"Run `{best.run}`."]  # fmt: skip
    counts = pd.Series([one.state for one in trained]).value_counts()
    lines += ["", "Trials: " + ", ".join(f"{num} {state}" for state, num in counts.items()), ""]
    if importances:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in importances.items())
        lines += [f"What decides (share of the values' variance, fANOVA): {shares}", ""]
    if ranked:
        names = list(ranked[0].values)
        header = ["trial", metric, *names]
        rows = [[one.slot, f"{one.value:.4f}", *(_short(one.values[name]) for name in names)] for one in ranked[:SHOWN]]
        lines += ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        lines += ["| " + " | ".join(markdown.text(cell) for cell in row) + " |" for row in rows]
    failed = [one for one in trained if one.state == "failed"]
    lines += [f"- trial {one.slot} failed: {markdown.text(one.why)}" for one in failed[:SHOWN]]
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else as_text(value)
