"""What the worst image files cost: each is decoded in a process of its own, whose time and memory are counted.

    python tests/dataset/decoding.py [--json FILE]

Prints a line per file; exit 1 where one takes more than 10 seconds of a processor or 500 MB, the process included.
"""

import json
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))
from kit import heavy

MOST_SECONDS, MOST_MB = 10, 500
FITS = ("pad", "crop", "stretch")
CHILD = """
import re, sys, time
from fmtl.dataset.pixels import images
content = open(sys.argv[1], "rb").read()
began = time.process_time()
try:
    with images.quiet():
        images.decode(content, px=int(sys.argv[2]), fit=sys.argv[3])
    told = "decoded"
except images.ImageError as error:
    told = str(error)
seconds = time.process_time() - began
print(seconds, int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024, told, sep="\\n")
"""


def cost(path: Path, px: int = 224, fit: str = "pad") -> tuple[float, float, str]:
    """Seconds of processors, megabytes of the process at most, and what became of the file."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, path, str(px), fit], capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{path.name}: exit {done.returncode}: {done.stderr[-300:]}")
    seconds, megabytes, told = done.stdout.splitlines()
    return float(seconds), float(megabytes), told


@click.command()
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(out: Path | None) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, content in heavy.made():
            path = Path(folder) / "image"
            path.write_bytes(content)
            for px, fit in product((16, 224, 1024), FITS) if name in heavy.narrow() else [(224, "pad")]:
                seconds, megabytes, told = cost(path, px, fit)
                rows.append({"file": name, "bytes": len(content), "px": px, "fit": fit, "seconds": seconds,
                             "mb": megabytes, "told": told})  # fmt: skip
                shown = f"{name:34} {len(content):>12,} bytes {px:5} px {fit:7}"
                click.echo(f"{shown} {seconds:6.2f} s {megabytes:6.0f} MB  {told[:90]}")
    worst = {what: max(row[what] for row in rows) for what in ("seconds", "mb")}
    click.echo(f"{len(rows)} times, at most {worst['seconds']:.1f} s and {worst['mb']:.0f} MB")
    if out:
        out.write_text(json.dumps({"files": rows, **worst}, indent=1) + "\n", encoding="utf-8")
    sys.exit(worst["seconds"] > MOST_SECONDS or worst["mb"] > MOST_MB)


if __name__ == "__main__":
    main()
