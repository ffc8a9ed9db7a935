"""Which column of a table plays which part; what is not named is found, with a reason for each."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from fmtl.catalogue import label_columns, roles
from fmtl.catalogue.label_columns import Several
from fmtl.catalogue.names import ID_NAMES
from fmtl.catalogue.notes import Note
from fmtl.catalogue.photos.column import image_column
from fmtl.catalogue.photos.finding import Finder
from fmtl.catalogue.roles import NONE
from fmtl.catalogue.table import require
from fmtl.catalogue.values.sets import SetCells, of_columns
from fmtl.errors import DataError


@dataclass(frozen=True)
class Columns:
    """Which column plays which part.

    Attributes:
        labels: The label columns, in table order unless named.
        id: The id column, or None: the image path is the id.
        image_paths: From a table to the image path of each row; None where a cell is blank.
        notes: A reason for each column taken or left.
        split: The column that says train, val or test; None: they are drawn.
        groups: By what they are called, values that keep rows together where they are equal.
        separators: By label column, what stands between several values of one cell, the first of which is taken.
        sets: By label column, or the name of a set that several columns tell, where its values are.
    """

    labels: list[str]
    id: str | None
    image_paths: Callable[[pd.DataFrame], list[str | None]]
    notes: list[Note]
    split: str | None = None
    groups: Mapping[str, pd.Series] = field(default_factory=dict)
    separators: Mapping[str, str] = field(default_factory=dict)
    sets: Mapping[str, SetCells] = field(default_factory=dict)


def choose_columns(
    frame: pd.DataFrame,
    *,
    label_cols: Sequence[str] = (),
    id_col: str | None = None,
    image_col: str | None = None,
    image_template: str | None = None,
    group_col: str | None = None,
    split_col: str | None = None,
    several: Several | None = None,
    others: Sequence[str] = (),
    finders: Sequence[Finder] = (),
) -> Columns:
    """Decide the parts that columns play; what is not named is found.

    Args:
        group_col, split_col: ``none``: no column plays that part.
        several: What becomes of columns with several values.
        others: Columns that are no labels unless named as such: free text, checksums.
        finders: One per folder where the photos may be.

    Raises:
        DataError: A named column is missing, no image column is found, or no column can be a label.
    """
    named = [c for c in (id_col, image_col, group_col, split_col) if c and c != NONE]
    several = several or Several()
    joined = of_columns(frame, list(frame))
    whole = [c for c in (*label_cols, *several.sets) if c not in joined]
    require(frame, [*whole, *named, *others, *several.first_value])
    notes: list[Note] = []
    id_col = id_col or next((c for c in frame if c.casefold() in ID_NAMES), None)
    template_cols, paths, said = photo_paths(frame, image_col, image_template, finders=finders)
    notes += said
    taken = {id_col, *others, *template_cols, *named} - set(label_cols)
    free = [c for c in frame if c not in taken and c not in label_cols]
    split, said, no_labels = roles.split_column(frame, free)
    if split_col:
        split, said = split_col, [Note(f"column '{column}' left out: a split") for column in no_labels]
    notes += said
    taken |= {*no_labels}
    groups, said = _groups(frame, [c for c in free if c not in taken], id_col, group_col, label_cols, paths)
    notes += said
    taken |= set(groups) - set(label_cols)
    chosen = label_columns.choose(frame.drop(columns=[c for c in taken if c in frame]), label_cols, several, joined)
    parts = Note(_parts_told(image_template, template_cols, id_col))
    return Columns(
        labels=chosen.labels,
        id=id_col,
        image_paths=paths,
        notes=[parts, *notes, *chosen.notes],
        split=None if split == NONE else split,
        groups=groups,
        separators=chosen.separators,
        sets=chosen.sets,
    )


def photo_paths(
    frame: pd.DataFrame, image_col: str | None, image_template: str | None, *, finders: Sequence[Finder] = ()
) -> tuple[list[str], Callable[[pd.DataFrame], list[str | None]], list[Note]]:
    """The columns that photos are named by, the paths that they make, and what was guessed.

    Raises:
        DataError: A named column is missing, or none is found.
    """
    if image_template is not None:
        columns = re.findall(r"{(.*?)}", image_template)
        if not columns:
            raise DataError(f"image_template: '{image_template}' names no column; expected one such as '{{id}}.jpg'")
        require(frame, columns)
        return columns, _path_maker(image_template, columns), []
    try:
        column, notes = image_column(frame, image_col, finders=finders)
    except DataError as error:
        way_out = "Or build paths from columns with --image-template '{id}.jpg'"
        raise DataError(f"{error.message}. {way_out}", where=error.where) from error
    return [column], _path_maker(None, [column]), notes


def _parts_told(template: str | None, template_cols: Sequence[str], id_col: str | None) -> str:
    photos = f"column '{template_cols[0]}'" if template is None else f"the template {template}"
    ids = f"column '{id_col}'" if id_col else "the photo's path"
    return f"photos are named by {photos}, products by {ids}"


def _groups(
    frame: pd.DataFrame,
    free: Sequence[str],
    id_col: str | None,
    group_col: str | None,
    label_cols: Sequence[str],
    paths: Callable[[pd.DataFrame], list[str | None]],
) -> tuple[dict[str, pd.Series], list[Note]]:
    """What keeps rows in one split: ids, the column named, else columns or file names that tell views of a product."""
    groups = {id_col: frame[id_col]} if id_col and id_col not in label_cols else {}
    if group_col:
        return groups | ({} if group_col == NONE else {group_col: frame[group_col]}), []
    products = roles.product_columns(frame, free)
    otherwise = f"--group-col {NONE} lets them apart"
    notes = [
        Note(
            f"column '{column}' tells products: {values.nunique()} of them in {values.notna().sum()} rows, each kept "
            f"in one split; {otherwise}, and --label-cols makes it an attribute"
        )
        for column, values in products.items()
    ]
    if not products:
        named = pd.Series(paths(frame), index=frame.index, dtype=object).dropna()
        views = roles.views(named) if len(named) else None
        if views is not None:
            stem = views.iloc[0]
            notes.append(
                Note(
                    f"file names tell views of {views.nunique()} products, such as those of '{stem}', each kept in one "
                    f"split; {otherwise}"
                )
            )
            products = {"file names": views.reindex(frame.index)}
    return groups | products, notes


def _path_maker(template: str | None, columns: list[str]) -> Callable[[pd.DataFrame], list[str | None]]:
    def path(*cells: str | None) -> str | None:
        known = [cell for cell in cells if cell is not None]
        if len(known) < len(cells):
            return None
        if template is None:
            return known[0]
        made = template
        for column, cell in zip(columns, known, strict=True):
            # Not str.format: a template is data, and format reaches attributes.
            made = made.replace("{" + column + "}", cell)
        return made

    return lambda frame: [path(*cells) for cells in zip(*(frame[column] for column in columns), strict=True)]
