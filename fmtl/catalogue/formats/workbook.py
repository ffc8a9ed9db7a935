"""Excel workbooks to a ``Catalogue``, one sheet of them."""

import datetime
import warnings
import zipfile
from pathlib import Path
from typing import Any

from fmtl.catalogue.formats import layout as layouts
from fmtl.catalogue.formats.cells import cell_text
from fmtl.catalogue.formats.dialect import Record
from fmtl.catalogue.formats.layout import Layout
from fmtl.catalogue.notes import Note
from fmtl.catalogue.table import Catalogue
from fmtl.errors import DataError, EnvironmentFault, did_you_mean

MAX_UNPACKED = 2 << 30  # bytes of all parts of a workbook
_BLANK_ROWS = 10_000  # after which nothing more is expected: sheets are formatted far below their last row


def read(path: Path, *, sheet: str | None, free_text_col: str | None, id_col: str | None) -> Catalogue:
    """The rows of a sheet; raises as ``parse``."""
    name, layout, notes = parse(path, sheet)
    where = f"{path}, sheet '{name}'"
    table = layouts.assemble(layout, free_text_col=free_text_col, id_col=id_col, delimiter=" | ", where=where)
    table.notes = [*notes, *table.notes]
    return table


def parse(path: Path, sheet: str | None) -> tuple[str, Layout, list[Note]]:
    """The sheet named, else the first visible one that has rows: its name, what it holds, and what was guessed.

    Raises:
        DataError: It is damaged, too large, or has no such sheet.
        EnvironmentFault: openpyxl is not installed.
    """
    try:
        import openpyxl  # an extra
    except ImportError as error:
        raise EnvironmentFault(
            f"{path}: workbooks need openpyxl: pip install 'fmtl[xlsx]', or save the sheet as CSV"
        ) from error
    _check_size(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and extensions that play no part here
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
            try:
                name, records, notes = _sheet(book, sheet, path)
            finally:
                book.close()
    except DataError:
        raise
    except Exception as error:  # what openpyxl raises on damaged files is of every kind
        raise DataError(f"not a readable workbook ({type(error).__name__}: {error})", where=str(path)) from error
    return name, layouts.find_layout(records, where=f"{path}, sheet '{name}'"), notes


def _sheet(book: Any, named: str | None, path: Path) -> tuple[str, list[Record], list[Note]]:
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    if named is not None:
        if named not in sheets:
            hint = did_you_mean(named, sheets)
            told = f"no sheet '{named}'{hint and f'; {hint}'} Sheets: {', '.join(sheets)}"
            raise DataError(told, where=str(path))
        return named, _records(sheets[named]), []
    visible = [title for title, sheet in sheets.items() if getattr(sheet, "sheet_state", "visible") == "visible"]
    for title in visible:
        records = _records(sheets[title])
        if len(records) > 1:
            others = [repr(other) for other in visible if other != title]
            told = f"sheet '{title}' is read, not {', '.join(others)}; --sheet names another"
            return title, records, [Note(told)] if others else []
    raise DataError(f"0 rows in {', '.join(sheets) or 'any sheet'}; expected a header and a row", where=str(path))


def _records(sheet: Any) -> list[Record]:
    sheet.reset_dimensions()  # what files say of their own size is often wrong
    records: list[Record] = []
    blank = 0
    for line, row in enumerate(sheet.iter_rows(values_only=True), 1):
        cells = [cell_text(_day(cell)) or "" for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        if cells:
            records.append(Record(line, line, cells))
        blank = 0 if cells else blank + 1
        if blank > _BLANK_ROWS:
            break
    width = max((len(record.cells) for record in records[:1000]), default=0)
    return [Record(r.first, r.last, [*r.cells, *[""] * (width - len(r.cells))]) for r in records]


def _day(cell: object) -> object:
    """A day without the midnight that a workbook writes with it."""
    is_day = isinstance(cell, datetime.datetime) and cell.time() == datetime.time()
    return cell.date() if is_day else cell  # type: ignore[attr-defined]


def _check_size(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > MAX_UNPACKED:
        raise DataError(f"{size >> 20} MiB when unpacked, too large for a workbook; save it as CSV", where=str(path))
