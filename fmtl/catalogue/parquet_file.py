"""Parquet files, and folders of them, to a ``Catalogue``; cells that hold images stay where they are."""

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fmtl.catalogue.notes import Note
from fmtl.catalogue.table import Catalogue, checked_columns
from fmtl.errors import DataError

SUFFIXES = (".parquet", ".pq")
FILE_SPLIT = "split"  # column made of the file names train-*, validation-*, test-* of a folder of Parquet files


def files_of(path: Path) -> list[Path]:
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: a folder without Parquet files; expected a table")
    return files


def read(path: Path) -> Catalogue:
    """Every column that can be text as text; where cells hold images, only where they lie."""
    files = files_of(path)
    parts, cells, names, schema = [], [], None, None
    for file in files:
        try:
            parquet = pq.ParquetFile(file)
            schema = schema or parquet.schema_arrow
            names = names or checked_columns(file, schema.names)
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
    by_line = dict(zip(frame.index.tolist(), cells, strict=True))
    return Catalogue(frame, notes=notes, unusable=unusable, image_cells=image_cells, cells=by_line)


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
    return [Note(f"the files are named by split; --split-col {FILE_SPLIT} keeps to it")]


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
