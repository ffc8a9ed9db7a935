"""The raw product table: every line read becomes one clean row or one reject, with its line number."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from fmtl import tables
from fmtl.errors import DataError, first_ten

DELIMITERS = ",;\t|"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MIN_CLASSES, MAX_CLASSES = 2, 500
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


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
    """

    frame: pd.DataFrame
    rejects: list[Reject] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def num_rows_read(self) -> int:
        return len(self.frame) + len(self.rejects)


def read_catalogue(path: Path, *, free_text_col: str | None = None, missing: Sequence[str] = ()) -> Catalogue:
    """Read a CSV (any of the delimiters ``, ; tab |``) or Parquet table.

    Args:
        free_text_col: A column whose unescaped delimiters are re-joined; without it such a line is rejected.
        missing: Spellings that mean a blank, besides nothing at all.

    Raises:
        DataError: The file is absent, empty, not text, or has unusable column names.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such table; expected a CSV or Parquet file, or 'sample'")
    parquet = path.suffix.lower() in (".parquet", ".pq")
    catalogue = _read_parquet(path) if parquet else _read_csv(path, free_text_col)
    if catalogue.num_rows_read == 0:
        raise DataError(f"{path}: 0 rows; expected a header and at least one row")
    blanks = {"", *missing}
    catalogue.frame = tables.map_cells(catalogue.frame, lambda cell: None if cell in blanks else cell)
    return catalogue


def _read_csv(path: Path, free_text_col: str | None) -> Catalogue:
    lines = io.StringIO(_decode(path), newline="")
    delimiter = _delimiter_of(lines.readline())
    lines.seek(0)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    columns, rows, numbers, rejects, rejoined = None, [], [], [], 0
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if columns is None:
                columns = _checked_columns(path, [cell.strip() for cell in cells])
                continue
            if not any(cell.strip() for cell in cells):
                continue  # a blank line is no row
            if len(cells) > len(columns) and free_text_col in columns:
                cells = _rejoin(cells, columns, free_text_col, delimiter)
                rejoined += 1
            if len(cells) != len(columns):
                reason = "short_row" if len(cells) < len(columns) else "extra_fields"
                detail = f"{len(cells)} fields instead of {len(columns)}: {delimiter.join(cells)[:200]}"
                rejects.append(Reject(line, cells[0].strip(), reason, detail))
                continue
            rows.append([cell.strip() for cell in cells])
            numbers.append(line)
    except csv.Error as error:
        raise DataError(f"{path}: line {start}: {error}; is a quote left open there?") from error
    if columns is None:
        raise DataError(f"{path}: empty file; expected a header and at least one row")
    notes = []
    if delimiter != ",":
        notes.append(f"columns are separated by {delimiter!r}")
    if rejoined:
        notes.append(f"{rejoined} lines had unescaped delimiters in '{free_text_col}' and were re-joined")
    index = pd.Index(numbers, name="line", dtype="int64")
    return Catalogue(pd.DataFrame(rows, columns=columns, index=index, dtype=object), rejects, notes)


def _decode(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line}, byte {error.start}: not UTF-8 ({error.reason}); save the table as UTF-8"
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


def _read_parquet(path: Path) -> Catalogue:
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own errors derive from these
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    _checked_columns(path, [str(c) for c in frame.columns])
    text = pd.DataFrame({str(c): [_cell_text(cell) for cell in frame[c]] for c in frame.columns}, dtype=object)
    text.index = pd.RangeIndex(1, len(frame) + 1, name="line")
    return Catalogue(text)


def _cell_text(cell: object) -> str | None:
    if isinstance(cell, str):
        return cell.strip()
    if pd.api.types.is_scalar(cell) and pd.isna(cell):
        return None
    if isinstance(cell, float) and cell.is_integer():  # whole numbers become floats beside a blank
        return str(int(cell))
    return str(cell).strip()


@dataclass(frozen=True)
class Columns:
    """Which column plays which part.

    Attributes:
        labels: The label columns, in table order unless named.
        id: The id column, or None: the image path is the id.
        image_path: From a row (a mapping of column to cell) to its image path; None where a cell is blank.
        notes: A reason for each column taken or left.
    """

    labels: list[str]
    id: str | None
    image_path: Callable[[dict], str | None]
    notes: list[str]


def choose_columns(
    frame: pd.DataFrame,
    *,
    label_cols: Sequence[str] = (),
    id_col: str | None = None,
    image_col: str | None = None,
    image_template: str | None = None,
    free_text_col: str | None = None,
) -> Columns:
    """Decide the parts that columns play; what is not named is found.

    Raises:
        DataError: A named column is missing, no image column is found, or no column can be a label.
    """
    _require(frame, [*label_cols, *[c for c in (id_col, image_col) if c]])
    id_col = id_col or next((c for c in frame if c.casefold() in ("id", "product_id", "productid")), None)
    if image_template is None:
        try:
            image_col = image_column(frame, image_col)
        except DataError as error:
            raise DataError(f"{error}. Or build paths from columns with --image-template '{{id}}.jpg'") from error
        image_template, template_cols = None, [image_col]
    else:
        template_cols = re.findall(r"{(.*?)}", image_template)
        _require(frame, template_cols)
    taken = {id_col, free_text_col, *template_cols} - set(label_cols)
    labels, notes = _choose_labels(frame.drop(columns=[c for c in taken if c in frame]), label_cols)
    return Columns(labels, id_col, _path_maker(image_template, template_cols), notes)


def _path_maker(template: str | None, columns: list[str]) -> Callable[[dict], str | None]:
    def image_path(row: dict) -> str | None:
        if any(row[c] is None for c in columns):
            return None
        if template is None:
            return row[columns[0]]
        path = template
        for column in columns:  # not str.format: a template is data, and format reaches attributes
            path = path.replace("{" + column + "}", row[column])
        return path

    return image_path


def _require(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    problems = []
    for column in columns:
        if column not in frame:
            near = get_close_matches(column, frame.columns, n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            problems.append(f"column '{column}' is not in the table{hint} Columns: {', '.join(frame.columns)}")
    if problems:
        raise DataError("table:\n" + first_ten(problems))


def image_column(frame: pd.DataFrame, named: str | None = None) -> str:
    """The column of image paths: the one named, or the first whose cells mostly end like image files.

    Raises:
        DataError: The named one is missing, or none is found.
    """
    if named:
        _require(frame, [named])
        return named
    for column in frame:
        head = frame[column].dropna().head(100)
        if len(head) and head.str.lower().str.endswith(IMAGE_SUFFIXES).mean() > 0.5:
            return column
    raise DataError(
        f"table: no column holds image file names; name it with --image-col. Columns: {', '.join(frame.columns)}"
    )


def _choose_labels(frame: pd.DataFrame, named: Sequence[str]) -> tuple[list[str], list[str]]:
    notes, labels = [], []
    for column in named or frame.columns:
        values = frame[column].dropna()
        reason = _why_not_a_label(values)
        if not named and reason:
            notes.append(f"column '{column}' left out: {reason}")
            continue
        if values.empty:
            raise DataError(f"table: label column '{column}' has no value in any row; leave it out of --label-cols")
        if reason:
            notes.append(f"warning: column '{column}' was named and is kept, though: {reason}")
        labels.append(column)
    if not labels:
        raise DataError("table: no column can be a label:\n" + first_ten(notes))
    return labels, notes


def _why_not_a_label(values: pd.Series) -> str | None:
    num_classes = values.nunique()
    if num_classes < MIN_CLASSES:
        return f"constant ({values.iloc[0]!r})" if num_classes else "blank in every row"
    if values.map(lambda cell: _NUMBER.fullmatch(cell) is not None).all():
        return "numbers (name it in --label-cols if they are classes)"
    if num_classes > MAX_CLASSES:
        return f"{num_classes} values, more than {MAX_CLASSES}"
    if num_classes > len(values) / 2:
        return f"{num_classes} values in {len(values)} rows: an id or free text"
    return None
