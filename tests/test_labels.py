import pandas as pd
import pytest

from fmtl.labels import clean_label, clean_labels


@pytest.mark.parametrize(
    ("typed", "label"),
    [
        (" red\u200b ", "red"),
        ("Cafe\u0301\u00a0 bar", "Café bar"),
        ("navy  \t blue", "navy blue"),
        (" \u200b ", None),
        ("Red", "Red"),
    ],
)
def test_labels_that_look_equal_are_equal(typed, label):
    assert clean_label(typed) == label


def test_what_was_changed_and_what_still_looks_alike_is_said():
    frame = pd.DataFrame(
        {"colour": ["red", "red ", "Red", None, "blue"], "kind": ["a", "b", "a", "b", None]}, dtype=object
    )
    labels, notes = clean_labels(frame, ["colour", "kind"])
    assert labels["colour"].tolist() == ["red", "red", "Red", None, "blue"]
    assert notes == [
        "column 'colour': 1 labels had odd spaces or characters and were cleaned",
        "warning: column 'colour' has labels that look alike: ['red', 'Red']",
    ]
