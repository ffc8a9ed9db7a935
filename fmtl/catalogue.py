"""The raw product table: every line read becomes one clean row or one reject, with its line number."""

import codecs
import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fmtl import durable, tables
from fmtl.errors import DataError

DELIMITERS = ",;\t|"
PARQUET = (".parquet", ".pq")
FILE_SPLIT = "split"  # column made of the file names train-*, validation-*, test-* of a folder of Parquet files


@dataclass(frozen=True)
class Preset:
    """What is known of a published catalogue.

    Attributes:
        label_cols: Its label columns.
        id_col: Its id column.
        image_template: File name of a row's image.
        free_text_col: The one column whose text may hold unescaped delimiters.
        missing: Spellings, besides nothing at all, that mean a blank.
    """

    label_cols: tuple[str, ...]
    id_col: str
    image_template: str
    free_text_col: str
    missing: tuple[str, ...]


PRESETS = {
    "kaggle-fashion": Preset(
        label_cols=("gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "usage"),
        id_col="id",
        image_template="{id}.jpg",
        free_text_col="productDisplayName",
        missing=("NA",),
    )
}


@dataclass(frozen=True)
class Reject:
    """A row that was left out. ``line`` counts from 1, the header included (Parquet: the row number)."""

    line: int
    id: str
    reason: str
    detail: str


@dataclass
class Catalogue:
    """A product table as text.

    Attributes:
        frame: One row per readable line, cells stripped, None where blank; the index is the line number.
        rejects: The lines that could not become a row.
        notes: What was repaired or assumed, for the user to read.
        blanks: Per column, how often each spelling of a blank occurs.
        unusable: Columns that can't be text, and their Parquet type.
        image_cells: The column whose cells hold the images themselves; ``frame`` has their paths there.
        cells: By line, where such an image lies: Parquet file, row group, row in it.
    """

    frame: pd.DataFrame
    rejects: list[Reject] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    blanks: dict[str, dict[str, int]] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    image_cells: str | None = None
    cells: dict[int, tuple[str, int, int]] = field(default_factory=dict)

    @property
    def num_rows_read(self) -> int:
        return len(self.frame) + len(self.rejects)

    def ignore_image_cells(self) -> None:
        """The images lie elsewhere: the column of bytes is none that can be used."""
        self.unusable[self.image_cells] = "binary"
        self.frame = self.frame.drop(columns=self.image_cells)
        self.image_cells, self.cells = None, {}


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
    if path.is_dir() or path.suffix.lower() in PARQUET:
        catalogue = _read_parquet(path)
    elif path.is_file():
        catalogue = _read_csv(path, free_text_col, encoding, quotes, id_col)
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
    return hashlib.sha256("".join(durable.sha256(file) for file in _parquet_files(path)).encode()).hexdigest()


def _read_csv(
    path: Path, free_text_col: str | None, encoding: str | None, quotes: bool, id_col: str | None
) -> Catalogue:
    lines = list(io.StringIO(_decode(path, encoding), newline=""))
    delimiter = _delimiter_of(next((line for line in lines if line.strip()), ""))
    records = _records(path, lines, delimiter, quotes)
    first, last, cells = next(records, (0, 0, None))
    if cells is None:
        raise DataError(f"{path}: empty file; expected a header and at least one row")
    if last > first:
        raise DataError(
            f"{path}: line {first}: a quote opened there, in the header, takes in the lines up to {last}; close it"
        )
    columns = _checked_columns(path, [cell.strip() for cell in cells])
    id_at = _id_position(columns, id_col)
    rows, numbers, rejects, rejoined = [], [], [], []
    for line, last, cells in records:
        if last > line:
            _check_swallowed(path, lines[line - 1 : last], line, len(cells), len(columns), delimiter)
        if len(cells) > len(columns) and free_text_col in columns:
            cells = _rejoin(cells, columns, free_text_col, delimiter)
            rejoined.append(line)
        problem = _problem(cells, len(columns), delimiter)
        if problem:
            row_id = cells[id_at].strip().replace("\0", "") if id_at < len(cells) else ""
            rejects.append(Reject(line, row_id, *problem))
            continue
        rows.append([cell.strip() for cell in cells])
        numbers.append(line)
    index = pd.Index(numbers, name="line", dtype="int64")
    frame = pd.DataFrame(rows, columns=columns, index=index, dtype=object)
    notes = [f"columns are separated by {delimiter!r}"] if delimiter != "," else []
    shifted = _shifted(frame, rejoined, free_text_col)
    for line in shifted:
        cells = frame.loc[line].tolist()
        detail = f"a delimiter too many, and not in '{free_text_col}': {delimiter.join(cells)[:200]}"
        rejects.append(Reject(line, cells[id_at] if id_at < len(cells) else "", "extra_fields", detail))
    if len(rejoined) > len(shifted):
        told = len(rejoined) - len(shifted)
        notes.append(f"{told} lines had unescaped delimiters in '{free_text_col}' and were re-joined")
    return Catalogue(frame.drop(index=shifted), rejects, notes)


def _id_position(columns: list[str], id_col: str | None) -> int:
    """Where the ids are; beyond the columns if nowhere."""
    wanted = (id_col.casefold(),) if id_col else tables.ID_NAMES
    return next((at for at, column in enumerate(columns) if column.casefold() in wanted), len(columns))


def _shifted(frame: pd.DataFrame, rejoined: list[int], free_text_col: str | None) -> list[int]:
    """Re-joined lines with a value that no other line has in its column of few values: the delimiter was elsewhere."""
    whole = frame.drop(index=rejoined)
    shifted = set()
    for column in whole.columns.drop(free_text_col, errors="ignore") if rejoined else ():
        known = set(whole[column])
        if len(known) <= min(500, len(whole) / 2):
            shifted |= {line for line in rejoined if frame.at[line, column] not in known}
    return sorted(shifted)


def _records(path: Path, lines: list[str], delimiter: str, quotes: bool) -> Iterator[tuple[int, int, list[str]]]:
    """(first line, last line, cells) of each record; a blank line is none."""
    quoting = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, strict=True, quoting=quoting)
    start = 1
    try:
        for cells in reader:
            if len(cells) > 1 or "".join(cells).strip():
                yield start, reader.line_num, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}: line {start}: {error}; is a quote left open there? Close it, or use --quotes false if quotes "
            "are ordinary characters in this table"
        ) from error


