"""Which columns say what belongs together and what is kept apart: products, their views, and splits."""

import re
from collections.abc import Sequence

import pandas as pd

from fmtl.catalogue.names import without_image_suffix
from fmtl.catalogue.notes import Note, warning
from fmtl.catalogue.values.kinds import DATES, IDENTIFIERS, like_codes, what_they_are

NONE = "none"  # named as a column: none plays that part
SPLIT_NAMES = frozenset(("split", "set", "fold", "subset", "partition", "phase", "dataset"))
SPLIT_SPELLINGS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_PRODUCT_WORDS = frozenset(
    (
        "sku", "spu", "style", "item", "asin", "parent", "product", "article", "model", "listing", "ean", "gtin", "upc",
        "mpn", "barcode", "code", "ref", "reference",
    )
)  # fmt: skip
MAX_VIEWS = 20  # of one product, the median: with more, it is an attribute like any other
_FEW_PRODUCTS = 5  # below which file names tell nothing
_OTHER_WORDS = frozenset(
    (
        "price", "cost", "date", "day", "time", "year", "size", "colour", "color", "weight", "rating", "brand", "store",
        "supplier", "vendor", "type", "count", "qty", "quantity", "stock", "description", "name", "title",
    )
)  # fmt: skip
_LARGEST_SHARE = 0.02  # of the rows, that one product may have
_MAX_FOLDS = 20
_MAX_UNNAMED_VIEWS = 6  # the same, of a column whose name does not say it
_MAX_KINDS_OF_VIEWS = 12  # front, back, 1, 2 and so on
_VIEW = re.compile(
    r"(?<![\W_])[\W_]+([^\W\d_]{1,12}|\d{1,2})\Z|(front|back|side|left|right|top|bottom|detail|[a-h])\Z", re.IGNORECASE
)  # at the end of a name; a search that begins at a separator only where none is before it takes no time


def product_columns(frame: pd.DataFrame, columns: Sequence[str]) -> dict[str, pd.Series]:
    """Columns that tell the photos of one product, by their name and values, and those values.

    Of several, only those that agree: each value of one lies in one value of the other.
    """
    found: dict[str, pd.Series] = {}
    for column in columns:
        words = {word.casefold() for word in {*re.split(r"[\W_]+|(?<=[a-z])(?=[A-Z])", column), column}}
        named = bool(words & _PRODUCT_WORDS) and not words & _OTHER_WORDS
        if is_product(frame[column].dropna(), named=named):
            found[column] = frame[column]
    finest_first = sorted(found, key=lambda c: -found[c].nunique())
    kept: list[str] = []
    for column in finest_first:
        if all(_lies_in(found[other], found[column]) for other in kept):
            kept.append(column)
    return {column: found[column] for column in found if column in kept}


def is_product(values: pd.Series, *, named: bool) -> bool:
    """Whether values look like identifiers, each of a few rows.

    Args:
        named: Whether the column's name says so, too: then any words with a digit do, and whole numbers.
    """
    if values.empty or not _few_rows(values, MAX_VIEWS if named else _MAX_UNNAMED_VIEWS):
        return False
    told = what_they_are(values)
    if told is not None and told.startswith(IDENTIFIERS):
        return True
    return named and like_codes(values.drop_duplicates().head(1000)) and (told is None or _whole(values))


def _whole(values: pd.Series) -> bool:
    return values.drop_duplicates().head(1000).str.fullmatch(r"\d+").all()


def _lies_in(fine: pd.Series, coarse: pd.Series) -> bool:
    """Whether rows of one value in ``fine`` have one value in ``coarse``."""
    both = pd.DataFrame({"fine": fine, "coarse": coarse}).dropna().drop_duplicates()
    return not both["fine"].duplicated().any()


def views(paths: pd.Series) -> pd.Series | None:
    """What the names of photos of one product have in common: of ``SKU1_front.jpg``, ``SKU1``; None if nothing."""
    split = [_view_of(without_image_suffix(re.split(r"[/\\]", path)[-1])) for path in paths]
    kinds = {view.casefold() for _, view in split if view}
    if not 1 < len(kinds) <= _MAX_KINDS_OF_VIEWS:
        return None
    folders = [re.split(r"[/\\]", path)[:-1] for path in paths]
    stems = [stem for stem, _ in split]
    together = pd.Series(["/".join([*f, s]) for f, s in zip(folders, stems, strict=True)], paths.index, dtype=object)
    several = together.duplicated(keep=False)
    if several.mean() < 0.5 or together[several].nunique() < _FEW_PRODUCTS:
        return None
    named = pd.Series(stems, dtype=object)
    if not _few_rows(together, _MAX_UNNAMED_VIEWS) or what_they_are(named.str.replace("_", "-")) == DATES:
        return None
    return together


def split_column(frame: pd.DataFrame, columns: Sequence[str]) -> tuple[str | None, list[Note], list[str]]:
    """A column that says train, val or test for every row; notes; and all columns that look so, which are no labels."""
    chosen, notes = None, []
    alike: list[str] = []
    for column in columns:
        if not {word.casefold() for word in re.split(r"[\W_]+", column)} & SPLIT_NAMES:
            continue
        said = [SPLIT_SPELLINGS.get((cell or "").casefold()) for cell in frame[column]]
        known = [split for split in said if split]
        is_fold = column.casefold() in ("split", "fold") and frame[column].nunique() <= _MAX_FOLDS
        if known or is_fold:
            alike.append(column)
        if known and len(known) == len(said) and "train" in known and chosen is None:
            chosen = column
            told = f"column '{column}' says which split a photo is in; --split-col {NONE} draws them instead"
            notes.append(Note(told))
        elif known and chosen is None:
            at = next((n for n, split in enumerate(said) if not split), 0)
            line, cell = frame.index[at], frame[column].iloc[at] or ""
            why = f"line {line} says '{cell}'" if len(known) < len(said) else "no row is in train"
            notes.append(
                warning(f"column '{column}' looks like a split and is not used, since {why}; the splits are drawn")
            )
        elif known or is_fold:
            told = f"column '{column}' left out: a split or fold; --split-col takes a column of train, val and test"
            notes.append(Note(told))
    return chosen, notes, alike


def _few_rows(values: pd.Series, most: int) -> bool:
    """Whether most values have few rows, and none very many."""
    sizes = values.value_counts()
    return bool(sizes.median() <= most and 1 < sizes.max() <= max(2 * MAX_VIEWS, _LARGEST_SHARE * len(values)))


def _view_of(name: str) -> tuple[str, str]:
    """What a name has in common with the other views of a product, and which view it is; empty where it is none."""
    match = _VIEW.search(name)
    if match is None or not re.search(r"\d", name[: match.start()]):
        return name, ""
    return name[: match.start()], match[1] or match[2]
