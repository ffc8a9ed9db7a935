"""Any table to a ``Catalogue``, whatever kind of file it is."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fmtl.catalogue import csv_file, parquet_file
from fmtl.catalogue.table import Catalogue
from fmtl.errors import DataError
from fmtl.storage import durable, tables


def read_catalogue(
    path: Path,
    *,
    free_text_col: str | None = None,
    missing: Sequence[str] = (),
    encoding: str | None = None,
    quotes: bool = True,
    id_col: str | None = None,
) -> Catalogue:
    """Read a CSV (any of the delimiters ``, ; tab |``), a Parquet file, or a folder of Parquet files.

    Args:
        free_text_col: A column whose unescaped delimiters are re-joined; without it such a line is rejected.
        missing: Spellings that mean a blank, besides nothing at all.
        encoding: Of a CSV; by default UTF-8, or UTF-16 where its mark says so.
        quotes: Whether double quotes enclose text in a CSV.
        id_col: Column of the ids that rejects are listed under; by default one with a usual name.

    Raises:
        DataError: The table is absent, empty, not text, or has unusable column names or open quotes.
    """
    if path.is_dir() or path.suffix.lower() in parquet_file.SUFFIXES:
        catalogue = parquet_file.read(path)
    elif path.is_file():
        catalogue = csv_file.read(path, free_text_col=free_text_col, encoding=encoding, quotes=quotes, id_col=id_col)
    else:
        raise DataError(f"{path}: no such table; expected a CSV or Parquet file, a folder of them, or 'sample'")
    if catalogue.num_rows_read == 0:
        raise DataError(f"{path}: 0 rows; expected a header and at least one row")
    blanks = {"", *missing}
    for column in catalogue.frame:
        found = Counter(cell or "" for cell in catalogue.frame[column] if cell is None or cell in blanks)
        if found:
            catalogue.blanks[column] = dict(found.most_common())
    catalogue.frame = tables.map_cells(catalogue.frame, lambda cell: None if cell in blanks else cell)
    return catalogue


def fingerprint(path: Path) -> str:
    """sha256 of a table's content; of a folder's, over its Parquet files."""
    if not path.is_dir():
        return durable.sha256(path)
    return hashlib.sha256("".join(durable.sha256(file) for file in parquet_file.files_of(path)).encode()).hexdigest()
