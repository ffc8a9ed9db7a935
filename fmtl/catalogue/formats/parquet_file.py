"""Parquet files, and folders of them, to a ``Catalogue``; cells that hold images stay where they are."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fmtl.catalogue.formats.cells import cell_text
from fmtl.catalogue.formats.content import PARQUET_SUFFIXES
from fmtl.catalogue.notes import Note, warning
from fmtl.catalogue.table import Catalogue, checked_columns
from fmtl.errors import DataError

FILE_SPLIT = "split"  # column made of the file names train-*, validation-*, test-* of a folder of Parquet files


def files_of(path: Path) -> list[Path]:
    """The Parquet files of a folder, without those that other programs hide or keep their own records in."""
    if not path.is_dir():
        return [path]
    files = sorted(
        p
        for p in path.rglob("*")
        if p.suffix.lower() in PARQUET_SUFFIXES and not any(part[0] in "._" for part in p.relative_to(path).parts)
    )
    if not files:
        raise DataError("a folder without Parquet files; expected a table", where=str(path))
    return files


def read(path: Path) -> Catalogue:
    """Every column that can be text as text; where cells hold images, only where they lie."""
    files = files_of(path)
    tables = [_open(file) for file in files]
    columns = _columns(files, [table.schema_arrow for table in tables])
    image_cells, unusable = _parts_of(columns)
    readable = [name for name in columns if name not in unusable]
    parts, cells = [], []
    for file, table in zip(files, tables, strict=True):
        try:
            parts.append(_parquet_text(table, readable, image_cells))
        except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own errors derive from these
            raise DataError(f"not a readable Parquet file ({error})", where=str(file)) from error
        for name, value in _partition(file, path).items():
            if name not in columns:
                parts[-1][name] = pd.Series([value] * len(parts[-1]), dtype=object)
        groups = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
        cells += [(str(file), group, row) for group, n in enumerate(groups) for row in range(n)]
    frame = pd.concat(parts, ignore_index=True)
    frame = frame.astype(object).where(frame.notna(), None)  # a column that some files lack
    frame.index = pd.RangeIndex(1, len(frame) + 1, name="line")
    notes = [*_note_folder(path, files, columns), *_note_split(frame, files, [len(part) for part in parts])]
    if not image_cells:
        return Catalogue(frame, notes=notes, unusable=unusable)
    frame[image_cells] = _unique_paths(frame[image_cells])
    by_line = dict(zip(frame.index.tolist(), cells, strict=True))
    return Catalogue(frame, notes=notes, unusable=unusable, image_cells=image_cells, cells=by_line)


def _open(file: Path) -> pq.ParquetFile:
    try:
        table = pq.ParquetFile(file)
        checked_columns(table.schema_arrow.names, where=str(file))
        return table
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own errors derive from these
        raise DataError(f"not a readable Parquet file ({error})", where=str(file)) from error


def _columns(files: Sequence[Path], schemas: Sequence[pa.Schema]) -> dict[str, pa.Field]:
    """By name, the columns of all files in the order in which they come; a column without values joins any type.

    Raises:
        DataError: A column that is text in one file holds something else in another.
    """
    columns: dict[str, pa.Field] = {}
    first: dict[str, Path] = {}
    for file, schema in zip(files, schemas, strict=True):
        for column in schema:
            known = columns.get(column.name)
            if known is None or pa.types.is_null(known.type):
                columns[column.name], first[column.name] = column, file
            elif not pa.types.is_null(column.type) and _is_text(known.type) != _is_text(column.type):
                raise DataError(
                    f"column '{column.name}' is of type {column.type} here and of type {known.type} in "
                    f"{first[column.name].name}",
                    where=str(file),
                )
    return columns


def _is_text(kind: pa.DataType) -> bool:
    """Whether the values can be written as text, rather than hold images, lists or structures."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _partition(file: Path, root: Path) -> dict[str, str | None]:
    """What the names of the folders between say, as in ``colour=red/part-0.parquet``."""
    parts = [part.partition("=") for part in file.relative_to(root).parts[:-1]] if file != root else []
    return {
        unquote(name): None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)
        for name, equals, value in parts
        if equals and name
    }


def _note_folder(path: Path, files: Sequence[Path], columns: Collection[str]) -> list[Note]:
    notes = []
    if keys := [name for name in dict.fromkeys(n for f in files for n in _partition(f, path)) if name not in columns]:
        notes.append(Note(f"columns from the names of folders: {', '.join(keys)}"))
    if path.is_dir() and (path / "_delta_log").is_dir():
        told = "a Delta table: rows that were deleted or replaced may still be in its files, and are read"
        notes.append(warning(f"{told}; vacuum it, or export it as Parquet"))
    return notes


def _unique_paths(paths: pd.Series) -> list[str]:
    """Hugging Face stores base names, which may repeat: then the row number tells the images apart."""
    repeated = paths.duplicated(keep=False)
    return [
        f"row-{n:06d}" if path is None else f"row-{n:06d}/{path}" if again else path
        for (n, path), again in zip(paths.items(), repeated, strict=True)
    ]


def _note_split(frame: pd.DataFrame, files: list[Path], sizes: list[int]) -> list[Note]:
    """Add the column ``split`` where the files of a folder are named by it."""
    split = [_split_of(file) for file in files]
    if len(files) == 1 or not all(split) or FILE_SPLIT in frame:
        return []
    frame[FILE_SPLIT] = [name for name, n in zip(split, sizes, strict=True) for _ in range(n)]
    return [Note(f"column '{FILE_SPLIT}' is made of the names of the files")]


def _split_of(file: Path) -> str | None:
    name = file.stem.split("-")[0].casefold()
    return name if name in ("train", "validation", "valid", "val", "test") else None


def _parts_of(columns: Mapping[str, pa.Field]) -> tuple[str | None, dict[str, str]]:
    """The column of image bytes, if any, and the columns that can't be text. Lists of values can."""
    image_cells, unusable = None, {}
    for name, column in columns.items():
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        holds_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            holds_bytes = True
        if holds_bytes and image_cells is None:
            image_cells = name
        elif holds_bytes or (pa.types.is_nested(kind) and not _is_list(kind)):
            unusable[name] = str(column.type)
    return image_cells, unusable


def _is_list(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and _is_text(kind.value_type)


def _parquet_text(parquet: pq.ParquetFile, columns: list[str], image_cells: str | None) -> pd.DataFrame:
    class_names = _class_names(parquet.schema_arrow)
    here = set(parquet.schema_arrow.names)
    text: dict[str, list[str | None]] = {}
    for column in columns:
        if column not in here:
            text[column] = [None] * parquet.metadata.num_rows
            continue
        if column == image_cells:
            text[column] = _image_paths(parquet, column)
            continue
        values = parquet.read(columns=[column])[column].to_pylist()
        if column in class_names:  # Hugging Face stores classes as numbers, their names beside the schema
            known = dict(enumerate(class_names[column])) | {None: None}
            values = [known.get(value, value if isinstance(value, str) else None) for value in values]
        text[column] = [cell_text(value) for value in values]
    return pd.DataFrame(text, dtype=object, index=range(parquet.metadata.num_rows))


def _image_paths(parquet: pq.ParquetFile, column: str) -> list[str | None]:
    kind = parquet.schema_arrow.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        structs = parquet.read(columns=[f"{column}.path"])[column].to_pylist()
        return [cell_text(struct["path"]) if struct else None for struct in structs]
    return [None] * parquet.metadata.num_rows


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        items = {name: item for name, item in features.items() if isinstance(item, dict)}
        return {name: list(item["names"]) for name, item in items.items() if item.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
