"""Where a dataset is made from, and where it goes: found, and checked before any work."""

import glob
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fmtl.catalogue.columns import Columns, choose_columns
from fmtl.catalogue.label_columns import Several
from fmtl.catalogue.photos.finding import Finder, finders_of
from fmtl.catalogue.presets import PRESETS
from fmtl.catalogue.reading import EXPECTED, fingerprint, photo_template, read_as
from fmtl.catalogue.roles import NONE
from fmtl.catalogue.table import Catalogue
from fmtl.dataset.draft import PreparePlan
from fmtl.dataset.prepared import (
    CONTRADICTIONS,
    DUPLICATES,
    IMAGES,
    MANIFEST,
    REJECTS,
    REPORT,
    TABLE,
    is_dataset,
    read_manifest,
)
from fmtl.dataset.reuse import parts
from fmtl.errors import DataError, UsageError, located
from fmtl.storage import durable
from fmtl.storage.cache import recall

# Of a dataset, beside its manifest and its pixels.
FILES = (TABLE, IMAGES, REJECTS, DUPLICATES, REPORT, CONTRADICTIONS)
TEST_TABLE = "split by table"  # the column that two tables make


def check_out(out: Path, *, table: str, images: str | None) -> None:
    """Raise UsageError where publishing the dataset would cost the user something."""
    if out.exists() and not is_dataset(out) and not (out.is_dir() and not _visible(out)):
        raise UsageError(f"out: {out} exists and is no prepared dataset; choose another folder or remove it")
    _check_outside(out, table=table, images=images)
    if Path(table).is_dir() and out.resolve().is_relative_to(Path(table).resolve()):
        raise UsageError(
            f"out: {out} lies in the table's folder and would be read as a part of it; choose another folder"
        )
    if out.exists():
        manifest = recall(lambda: read_manifest(out / MANIFEST), DataError) if is_dataset(out) else None
        # Of one that is damaged, what a dataset's files are called.
        files = manifest["files"] if manifest else (*FILES, *(path.name for path in out.glob("pixels-*.bin")))
        ours = {MANIFEST, *files}
        strange = [name for name in _visible(out) if name not in ours]
        if strange:
            raise UsageError(f"out: {out} also holds {', '.join(strange[:5])}, which would be lost; move it elsewhere")


def check_part(out: Path, *, table: str, images: str | None) -> None:
    """``check_out`` for a part of a dataset."""
    if out.exists() and not parts.is_part(out) and _visible(out):
        raise UsageError(f"out: {out} holds something else than a part; choose another folder")
    _check_outside(out, table=table, images=images)


def _check_outside(out: Path, *, table: str, images: str | None) -> None:
    """Raise UsageError where what a dataset is made from lies in its place."""
    for name, source in (("table", table), ("images", images)):
        if source and Path(source).resolve().is_relative_to(out.resolve()):
            raise UsageError(f"out: {out} holds {name} {source} and would be replaced; choose another folder")


def as_given(plan: PreparePlan) -> dict[str, Any]:
    """Tables and image folder of a plan, where any process finds them."""
    named = {name: getattr(plan, name) for name in ("table", "test_table", "images")}
    return {name: str(Path(value).resolve()) if value else None for name, value in named.items()}


def _visible(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name[0] != "." and p.name != durable.LOST_AND_FOUND)


def the_table(name: str) -> str:
    """The table that a name with wildcards means.

    Raises:
        DataError: Several do.
    """
    found = sorted(glob.glob(name)) if glob.has_magic(name) and not Path(name).exists() else []  # noqa: PTH207
    if len(found) > 1:
        shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        raise DataError(f"{len(found)} files match ({shown}); name one, or put Parquet files in a folder", where=name)
    return found[0] if found else name


def source(plan: PreparePlan, out: Path) -> dict[str, Any]:
    """The tables that the dataset is made from; paths are relative to its folder, which may move with them.

    Raises:
        DataError: There is no such table.
    """
    found: dict[str, Any] = {}
    for kind, name in (("", plan.table), ("test_", plan.test_table)):
        if name:
            path = Path(name)
            if not path.exists():
                raise DataError(f"no such table; expected {EXPECTED}", where=str(path))
            found |= {
                f"{kind}table": path.name,
                f"{kind}table_path": os.path.relpath(path.resolve(), out.resolve()),
                f"{kind}sha256": fingerprint(path),
            }
    return found


def finders(plan: PreparePlan) -> list[Finder]:
    """One per folder where the photos may be."""
    return finders_of(Path(plan.table), plan.images, follow_links=plan.follow_links)


def images_path(root: str, out: Path) -> str:
    """The image folder, relative to the dataset's."""
    return os.path.relpath(root, out.resolve())


def read_tables(plan: PreparePlan, finders: Sequence[Finder]) -> tuple[Catalogue, Columns]:
    """The table, and the part that each of its columns plays; what a preset knows fills what was not named.

    Rows of a second table follow those of the first, and are the test split.
    """
    preset = PRESETS.get(plan.preset) if plan.preset else None
    id_col = plan.id_col or (preset.id_col if preset else None)
    read = partial(read_as, how=plan, preset=preset, id_col=id_col)
    table, split_col = read(Path(plan.table)), plan.split_col
    if plan.test_table:
        split_col = TEST_TABLE if split_col in (None, NONE) else split_col
        table.add(read(Path(plan.test_table)), Path(plan.test_table).name, split_col=split_col)
    label_cols = plan.label_cols or (preset.label_cols if preset else ())
    template = photo_template(table, plan, preset)
    others = [c for c in (plan.checksum_col,) if c]
    for column in (*label_cols, plan.id_col, plan.group_col, split_col, *others):
        if column in table.unusable:
            told = f"column '{column}' is of type {table.unusable[column]}; expected text, numbers or booleans"
            raise DataError(told, where=plan.table)
    free = [c for c in (preset.free_text_col,) if c in table.frame] if preset else []
    with located(plan.table):
        columns = choose_columns(
            table.frame,
            label_cols=label_cols,
            id_col=id_col,
            image_col=plan.image_col or (None if template else table.image_cells),
            image_template=template,
            group_col=plan.group_col,
            split_col=split_col,
            several=Several(plan.set_cols, plan.first_value, every_set=plan.sets == "auto"),
            others=[*free, *others],
            finders=[] if table.image_cells else finders,
        )
    return table, columns