def _check_swallowed(
    path: Path, lines: list[str], first: int, num_cells: int, num_columns: int, delimiter: str
) -> None:
    """A record over several lines is text with line breaks, or an open quote that swallowed rows."""
    like_rows = sum(line.count(delimiter) >= num_columns - 1 for line in lines[1:])
    if num_cells != num_columns or like_rows >= len(lines[1:]) / 2:
        raise DataError(
            f"{path}: line {first}: a quote opened there takes in the lines up to {first + len(lines) - 1}; close it, "
            "or use --quotes false if quotes are ordinary characters in this table"
        )


def _problem(cells: list[str], num_columns: int, delimiter: str) -> tuple[str, str] | None:
    if not any(cell.strip() for cell in cells):
        return "blank_row", "every cell is blank"
    if len(cells) != num_columns:
        reason = "short_row" if len(cells) < num_columns else "extra_fields"
        return reason, f"{len(cells)} fields instead of {num_columns}: {delimiter.join(cells)[:200]}"
    if any("\0" in cell for cell in cells):
        return "nul_byte", f"a zero byte in field {1 + next(i for i, cell in enumerate(cells) if chr(0) in cell)}"
    return None


def _decode(path: Path, encoding: str | None) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    found = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding or found).removeprefix("\ufeff")
    except LookupError as error:
        raise DataError(f"encoding: '{encoding}' is not known; expected a name such as utf-8 or latin-1") from error
    except UnicodeError as error:
        at = getattr(error, "start", 0)
        line = content.count(b"\n", 0, at) + 1
        raise DataError(
            f"{path}: line {line}, byte {at}: not {encoding or found.removesuffix('-sig')} "
            f"({getattr(error, 'reason', error)}); save the table as UTF-8, or name its encoding: --encoding latin-1"
        ) from error


def _delimiter_of(header: str) -> str:
    return max(DELIMITERS, key=lambda d: len(next(csv.reader([header], delimiter=d), [])))


def _checked_columns(path: Path, columns: list[str]) -> list[str]:
    doubled = sorted({c for c in columns if columns.count(c) > 1})
    if doubled:
        raise DataError(f"{path}: line 1: duplicate column names {doubled}; rename all but one of each")
    return columns


def _rejoin(cells: list[str], columns: list[str], free_text_col: str, delimiter: str) -> list[str]:
    at = columns.index(free_text_col)
    extra = len(cells) - len(columns)
    return [*cells[:at], delimiter.join(cells[at : at + extra + 1]), *cells[at + extra + 1 :]]


def _parquet_files(path: Path) -> list[Path]:
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in PARQUET) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: a folder without Parquet files; expected a table")
    return files


