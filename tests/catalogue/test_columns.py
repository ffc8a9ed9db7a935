import pandas as pd
import pytest

from fmtl.catalogue.columns import choose_columns
from fmtl.errors import DataError

FRAME = pd.DataFrame(
    {
        "id": [str(i) for i in range(8)],
        "image": [f"{i}.jpg" for i in range(8)],
        "colour": ["red", "blue"] * 4,
        "year": ["2011", "2012"] * 4,
        "shop": ["here"] * 8,
        "title": [f"thing {i}" for i in range(8)],
        "new": ["True", None] * 4,
        "size": ["S", "M", None, "L"] * 2,
    },
    dtype=object,
)


def test_label_columns_are_found_with_a_reason_for_each_one_left():
    columns = choose_columns(FRAME)
    assert columns.labels == ["colour", "size"]
    assert columns.id == "id"
    notes = "\n".join(map(str, columns.notes))
    for column, reason in [("year", "numbers"), ("shop", "constant"), ("title", "free text"), ("new", "constant")]:
        assert any(f"'{column}'" in line.text and reason in line.text for line in columns.notes), notes


def test_named_columns_are_kept_whatever_they_hold_with_a_warning():
    columns = choose_columns(FRAME, label_cols=["year", "shop"])
    assert columns.labels == ["year", "shop"]
    assert sum(note.is_warning for note in columns.notes) == 2


def test_a_misspelt_column_is_an_error_that_names_the_nearest():
    with pytest.raises(DataError, match="'color'.*did you mean 'colour'"):
        choose_columns(FRAME, label_cols=["color"])


def test_an_image_template_takes_cells_as_plain_text():
    paths = choose_columns(FRAME, image_template="{colour}/{id}.jpg").image_paths
    rows = pd.DataFrame({"id": ["{shop}", None], "colour": ["red", "red"], "shop": ["x", "x"]}, dtype=object)
    assert paths(rows) == ["red/{shop}.jpg", None]


def test_no_image_column_is_an_error_that_says_what_to_do():
    with pytest.raises(DataError, match="--image-template"):
        choose_columns(FRAME.drop(columns="image"))


@pytest.mark.parametrize(("num_classes", "taken"), [(500, True), (501, False)])
def test_a_column_of_more_than_500_values_is_found_to_be_no_label(num_classes, taken):
    cells = [f"brand {i % num_classes}" for i in range(3 * num_classes)]
    frame = pd.DataFrame({"image": [f"{i}.jpg" for i in range(len(cells))], "brand": cells}, dtype=object)
    frame["kind"] = [["hat", "bag"][i % 2] for i in range(len(cells))]
    columns = choose_columns(frame)
    assert ("brand" in columns.labels) == taken
    assert any("501 values, more than 500" in note.text for note in columns.notes) != taken
