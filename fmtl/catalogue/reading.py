"""Any table to a ``Catalogue``, whatever kind of file it is."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from fmtl.catalogue.formats import content, csv_file, json_lines, parquet_file, workbook
from fmtl.catalogue.presets import Preset
from fmtl.catalogue.table import Catalogue
from fmtl.catalogue.values.labels import folded, folded_all
from fmtl.errors import DataError
from fmtl.storage import durable, tables

EXPECTED = "a CSV, Excel, JSON or Parquet file, a folder of Parquet files, or 'sample'"


def read_catalogue(
    path: Path,
    *,
    free_text_col: str | None = None,
    missing: Sequence[str] = (),
    not_applicable: Sequence[str] = (),
    encoding: str | None = None,
    quotes: bool = True,
    id_col: str | None = None,
    sheet: str | None = None,
) -> Catalogue:
    """Read a table: CSV of any dialect, JSON, either packed or not, a workbook, Parquet, or a folder of Parquet files.

    Args:
        free_text_col: A column whose unescaped delimiters are re-joined; without it such a line is rejected.
        missing: Spellings that mean a blank, besides nothing at all.
        not_applicable: Spellings, in any case, that mean that a column does not apply to a row.
        encoding: Of a CSV or JSON; by default what its mark says, UTF-8, or what can be guessed safely.
        quotes: Whether double quotes enclose text in a CSV.
        id_col: Column of the ids that rejects are listed under; by default one with a usual name.
        sheet: Of a workbook; by default the first that has rows.

    Raises:
        DataError: The table is absent, empty, not text, or has unusable column names or open quotes.
        EnvironmentFault: A workbook is to be read and openpyxl is not installed.
    """
    if not path.exists():
        raise DataError(f"no such table; expected {EXPECTED}", where=str(path))
    kind, found = (content.PARQUET, b"") if path.is_dir() else content.kind_of(path)
    if kind == content.PARQUET:
        catalogue = parquet_file.read(path)
    elif kind == content.WORKBOOK:
        catalogue = workbook.read(path, sheet=sheet, free_text_col=free_text_col, id_col=id_col)
    elif kind == content.JSON:
        catalogue = json_lines.read(found, encoding=encoding, where=str(path))
    else:
        catalogue = csv_file.read(
            found, free_text_col=free_text_col, encoding=encoding, quotes=quotes, id_col=id_col, where=str(path)
        )
    if catalogue.num_rows_read == 0:
        raise DataError("0 rows; expected a header and at least one row", where=str(path))
    absent = folded_all(not_applicable)
    for column in catalogue.frame if absent else ():
        cells = catalogue.frame[column]
        marked = cells.isin([cell for cell in cells.dropna().unique() if folded(cell) in absent])
        if marked.any():
            catalogue.not_applicable[column] = cells[marked]
            catalogue.frame[column] = cells.mask(marked, None)
    blanks = {"", *missing}
    for column in catalogue.frame:
        blank = Counter(cell or "" for cell in catalogue.frame[column] if cell is None or cell in blanks)
        if blank:
            catalogue.blanks[column] = dict(blank.most_common())
    catalogue.frame = tables.map_cells(catalogue.frame, lambda cell: None if cell in blanks else cell)
    return catalogue


class How(Protocol):
    """What settings say of reading a table; ``PrepareSettings`` says what each means."""

    @property
    def missing(self) -> tuple[str, ...]: ...
    @property
    def not_applicable(self) -> tuple[str, ...]: ...
    @property
    def encoding(self) -> str | None: ...
    @property
    def quotes(self) -> bool: ...
    @property
    def sheet(self) -> str | None: ...
    @property
    def image_col(self) -> str | None: ...
    @property
    def image_template(self) -> str | None: ...


def read_as(path: Path, how: How, preset: Preset | None, *, id_col: str | None = None) -> Catalogue:
    """``read_catalogue`` as settings say; what a preset knows fills what was not named."""
    return read_catalogue(
        path,
        free_text_col=preset.free_text_col if preset else None,
        missing=(*how.missing, *(preset.missing if preset else ())),
        not_applicable=how.not_applicable,
        encoding=how.encoding,
        quotes=how.quotes,
        id_col=id_col,
        sheet=how.sheet,
    )


def photo_template(table: Catalogue, how: How, preset: Preset | None) -> str | None:
    """The template of the photos' paths, if any. Photos in the table's cells are ignored where others are named."""
    if table.image_cells and (how.image_template or how.image_col not in (None, table.image_cells)):
        table.ignore_image_cells()
    if how.image_template or how.image_col or table.image_cells:
        return how.image_template
    return preset.image_template if preset else None


def fingerprint(path: Path) -> str:
    """sha256 of a table's content; of a folder's, over its Parquet files."""
    if not path.is_dir():
        return durable.sha256(path)
    return hashlib.sha256("".join(durable.sha256(file) for file in parquet_file.files_of(path)).encode()).hexdigest()
