"""A table written again with some of its blank cells filled, and all else as it is."""

import codecs
import warnings
from collections.abc import Mapping
from pathlib import Path

from fmtl.catalogue.formats import content, csv_file, workbook
from fmtl.catalogue.formats.csv_file import Parsed
from fmtl.catalogue.notes import Note, warning
from fmtl.catalogue.table import Catalogue
from fmtl.errors import DataError
from fmtl.storage import tables

# How what follows a mark is encoded.
_PLAIN = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
Cells = Mapping[int, Mapping[str, str]]  # by line and column, what is put there


def fill(
    source: Path,
    target: Path,
    table: Catalogue,
    cells: Cells,
    *,
    free_text_col: str | None,
    encoding: str | None,
    quotes: bool,
    sheet: str | None,
) -> tuple[list[Note], set[tuple[int, str]]]:
    """Write the table at ``source`` to ``target``, whose suffix is .csv, .xlsx or .parquet.

    From a CSV to a CSV, a workbook to a workbook and a Parquet file to another, all that is not filled stays as it is,
    lines that could not be read included. From one kind to another the rows that were read are written as text.

    Args:
        table: What was read of it.
        free_text_col, encoding, quotes, sheet: As it was read.

    Returns:
        What could not be written as it is, and the cells, by line and column, that could not be filled.

    Raises:
        DataError: The file can't be written again.
    """
    kind, found = (content.PARQUET, b"") if source.is_dir() else content.kind_of(source)
    if kind == content.CSV and target.suffix == ".csv":
        parsed = csv_file.parse(found, encoding=encoding, quotes=quotes, where=str(source))
        return _fill_csv(parsed, target, cells, free_text_col)
    if kind == content.WORKBOOK and target.suffix == ".xlsx":
        return _fill_workbook(source, target, cells, sheet)
    if kind == content.PARQUET and target.suffix == ".parquet" and source.is_file():
        return _fill_parquet(source, target, table, cells), set()
    return _write_anew(table, target, cells), set()


def _fill_csv(
    parsed: Parsed, target: Path, cells: Cells, free_text_col: str | None
) -> tuple[list[Note], set[tuple[int, str]]]:
    """Only the lines of filled records are written anew."""
    columns, dialect = parsed.layout.columns, parsed.dialect
    width = len(parsed.layout.header.cells)
    at = {column: n for n, column in enumerate(columns)}
    free_at = at.get(free_text_col, width) if free_text_col else width
    lines, left = list(parsed.lines), set()
    for record in parsed.layout.body:
        labels = cells.get(record.first)
        if not labels:
            continue
        row = list(record.cells)
        more = max(len(row) - width, 0)  # delimiters within free text, which are read as a part of it
        if not dialect.quotes and any(dialect.delimiter in label for label in labels.values()):
            left |= {(record.first, column) for column in labels}
            continue
        for column, label in labels.items():
            row[at[column] + (more if at[column] > free_at else 0)] = label
        last = parsed.lines[record.last - 1]
        end = last[len(last.rstrip("\r\n")) :]
        written = dialect.delimiter.join(_quoted(cell, parsed) for cell in row) + end
        lines[record.first - 1 : record.last] = [written, *[""] * (record.last - record.first)]
    notes = [warning(f"{len(left)} cells stay blank: no quotes, and a label has a delimiter")] if left else []
    whole = "".join(lines)
    try:
        encoded = whole.encode(_PLAIN.get(parsed.mark, parsed.encoding))
        encoded = parsed.mark + encoded
    except UnicodeEncodeError as error:
        told = f"{whole[error.start]!r} is no character of {parsed.encoding}, which the table is in"
        notes.append(warning(f"{told}; the filled one is in UTF-8"))
        encoded = whole.encode("utf-8-sig")
    target.write_bytes(encoded)
    return notes, left


def _quoted(cell: str, parsed: Parsed) -> str:
    dialect = parsed.dialect
    if not dialect.quotes or not any(sign in cell for sign in (dialect.delimiter, '"', "\r", "\n")):
        return cell
    return '"' + cell.replace('"', '\\"' if dialect.escaped else '""') + '"'


def _fill_workbook(
    source: Path, target: Path, cells: Cells, sheet: str | None
) -> tuple[list[Note], set[tuple[int, str]]]:
    """Formats, formulas and other sheets stay; what openpyxl does not know, such as shapes, is lost."""
    tables.require_workbooks()
    import openpyxl

    name, layout, _ = workbook.parse(source, sheet)
    try:
        with warnings.catch_warnings(record=True) as lost:
            warnings.simplefilter("always")
            book = openpyxl.load_workbook(source)
    except Exception as error:  # of every kind, where it holds what openpyxl only passes over
        told = f"can't be written again ({type(error).__name__}: {error}); choose a .csv"
        raise DataError(told, where=str(source)) from error
    page = book[name]
    left = set()
    for line, labels in cells.items():
        for column, label in labels.items():
            cell = page.cell(line, layout.columns.index(column) + 1)
            if isinstance(cell, openpyxl.cell.MergedCell) or cell.data_type == "f":
                left.add((line, column))
                continue
            cell.value = tables.for_workbook(label)
            cell.data_type = "s"
    book.save(target)
    notes = [warning(f"{len(left)} blank cells are formulas or parts of merged ones, and stay")] if left else []
    if any(cell.data_type == "f" for row in page.iter_rows() for cell in row):
        told = "the filled workbook has formulas, which are blank to other programs until a spreadsheet has saved it"
        notes.append(warning(told))
    notes += [Note(f"the filled workbook lacks something: {told}") for told in sorted({str(w.message) for w in lost})]
    return notes, left


def _fill_parquet(source: Path, target: Path, table: Catalogue, cells: Cells) -> list[Note]:
    """Columns keep their types; a filled one that is not text becomes text, as it was read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = pq.read_table(source)
    changed = []
    for column in dict.fromkeys(column for labels in cells.values() for column in labels):
        n = found.column_names.index(column)
        kind = found.schema.field(n).type
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_text = pa.types.is_string(plain) or pa.types.is_large_string(plain)
        if is_text:  # what stood there, rather than how it was read
            values = dict(enumerate(found.column(n).cast(plain).to_pylist(), 1))
        else:
            values = table.written[column].to_dict()
            changed.append(column)
        values |= {line: labels[column] for line, labels in cells.items() if column in labels}
        filled = pa.array(list(values.values()), plain if is_text else pa.string())
        filled = filled.dictionary_encode() if pa.types.is_dictionary(kind) and is_text else filled
        found = found.set_column(n, column, filled)
    if changed:  # other programs' descriptions of the types would be wrong
        found = found.replace_schema_metadata(None)
    pq.write_table(found, target)
    return [Note(f"columns that are text now: {', '.join(changed)}")] if changed else []


def _write_anew(table: Catalogue, target: Path, cells: Cells) -> list[Note]:
    frame = table.written
    for column in frame:
        labels = {line: found[column] for line, found in cells.items() if column in found}
        frame[column] = [labels.get(line, cell) for line, cell in zip(frame.index, frame[column], strict=True)]
    if target.suffix == ".xlsx":
        tables.to_workbook(target, "products", [frame])
    elif target.suffix == ".parquet":
        frame.astype("string").to_parquet(target, index=False)
    else:
        frame.to_csv(target, index=False, encoding="utf-8")
    lost = [f"{len(table.rejects)} lines that could not be read"] if table.rejects else []
    lost += [f"the columns {', '.join(table.unusable)}"] if table.unusable else []
    return [warning(f"the filled table is of another kind and lacks {' and '.join(lost)}")] if lost else []
