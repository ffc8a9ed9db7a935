"""Which column of a table plays which part; what is not named is found, with a reason for each."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from fmtl.catalogue.notes import Note, warning
from fmtl.catalogue.table import ID_NAMES
from fmtl.errors import TABLE, DataError, did_you_mean, first_ten

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MIN_CLASSES, MAX_CLASSES = 2, 500  # of a column that is found to be a label
MAX_NAMED_CLASSES = 10_000  # of one that was named
MAX_LABEL_LENGTH = 500  # characters
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Columns:
    """Which column plays which part.

    Attributes:
        labels: The label columns, in table order unless named.
        id: The id column, or None: the image path is the id.
        image_paths: From a table to the image path of each row; None where a cell is blank.
        notes: A reason for each column taken or left.
    """

    labels: list[str]
    id: str | None
    image_paths: Callable[[pd.DataFrame], list[str | None]]
    notes: list[Note]


def choose_columns(
    frame: pd.DataFrame,
    *,
    label_cols: Sequence[str] = (),
    id_col: str | None = None,
    image_col: str | None = None,
    image_template: str | None = None,
    others: Sequence[str] = (),
) -> Columns:
    """Decide the parts that columns play; what is not named is found.

    Args:
        others: Columns that are no labels unless named as such: free text, groups, splits, checksums.

    Raises:
        DataError: A named column is missing, no image column is found, or no column can be a label.
    """
    _require(frame, [*label_cols, *[c for c in (id_col, image_col) if c], *others])
    id_col = id_col or next((c for c in frame if c.casefold() in ID_NAMES), None)
    if image_template is None:
        try:
            image_col = image_column(frame, image_col)
        except DataError as error:
            way_out = "Or build paths from columns with --image-template '{id}.jpg'"
            raise DataError(f"{error.message}. {way_out}", where=error.where) from error
        template_cols = [image_col]
    else:
        template_cols = re.findall(r"{(.*?)}", image_template)
        if not template_cols:
            raise DataError(f"image_template: '{image_template}' names no column; expected one such as '{{id}}.jpg'")
        _require(frame, template_cols)
    taken = {id_col, *others, *template_cols} - set(label_cols)
    labels, notes = _choose_labels(frame.drop(columns=[c for c in taken if c in frame]), label_cols)
    return Columns(labels, id_col, _path_maker(image_template, template_cols), notes)


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


def _require(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    problems = []
    for column in columns:
        if column not in frame:
            hint = did_you_mean(column, frame.columns, cutoff=0.5)
            problems.append(
                f"column '{column}' is not in the table{hint and f'; {hint}'} Columns: {', '.join(frame.columns)}"
            )
    if problems:
        raise DataError("\n" + first_ten(problems), where=TABLE)


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
        f"no column holds image file names; name it with --image-col. Columns: {', '.join(frame.columns)}", where=TABLE
    )


def _choose_labels(frame: pd.DataFrame, named: Sequence[str]) -> tuple[list[str], list[Note]]:
    notes: list[Note] = []
    labels: list[str] = []
    for column in named or frame.columns:
        values = frame[column].dropna()
        reason = _why_not_a_label(values)
        if not named and reason:
            notes.append(Note(f"column '{column}' left out: {reason}"))
            continue
        if values.empty:
            raise DataError(
                f"label column '{column}' has no value in any row; leave it out of --label-cols", where=TABLE
            )
        if reason:
            notes.append(warning(f"column '{column}' was named and is kept, though: {reason}"))
        _check_limits(column, values)
        labels.append(column)
    if not labels:
        raise DataError("no column can be a label:\n" + first_ten([str(note) for note in notes]), where=TABLE)
    return labels, notes


def _why_not_a_label(values: pd.Series) -> str | None:
    num_classes = values.nunique()
    if num_classes < MIN_CLASSES:
        return f"constant ({values.iloc[0]!r})" if num_classes else "blank in every row"
    if values.map(lambda cell: _NUMBER.fullmatch(cell) is not None).all():
        return "numbers (name it in --label-cols if they are classes)"
    longest = int(values.str.len().max())
    if longest > MAX_LABEL_LENGTH:
        return f"free text of up to {longest} characters"
    if num_classes > MAX_CLASSES:
        return f"{num_classes} values, more than {MAX_CLASSES}"
    if num_classes > len(values) / 2:
        return f"{num_classes} values in {len(values)} rows: an id or free text"
    return None


def _check_limits(column: str, values: pd.Series) -> None:
    lengths = values.str.len()
    if lengths.max() > MAX_LABEL_LENGTH:
        raise DataError(
            f"line {lengths.idxmax()}: the label in column '{column}' has {lengths.max()} characters, more than "
            f"{MAX_LABEL_LENGTH}; is it free text? Leave the column out of --label-cols",
            where=TABLE,
        )
    if values.nunique() > MAX_NAMED_CLASSES:
        raise DataError(
            f"column '{column}' has {values.nunique()} classes, more than {MAX_NAMED_CLASSES}; is it an id? "
            "Leave it out of --label-cols",
            where=TABLE,
        )
