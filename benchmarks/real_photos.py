"""What the benchmarks of photos share: how they are called, and how they say a spread."""

import argparse
import os
import statistics
from pathlib import Path


def parser(description: str) -> argparse.ArgumentParser:
    """Options ``data`` (by default ``FMTL_REAL_DATA``) and ``--json``."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("data", nargs="?", default=os.environ.get("FMTL_REAL_DATA"))
    made.add_argument("--json", type=Path, help="also write the figures there")
    return made


def are_there(options: argparse.Namespace, script: str) -> bool:
    """Whether there are photos; says that the script is skipped where there are none."""
    if not options.data:
        print(f"benchmarks/{Path(script).name}: skipped, FMTL_REAL_DATA is not set")
    return bool(options.data)


def spread(values: list[float]) -> dict:
    low, _, high = statistics.quantiles(values, n=4)
    return {"median": statistics.median(values), "quartiles": [low, high]}
