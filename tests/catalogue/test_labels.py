import pandas as pd
import pytest

from fmtl.catalogue.values.labels import clean_label, clean_labels, rare_classes
from fmtl.catalogue.values.spellings import alike


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
    assert [str(note) for note in notes] == [
        "column 'colour': 1 labels had odd spaces or characters and were cleaned",
        "warning: column 'colour' has labels that look alike: ['red', 'Red']",
    ]


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        (["T-shirt", "tshirt", "Tshirts", "Shorts", "Shirts"], [["T-shirt", "tshirt", "Tshirts"]]),
        (["Café", "cafe", "Cat", "Hat"], [["Café", "cafe"]]),
        (["Sweatshirt", "Sweatshrt"], [["Sweatshrt", "Sweatshirt"]]),
        (["red", "bed", "Shoes", "Shows"], []),
        (["Navy Blue", "navy-blue", "Navy  blue!"], [["Navy Blue", "navy-blue", "Navy  blue!"]]),
        (["1", "10", "100"], []),
    ],
)
def test_spellings_of_one_word_look_alike_and_other_words_do_not(labels, groups):
    assert [sorted(group) for group in alike(pd.Series(labels, dtype=object))] == [sorted(group) for group in groups]


def test_casefold_takes_the_most_frequent_spelling():
    frame = pd.DataFrame({"colour": ["Red", "red", "red", "RED", "Blue"]}, dtype=object)
    labels, notes = clean_labels(frame, ["colour"], casefold=True)
    assert labels["colour"].tolist() == ["red", "red", "red", "red", "Blue"]
    assert "column 'colour': 'Red' became 'red'" in [note.text for note in notes]


def test_cells_that_may_mean_a_blank_are_pointed_out():
    frame = pd.DataFrame({"usage": ["Casual", "NA", "NA", "none"]}, dtype=object)
    _, notes = clean_labels(frame, ["usage"])
    assert [str(note) for note in notes] == [
        "warning: column 'usage' has 2 cells 'NA', a class of its own; if it means a blank, name it: --missing NA; "
        "if it means that the column does not apply to a product: --not-applicable NA"
    ]


def test_a_class_is_rare_by_its_distinct_images():
    labels = pd.DataFrame({"kind": ["hat", "hat", "hat", "bag", "bag", None]}, dtype=object)
    assert rare_classes(labels, [0, 0, 0, 1, 2, 3], least=2) == {"kind": {"hat": 1}}
