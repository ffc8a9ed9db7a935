"""What becomes of damaged files of every kind that fmtl keeps: a sentence, or the same as of the sound one.

    python tests/commands/damages.py [--mutations 500] [--flips 400] [--json FILE]

Photos and tables are changed likewise by ``tests/catalogue/test_mutations.py`` and
``tests/dataset/test_image_mutations.py``, with ``FMTL_MUTATIONS=500``.
Exit 1 where something but a sentence came of one, one took longer than 20 seconds, or a sealed one was believed.
"""

import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from kit.mutations import flipped, mutated
from kit.readers import Kind, kinds

from fmtl.errors import FmtlError

MOST_SECONDS = 20  # on a machine that may be busy


def became(kind: Kind, content: bytes, sound: object) -> str:
    """``refused``, ``same``, ``other`` (believed though it says something else), or what went wrong."""
    kind.path.write_bytes(content)
    began = time.monotonic()
    try:
        found = "same" if kind.read() == sound else "other"
    except FmtlError as error:
        found = "refused" if str(error) and error.exit_code in (2, 3, 4) else f"no sentence: {error!r}"
    except Exception as error:  # which is what is looked for
        found = f"traceback: {type(error).__name__}: {str(error)[:200]}"
    return found if time.monotonic() - began < MOST_SECONDS else f"took {time.monotonic() - began:.0f} s"


def tried(kind: Kind, change: Callable[[bytes, np.random.Generator], bytes], num: int) -> Counter[str]:
    """What came of so many changes to a sound file, which is put back."""
    rng, good, found = np.random.default_rng(0), kind.path.read_bytes(), Counter[str]()
    sound = kind.read()
    try:
        for _ in range(num):
            bad = change(good, rng)
            if bad != good:
                found[became(kind, bad, sound)] += 1
    finally:
        kind.path.write_bytes(good)
    return found


def faults(kind: Kind, found: Counter[str]) -> list[str]:
    allowed = {"refused", "same"} | (set() if kind.sealed else {"other"})
    return [f"{kind.name}: {what} ({num} times)" for what, num in found.items() if what not in allowed]


@click.command()
@click.option("--mutations", default=500)
@click.option("--flips", default=400)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(mutations: int, flips: int, out: Path | None) -> None:
    out = out and out.resolve()
    warnings.simplefilter("ignore")
    rows, bad = [], []
    with tempfile.TemporaryDirectory(prefix="fmtl-damages-") as folder:
        sound = kinds(Path(folder))
        logging.disable(logging.CRITICAL)
        for kind in sound:
            row: dict[str, object] = {"kind": kind.name}
            for name, change, num in (("mutations", mutated, mutations), ("flips", flipped, flips)):
                found = tried(kind, change, num)
                bad += faults(kind, found)
                row[name] = {"tried": found.total(), **dict(found.most_common(5))}
            rows.append(row)
            click.echo(f"{kind.name:28} {row['mutations']} {row['flips'] if kind.sealed else ''}")
        os.chdir("/")
    for problem in bad:
        click.echo(f"WRONG {problem}")
    if out:
        out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
