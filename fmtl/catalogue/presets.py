"""What is known of published catalogues."""

from dataclasses import dataclass


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