def _read_parquet(path: Path) -> Catalogue:
    """Every column that can be text as text; where cells hold images, only where they lie."""
    files = _parquet_files(path)
    parts, cells, names, schema = [], [], None, None
    for file in files:
        try:
            parquet = pq.ParquetFile(file)
            schema = schema or parquet.schema_arrow
            names = names or _checked_columns(file, schema.names)
            if (parquet.schema_arrow.names, parquet.schema_arrow.types) != (names, schema.types):
                raise DataError(f"{file}: its columns or their types differ from those of {files[0].name}")
            image_cells, unusable = _parts_of(schema)
            parts.append(_parquet_text(parquet, [c for c in names if c not in unusable], image_cells))
        except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own errors derive from these
            raise DataError(f"{file}: not a readable Parquet file ({error})") from error
        groups = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        cells += [(str(file), group, row) for group, n in enumerate(groups) for row in range(n)]
    frame = pd.concat(parts, ignore_index=True)
    frame.index = pd.RangeIndex(1, len(frame) + 1, name="line")
    notes = _note_split(frame, files, [len(part) for part in parts])
    if not image_cells:
        return Catalogue(frame, notes=notes, unusable=unusable)
    frame[image_cells] = _unique_paths(frame[image_cells])
    cells = dict(zip(frame.index, cells, strict=True))
    return Catalogue(frame, notes=notes, unusable=unusable, image_cells=image_cells, cells=cells)


def _unique_paths(paths: pd.Series) -> list[str]:
    """Hugging Face stores base names, which may repeat: then the row number tells the images apart."""
    repeated = paths.duplicated(keep=False)
    return [
        f"row-{n:06d}" if path is None else f"row-{n:06d}/{path}" if again else path
        for (n, path), again in zip(paths.items(), repeated, strict=True)
    ]


def _note_split(frame: pd.DataFrame, files: list[Path], sizes: list[int]) -> list[str]:
    """Add the column ``split`` where the files of a folder are named by it."""
    split = [_split_of(file) for file in files]
    if len(files) == 1 or not all(split) or FILE_SPLIT in frame:
        return []
    frame[FILE_SPLIT] = [name for name, n in zip(split, sizes, strict=True) for _ in range(n)]
    return [f"the files are named by split; --split-col {FILE_SPLIT} keeps to it"]


def _split_of(file: Path) -> str | None:
    name = file.stem.split("-")[0].casefold()
    return name if name in ("train", "validation", "valid", "val", "test") else None


def _parts_of(schema: pa.Schema) -> tuple[str | None, dict[str, str]]:
    """The column of image bytes, if any, and the columns that can't be text."""
    image_cells, unusable = None, {}
    for field_ in schema:
        kind = field_.type.value_type if pa.types.is_dictionary(field_.type) else field_.type
        holds_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            holds_bytes = True
        if holds_bytes and image_cells is None:
            image_cells = field_.name
        elif holds_bytes or pa.types.is_nested(kind):
            unusable[field_.name] = str(field_.type)
    return image_cells, unusable


def _parquet_text(parquet: pq.ParquetFile, columns: list[str], image_cells: str | None) -> pd.DataFrame:
    names = _class_names(parquet.schema_arrow)
    text = {}
    for column in columns:
        if column == image_cells:
            text[column] = _image_paths(parquet, column)
            continue
        values = parquet.read(columns=[column])[column].to_pylist()
        if column in names:  # Hugging Face stores classes as numbers, their names beside the schema
            known = dict(enumerate(names[column])) | {None: None}
            values = [known.get(value, value if isinstance(value, str) else None) for value in values]
        text[column] = [_cell_text(value) for value in values]
    return pd.DataFrame(text, dtype=object)


def _image_paths(parquet: pq.ParquetFile, column: str) -> list[str | None]:
    kind = parquet.schema_arrow.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        structs = parquet.read(columns=[f"{column}.path"])[column].to_pylist()
        return [_cell_text(struct["path"]) if struct else None for struct in structs]
    return [None] * parquet.metadata.num_rows


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        items = {name: item for name, item in features.items() if isinstance(item, dict)}
        return {name: list(item["names"]) for name, item in items.items() if item.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _cell_text(cell: object) -> str | None:
    if isinstance(cell, str):
        return cell.strip()
    if cell is None or (pd.api.types.is_scalar(cell) and pd.isna(cell)):
        return None
    if isinstance(cell, float) and cell.is_integer():  # whole numbers become floats beside a blank
        return str(int(cell))
    return str(cell).strip()
