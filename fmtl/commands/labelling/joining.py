"""Predictions of several machines: which photos are whose, and one table of all.

A part's rows begin with two columns that say where they belong: ``part`` (``2/4`` and a digest of model, photos and
settings) and ``row`` (``17/2333``).
"""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from fmtl.commands.labelling.listing import Listing
from fmtl.commands.labelling.predictions import CHUNK_ROWS
from fmtl.dataset.reuse.parts import as_numbers, is_of
from fmtl.errors import DataError, UsageError, first_ten
from fmtl.storage import durable, tables

PART, ROW = "part", "row"
_MARK = "\ufeff"


def share(
    listing: Listing, key: Mapping[str, object], part: str | None, batch_size: int
) -> tuple[Listing, pd.DataFrame | None]:
    """The photos that are this part's, in whole batches, and the two columns that say where they belong.

    The batches are those of one machine, so that what the network computes is the same to the last digit.

    Args:
        key: All that decides the rows.
        part: ``2/4``; None for all photos.
    """
    if part is None:
        return listing, None
    num, numbers = len(listing.names), as_numbers(part)
    rows = [
        row
        for start in range(0, num, batch_size)
        if is_of(f"{start} {listing.names[start]}", numbers)
        for row in range(start, min(start + batch_size, num))
    ]
    common = {name: value for name, value in key.items() if name != PART} | {"batch_size": batch_size}
    digest = hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()[:12]
    chosen = replace(
        listing,
        names=[listing.names[row] for row in rows],
        photos=[listing.photos[row] for row in rows],
        lines=[listing.lines[row] for row in rows] if len(listing.lines) else (),
    )
    return chosen, pd.DataFrame({PART: f"{part} {digest}", ROW: [f"{row + 1}/{num}" for row in rows]})


def join(files: Sequence[Path], out: Path) -> int:
    """Write the whole table, in the order of the photos. Returns how many rows it has.

    Raises:
        DataError: A file is no part, or rows are missing.
        UsageError: Parts of different things, or of different kinds of file.
    """
    suffixes = {path.suffix for path in (*files, out)}
    if len(suffixes) > 1 or not suffixes <= {".csv", ".parquet"}:
        raise UsageError(f"parts, out: expected .csv files, or .parquet files, got {', '.join(sorted(suffixes))}")
    durable.check_writable(out.parent)
    return _join_parquet(files, out) if suffixes == {".parquet"} else _join_csv(files, out)


def _join_csv(files: Sequence[Path], out: Path) -> int:
    texts = {file: file.read_bytes().decode("utf-8", "surrogateescape") for file in files}
    marks = {text.startswith(_MARK) for text in texts.values()}
    separators = {text.lstrip(_MARK).lstrip('"').removeprefix(PART).lstrip('"')[:1] for text in texts.values()}
    if len(marks) > 1 or len(separators) > 1:
        raise UsageError("parts: written with different separators, or some for spreadsheets")
    (marked,), (separator,) = marks, separators
    frames = {file: _read_csv(file, text.removeprefix(_MARK), separator or ",") for file, text in texts.items()}
    whole = _in_order(frames)
    with (
        durable.replacing(out) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        file.write(_MARK if marked else "")
        for number, chunk in enumerate(_chunks(whole)):
            text = tables.to_csv(chunk, sep=separator) if marked else _as_written(chunk, separator)
            file.write(text if number == 0 else text.partition("\n")[2])
    return len(whole)


def _as_written(chunk: pd.DataFrame, separator: str) -> str:
    """As ``Predictions`` writes it: all text in quotes where a cell has a lone carriage return."""
    if not any("\r" in cell for cell in chunk.to_numpy().ravel()):
        return chunk.to_csv(index=False, sep=separator)
    confidences = [name for name in chunk if name.endswith("/confidence")]
    numbers = {name: pd.to_numeric(chunk[name].replace("", None)) for name in confidences}
    texts = {name: chunk[name].replace("", None) for name in chunk if name not in numbers}
    return chunk.assign(**texts, **numbers).to_csv(index=False, sep=separator, quoting=csv.QUOTE_NONNUMERIC)


def _read_csv(file: Path, text: str, separator: str) -> pd.DataFrame:
    try:
        frame = pd.read_csv(io.StringIO(text, newline=""), sep=separator, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"not readable as a part of predictions ({error})", where=str(file)) from error
    if not text.endswith("\n") or frame.isna().to_numpy().any():
        raise DataError("its end is missing; predict that part again", where=str(file))
    return frame


def _join_parquet(files: Sequence[Path], out: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    read = {}
    for file in files:
        try:
            read[file] = pq.read_table(file)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"not readable as a part of predictions ({error})", where=str(file)) from error
    places = _in_order({file: table.select([c for c in (PART, ROW) if c in table.column_names]).to_pandas()
                        for file, table in read.items()}, only=True)  # fmt: skip
    whole = pa.concat_tables(read.values()).drop_columns([PART, ROW]).take(places.index.to_numpy())
    with durable.replacing(out) as temporary, pq.ParquetWriter(temporary, whole.schema) as writer:
        for start in range(0, max(whole.num_rows, 1), CHUNK_ROWS):
            writer.write_table(whole.slice(start, CHUNK_ROWS).combine_chunks())
    return whole.num_rows


def _in_order(frames: Mapping[Path, pd.DataFrame], *, only: bool = False) -> pd.DataFrame:
    """All rows, checked to be all rows, by their number; without the columns that said so.

    Args:
        only: Those columns are all there is.
    """
    for file, frame in frames.items():
        if list(frame.columns[:2]) != [PART, ROW]:
            raise DataError("no part of predictions; fmtl predict --part makes one", where=str(file))
    whole = pd.concat(frames.values(), ignore_index=True)
    bad = ~(whole[PART].str.fullmatch(r"\d+/\d+ \w+") & whole[ROW].str.fullmatch(r"\d+/\d+"))
    if bad.any():
        raise DataError(f"row {int(bad.to_numpy().argmax()) + 2} does not say where it belongs", where="parts")
    told = whole[PART].str.extract(r"(\S+) (\S+)")
    digests, nums = set(told[1]), set(told[0].str.partition("/")[2])
    if len(digests) > 1 or len(nums) > 1:
        by = {str(file): sorted(set(frame[PART]))[:1] for file, frame in frames.items()}
        raise UsageError(f"parts: of different models, photos or settings: {by}")
    at = whole[ROW].str.extract(r"(\d+)/(\d+)").astype(int)
    num = int(at[1].max()) if len(at) else 0
    twice = sorted(set(at[0][at[0].duplicated()]))
    absent = sorted(set(range(1, num + 1)) - set(at[0]))
    problems = [f"{len(rows)} rows are {what}, the first of them row {rows[0]}"
                for what, rows in (("missing", absent), ("there twice", twice)) if rows]  # fmt: skip
    if problems:
        there = sorted(set(told[0]))
        raise DataError(f"of the parts {', '.join(there)}:\n{first_ten(problems)}", where="parts")
    whole = whole.iloc[at[0].to_numpy().argsort()]
    return whole if only else whole.drop(columns=[PART, ROW]).reset_index(drop=True)


def _chunks(frame: pd.DataFrame) -> list[pd.DataFrame]:
    return [frame.iloc[start : start + CHUNK_ROWS] for start in range(0, max(len(frame), 1), CHUNK_ROWS)]
