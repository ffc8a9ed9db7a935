"""``prepare`` of 50,000 photos: peak memory, and what a second run costs when little or nothing has changed.

    python benchmarks/prepare_again.py [FOLDER]

FOLDER (default: ``FMTL_REAL_DATA``) holds the photos at hand. Each is copied until there are enough, every copy with
a mark of its own painted in, so that no two have the same bytes or pixels. Three runs of ``fmtl prepare`` (px 224)
follow: from nothing, with nothing changed, with 100 rows more, without MLflow's record of them. Memory is
the anonymous memory of all processes together, looked at every 20 ms.
"""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import real_photos
from PIL import Image
from tqdm import tqdm

NUM_ROWS, NUM_MORE, PX = 50_000, 100, 224
LABELS = {"kind": 40, "colour": 30, "season": 4, "usage": 6}
RUN = (
    "import sys, time; from fmtl.settings.schema import PrepareSettings;"
    "from fmtl.commands.prepare import build_dataset;"
    "start = time.perf_counter();"
    "dataset, news = build_dataset(PrepareSettings(table=sys.argv[1], out=sys.argv[2], px=int(sys.argv[3])));"
    "print(len(dataset.table), time.perf_counter() - start, *news)"
)


@cache
def photo(path: str) -> Image.Image:
    return Image.open(path).convert("RGB")


def copy(task: tuple[str, str, int]) -> None:
    """Write one photo with the number of the copy painted into its corner as 24 coloured squares."""
    source, target, number = task
    image = photo(source).copy()
    side = max(2, min(image.size) // 32)
    for bit in range(24):
        colour = (200, 30, 30) if number >> bit & 1 else (30, 30, 200)
        image.paste(colour, (side * (bit % 6), side * (bit // 6), side * (bit % 6 + 1), side * (bit // 6 + 1)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    Path(target).write_bytes(buffer.getvalue())


def make_photos(data: Path, folder: Path, number: int) -> None:
    originals = [
        p for name in ("fashion/images", "fashion/originals", "styles/images") for p in (data / name).iterdir()
    ]
    originals.sort()
    # One photo's copies follow each other, so that it is decoded once.
    tasks = [(str(originals[i * len(originals) // number]), str(folder / f"{i:06d}.jpg"), i) for i in range(number)]
    with ProcessPoolExecutor() as pool:
        for _ in tqdm(pool.map(copy, tasks, chunksize=64), total=number, desc="photos", unit=" photos"):
            pass


def write_table(path: Path, number: int) -> None:
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", *LABELS])
        for i in range(number):
            writer.writerow([f"p{i:06d}", f"{i:06d}.jpg", *(f"{name} {rng.integers(n)}" for name, n in LABELS.items())])


def anonymous_bytes(pid: int) -> int:
    """Of a process and all below it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        children = Path(f"/proc/{pid}/task").glob("*/children")
        below = {int(child) for task in children for child in task.read_text(encoding="utf-8").split()}
    except (OSError, ValueError):
        return 0
    own = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)
    return own + sum(anonymous_bytes(child) for child in below)


def run(table: Path, out: Path) -> dict:
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(table), str(out), str(PX)], stdout=subprocess.PIPE, text=True
    )
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid))
        time.sleep(0.02)
    if process.returncode:
        sys.exit(f"prepare failed with exit code {process.returncode}")
    rows, inside, *news = process.stdout.read().strip().split(maxsplit=2)
    whole = time.perf_counter() - start
    return {"rows": int(rows), "command": whole, "work": float(inside), "peak": peak, "news": " ".join(news)}


def main() -> None:
    parser = real_photos.parser(__doc__)
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    parser.add_argument("--keep", type=Path, help="folder for photos and dataset, used again if it is there")
    options = parser.parse_args()
    if not real_photos.are_there(options, __file__):
        return
    folder = options.keep or Path(tempfile.mkdtemp(prefix="fmtl-benchmark-"))
    try:
        if not (folder / "images").is_dir():
            (folder / "images").mkdir(parents=True)
            make_photos(Path(options.data), folder / "images", options.rows + NUM_MORE)
        shutil.rmtree(folder / "out", ignore_errors=True)
        table, figures = folder / "table.csv", {}
        for name, rows in (("first", options.rows), ("unchanged", options.rows), ("100 more", options.rows + NUM_MORE)):
            write_table(table, rows)
            os.sync()  # the run before must not slow this one down
            figures[name] = run(table, folder / "out")
            for part in ("work", "command"):
                figures[name][f"{part} / first"] = figures[name][part] / figures["first"][part]
        print(f"{options.rows} rows, px {PX}")
        for name, row in figures.items():
            print(
                f"  {name:10} {row['work / first']:6.1%} of the first run's time ({row['command / first']:.1%} with "
                f"Python's start); peak {row['peak'] / 2**20:.0f} MiB; {row['rows']} images; {row['news']}"
            )
        if options.json:
            options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
