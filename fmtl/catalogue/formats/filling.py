"""A table written again with some of its blank cells filled, and all else as it is."""

import warnings
from collections.abc import Mapping
from pathlib import Path

from fmtl.catalogue.formats import content, csv_file, workbook
from fmtl.catalogue.formats.csv_file import Parsed
from fmtl.catalogue.notes import Note, warning
from fmtl.catalogue.table import Catalogue
from fmtl.storage import tables

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
) -> list[Note]:
    """Write the table at ``source`` to ``target``, whose suffix is .csv, .xlsx or .parquet.

    From a CSV to a CSV, a workbook to a workbook and a Parquet file to another, all that is not filled stays as it is,
    lines that could not be read included. From one kind to another the rows that were read are written as text.

    Args:
        table: What was read of it.
        free_text_col, encoding, quotes, sheet: As it was read.

    Returns:
        What could not be written as it is.
    """
    kind, found = (content.PARQUET, b"") if source.is_dir() else content.kind_of(source)
    if kind == content.CSV and target.suffix == ".csv":
        parsed = csv_file.parse(found, encoding=encoding, quotes=quotes, where=str(source))
        return _fill_csv(parsed, target, cells, free_text_col)
    if kind == content.WORKBOOK and target.suffix == ".xlsx":
        return _fill_workbook(source, target, cells, sheet)
    if kind == content.PARQUET and target.suffix == ".parquet" and source.is_file():
        return _fill_parquet(source, target, cells)
    return _write_anew(table, target, cells)


def _fill_csv(parsed: Parsed, target: Path, cells: Cells, free_text_col: str | None) -> list[Note]:
    """Only the lines of filled records are written anew."""
    columns, dialect = parsed.layout.columns, parsed.dialect
    width = len(parsed.layout.header.cells)
    at = {column: n for n, column in enumerate(columns)}
    free_at = at.get(free_text_col, width) if free_text_col else width
    lines, left = list(parsed.lines), 0
    for record in parsed.layout.body:
        labels = cells.get(record.first)
        if not labels:
            continue
        row = list(record.cells)
        more = max(len(row) - width, 0)  # delimiters within free text, which are read as a part of it
        if not dialect.quotes and any(dialect.delimiter in label for label in labels.values()):
            left += 1
            continue
        for column, label in labels.items():
            row[at[column] + (more if at[column] > free_at else 0)] = label
        last = parsed.lines[record.last - 1]
        end = last[len(last.rstrip("\r\n")) :]
        written = dialect.delimiter.join(_quoted(cell, parsed) for cell in row) + end
        lines[record.first - 1 : record.last] = [written, *[""] * (record.last - record.first)]
    notes = [warning(f"{left} rows stay as they are: no quotes, and the label has a delimiter")] if left else []
    whole = "".join(lines)
    try:
        encoded = whole.encode(parsed.encoding)
    except UnicodeEncodeError as error:
        told = f"{whole[error.start]!r} is no character of {parsed.encoding}, which the table is in"
        notes.append(warning(f"{told}; the filled one is in UTF-8"))
        encoded = whole.encode("utf-8-sig")
    target.write_bytes(encoded)
    return notes


def _quoted(cell: str, parsed: Parsed) -> str:
    dialect = parsed.dialect
    if not dialect.quotes or not any(sign in cell for sign in (dialect.delimiter, '"', "\r", "\n")):
        return cell
    return '"' + cell.replace('"', '\\"' if dialect.escaped else '""') + '"'


def _fill_workbook(source: Path, target: Path, cells: Cells, sheet: str | None) -> list[Note]:
    """Formats, formulas and other sheets stay; what openpyxl does not know, such as shapes, is lost."""
    tables.require_workbooks()
    import openpyxl

    name, layout, _ = workbook.parse(source, sheet)
    with warnings.catch_warnings(record=True) as lost:
        warnings.simplefilter("always")
        book = openpyxl.load_workbook(source)
    left = 0
    for line, labels in cells.items():
        for column, label in labels.items():
            cell = book[name].cell(line, layout.columns.index(column) + 1)
            if isinstance(cell, openpyxl.cell.MergedCell) or cell.data_type == "f":
                left += 1
                continue
            cell.value = tables.for_workbook(label)
            cell.data_type = "s"
    book.save(target)
    notes = [warning(f"{left} blank cells are formulas or parts of merged ones and stay as they are")] if left else []
    return notes + [
        Note(f"the filled workbook lacks something: {told}") for told in sorted({str(w.message) for w in lost})
    ]


def _fill_parquet(source: Path, target: Path, cells: Cells) -> list[Note]:
    """Other columns keep their types; a filled one is text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(source)
    for column in {column for labels in cells.values() for column in labels}:
        n = table.column_names.index(column)
        values = table.column(n).cast(pa.string()).to_pylist()
        for line, labels in cells.items():
            if column in labels:
                values[line - 1] = labels[column]
        table = table.set_column(n, column, pa.array(values, pa.string()))
    pq.write_table(table, target)
    return []


def _write_anew(table: Catalogue, target: Path, cells: Cells) -> list[Note]:
    frame = table.frame.copy()
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
