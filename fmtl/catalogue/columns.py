"""Which column of a table plays which part; what is not named is found, with a reason for each."""

import logging
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from fmtl.catalogue import roles
from fmtl.catalogue.names import ID_NAMES
from fmtl.catalogue.notes import Note, warning
from fmtl.catalogue.photos.column import image_column
from fmtl.catalogue.photos.finding import Finder
from fmtl.catalogue.roles import NONE
from fmtl.catalogue.table import require
from fmtl.catalogue.values import NUMBERS, separator_of, what_they_are
from fmtl.errors import TABLE, DataError, first_ten

log = logging.getLogger(__name__)

MIN_CLASSES, MAX_CLASSES = 2, 500  # of a column that is found to be a label
MAX_NAMED_CLASSES = 10_000  # of one that was named
_LABEL_WORDS = re.compile(
    r"(class|label|target|categor(y|ies)|attribute)s?([_ -]?(id|idx|index|no|nr|code))?", re.IGNORECASE
)
MAX_LABEL_LENGTH = 500  # characters


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
    """

    labels: list[str]
    id: str | None
    image_paths: Callable[[pd.DataFrame], list[str | None]]
    notes: list[Note]
    split: str | None = None
    groups: Mapping[str, pd.Series] = field(default_factory=dict)
    separators: Mapping[str, str] = field(default_factory=dict)


def choose_columns(
    frame: pd.DataFrame,
    *,
    label_cols: Sequence[str] = (),
    id_col: str | None = None,
    image_col: str | None = None,
    image_template: str | None = None,
    group_col: str | None = None,
    split_col: str | None = None,
    first_value: Sequence[str] = (),
    others: Sequence[str] = (),
    finders: Sequence[Finder] = (),
) -> Columns:
    """Decide the parts that columns play; what is not named is found.

    Args:
        group_col, split_col: ``none``: no column plays that part.
        first_value: Columns of several values in a cell, of which the first is the label.
        others: Columns that are no labels unless named as such: free text, checksums.
        finders: One per folder where the photos may be.

    Raises:
        DataError: A named column is missing, no image column is found, or no column can be a label.
    """
    named = [c for c in (id_col, image_col, group_col, split_col) if c and c != NONE]
    require(frame, [*label_cols, *named, *others, *first_value])
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
    labels, separators, said = _choose_labels(
        frame.drop(columns=[c for c in taken if c in frame]), label_cols, first_value
    )
    parts = Note(_parts_told(image_template, template_cols, id_col))
    return Columns(labels, id_col, paths, [parts, *notes, *said], None if split == NONE else split, groups, separators)


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


def _choose_labels(
    frame: pd.DataFrame, named: Sequence[str], first_value: Sequence[str]
) -> tuple[list[str], dict[str, str], list[Note]]:
    """The label columns, what separates several values in their cells, and why others are none."""
    notes: list[Note] = []
    labels: list[str] = []
    separators: dict[str, str] = {}
    for column in named or frame.columns:
        values = frame[column].dropna()
        separator = separator_of(values) if len(values) else None
        if separator and column in first_value:
            separators[column] = separator
            labels.append(column)
            told = f"column '{column}' has several values in a cell, separated by {_shown(separator)}: the first counts"
            notes.append(Note(told))
            continue
        reason = _why_not_a_label(values)
        if (
            reason == NUMBERS
            and _LABEL_WORDS.fullmatch(column)
            and values.nunique() <= min(MAX_CLASSES, len(values) / 2)
        ):
            notes.append(Note(f"column '{column}' is taken for classes by its name, though they are numbers"))
            reason = None
        reason = reason or (_several_told(column, values, separator) if separator else None)
        if not named and reason:
            notes.append(Note(f"column '{column}' left out: {reason}", is_warning=separator is not None))
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
        for note in notes:  # without a dataset there is no summary that would say it
            log.info("%s", note)
        named_by = "; --label-cols names those that are all the same"
        raise DataError(f"no column can be a label{named_by}:\n" + first_ten([n.text for n in notes]), where=TABLE)
    return labels, separators, notes


def _several_told(column: str, values: pd.Series, separator: str) -> str:
    return (
        f"several values in a cell, separated by {_shown(separator)}, such as {values.iloc[0]!r}; "
        f"--first-value {shlex.quote(column)} takes the first of each"
    )


def _shown(separator: str) -> str:
    return "the commas of a list" if separator == "[]" else repr(separator)


def _why_not_a_label(values: pd.Series) -> str | None:
    num_classes = values.nunique()
    if num_classes < MIN_CLASSES:
        return f"constant ({values.iloc[0]!r})" if num_classes else "blank in every row"
    if told := what_they_are(values):
        return told
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
