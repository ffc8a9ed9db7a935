"""What kind of file a table is, told by its first bytes; packed ones are unpacked."""

import zipfile
from pathlib import Path

import pyarrow as pa

from fmtl.errors import DataError

MAX_BYTES = 4 << 30  # of a table in memory
PARQUET_SUFFIXES = (".parquet", ".pq")
CSV, PARQUET, WORKBOOK, JSON = "csv", "parquet", "workbook", "json"
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
_FOREIGN = {
    b"\xd0\xcf\x11\xe0": "an Excel file of the old format (.xls); save it as .xlsx or CSV",
    b"ARROW1": "an Arrow or Feather file; save it as Parquet: pandas.read_feather(...).to_parquet(...)",
    b"FEA1": "a Feather file; save it as Parquet: pandas.read_feather(...).to_parquet(...)",
    b"ORC": "an ORC file; save it as Parquet",
    b"Obj\x01": "an Avro file; save it as Parquet",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
    b"\x89HDF": "an HDF5 file; save it as Parquet: pandas.read_hdf(...).to_parquet(...)",
    b"%PDF": "a PDF; export the table as CSV",
    b"{\\rtf": "a text document (RTF); export the table as CSV",
    b"Rar!": "a RAR archive; unpack it",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it",
    b"\xfd7zXZ": "an xz archive; unpack it",
    b"\xff\xd8\xff": "a photo, not a table",
    b"\x89PNG": "a photo, not a table",
    b"GIF8": "a photo, not a table",
    **dict.fromkeys(
        (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        "a pickle, which can run code and is never opened; save the table as Parquet",
    ),
}  # fmt: skip
_LONGEST = max(map(len, _FOREIGN))


def kind_of(path: Path) -> tuple[str, bytes]:
    """Kind of a table and its bytes; of Parquet and workbooks none, since those are not read whole.

    Raises:
        DataError: It can't be read, is too large when unpacked, or is of a kind that is not read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_LONGEST)
        packing = next((name for sign, name in _PACKED.items() if head.startswith(sign)), None)
        if packing:
            content = _unpacked(path, packing)
            head = content[:_LONGEST]
        kind = _kind(path, head, packed=packing is not None)
        if kind in (PARQUET, WORKBOOK):
            return kind, b""
        return kind, content if packing else _whole(path)
    except OSError as error:
        raise DataError(f"can't be read ({error.strerror or error})", where=str(path)) from error


def _kind(path: Path, head: bytes, *, packed: bool) -> str:
    found = next((told for sign, told in _FOREIGN.items() if head.startswith(sign)), None)
    if head.startswith(b"PAR1") or path.suffix.lower() in PARQUET_SUFFIXES:
        kind, found = PARQUET, None
    elif head.startswith(b"PK\x03\x04"):
        kind, found = WORKBOOK, None if packed else _not_a_workbook(path)
    elif head.lstrip()[:1] in (b"{", b"[") or _suffixes(path) & {".json", ".jsonl", ".ndjson"}:
        kind = JSON
    else:
        kind = CSV
    if packed and kind in (PARQUET, WORKBOOK):
        found = "a table packed twice; unpack it"
    if found:
        raise DataError(f"this is {found}", where=str(path))
    return kind


def _suffixes(path: Path) -> set[str]:
    return {suffix.lower() for suffix in path.suffixes}


def _not_a_workbook(path: Path) -> str | None:
    """What a zip file is that holds no Excel workbook."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "xl/workbook.xml" in names:
                return None
            if "mimetype" in names and b"opendocument" in archive.read("mimetype")[:100]:
                return "an OpenDocument spreadsheet; save it as .xlsx or CSV"
            if "xl/workbook.bin" in names:
                return "a binary workbook (.xlsb); save it as .xlsx or CSV"
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
        return "a damaged zip file or workbook; save or download it again"
    return "a zip archive; unpack it and name the table in it"


def _unpacked(path: Path, packing: str) -> bytes:
    parts, size = [], 0
    try:
        with pa.input_stream(str(path), compression=packing) as stream:
            while part := stream.read(1 << 24):
                parts.append(part)
                size += len(part)
                _check_size(size, path)
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        raise DataError(f"a {packing} file that can't be unpacked ({error})", where=str(path)) from error
    return b"".join(parts)


def _whole(path: Path) -> bytes:
    _check_size(path.stat().st_size, path)
    return path.read_bytes()


def _check_size(size: int, path: Path) -> None:
    if size > MAX_BYTES:
        raise DataError(f"larger than {MAX_BYTES >> 30} GiB; save it as Parquet, or split it", where=str(path))
