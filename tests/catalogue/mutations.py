"""Tables with faults: one of every kind of file, then a few random changes to its bytes."""

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

ROWS = 30
KINDS = ("csv", "parquet", "jsonl", "xlsx", "csv.gz")
_ODD = (
    b"", b",", b";", b"\t", b"|", b'"', b'""', b'\\"', b"'", b"\n", b"\r", b"\r\n", b"\n\n", b"\0", b"\xff",
    b"\xfe\xff", b"\xef\xbb\xbf", b"\x80", b"=", b"sep=;\n", b"NA", b"{", b"}", b"[", b"]", b"[" * 3000,
    b"\xe2\x80\xa8", b"-1", b"1e999", b"9" * 400, b"nan", b"../", b"/", b"https://x/", b"\x1f\x8b", b"PK\x03\x04",
    b"PAR1", b"x" * 2000,
)  # fmt: skip


def plain(kind: str, rng: np.random.Generator) -> bytes:
    """A sound table, written in one of the ways of its kind."""
    numbers = range(1, ROWS + 1)
    frame = pd.DataFrame(
        {
            "id": [str(i) for i in numbers],
            "image": [f"{i}.png" for i in numbers],
            "colour": ["red" if i % 2 else "blue" for i in numbers],
            "tags": [["a", "b"] if i % 3 else ["c"] for i in numbers],
            "title": [f'Nice, "soft"\nno. {i}' if i % 5 == 0 else f"Nice no. {i}" for i in numbers],
            "split": [("train", "val", "test")[i % 3] for i in numbers],
        }
    )
    buffer = io.BytesIO()
    if kind == "parquet":
        frame.to_parquet(buffer, row_group_size=int(rng.integers(5, 40)))
        return buffer.getvalue()
    frame["tags"] = frame["tags"].map(json.dumps)
    if kind == "xlsx":
        frame.to_excel(buffer, index=False, startrow=int(rng.integers(0, 3)))
        return buffer.getvalue()
    if kind == "jsonl":
        return frame.to_json(orient="records", lines=bool(rng.integers(2))).encode()
    encoding = ("utf-8", "utf-8-sig", "utf-16", "cp1252")[int(rng.integers(4))]
    text = frame.to_csv(index=False, sep=",;\t|"[int(rng.integers(4))], quoting=int(rng.integers(2)))
    return gzip.compress(text.encode(encoding)) if kind == "csv.gz" else text.encode(encoding)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """One to five changes: bytes put in, taken out, doubled, moved or flipped, or the end cut off."""
    found = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        start, end = sorted(int(n) for n in rng.integers(0, len(found) + 1, 2))
        end = min(end, start + int(rng.integers(1, 200)))
        change = int(rng.integers(6))
        if change <= 1:
            found[start:start] = _ODD[int(rng.integers(len(_ODD)))]
        elif change == 2:
            del found[start:end]
        elif change == 3:
            found[start:start] = found[start:end]
        elif change == 4:
            for n in range(start, min(end, start + 4)):
                found[n] ^= 1 << int(rng.integers(8))
        elif rng.integers(4) == 0:
            del found[start:]
    return bytes(found)


def tables(folder: Path, *, kind: str, num: int, seed: int) -> Iterator[Path]:
    """Write one mutated table after the other, each in the place of the one before."""
    rng = np.random.default_rng(seed)
    sound = [plain(kind, rng) for _ in range(8)]
    path = folder / f"table.{kind}"
    for _ in range(num):
        path.write_bytes(mutated(sound[int(rng.integers(len(sound)))], rng))
        yield path
