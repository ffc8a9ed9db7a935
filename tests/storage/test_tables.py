import io

import pandas as pd

from fmtl.storage.tables import to_csv, to_text


def test_no_text_cell_is_a_formula_and_numbers_stay_numbers():
    table = pd.DataFrame({"name": ["=HYPERLINK(1)", "+x", "-x", "@x", "\tx", "plain"], "f1": [-0.5, 1, 2, 3, 4, 5]})
    back = pd.read_csv(io.StringIO(to_csv(table)))
    assert back["name"].str[0].tolist() == ["'"] * 5 + ["p"]
    assert back["f1"].tolist() == [-0.5, 1, 2, 3, 4, 5]


def test_columns_are_aligned():
    assert to_text(pd.DataFrame({"a": ["x", "long"], "b": [1, 2]})).splitlines() == ["a     b", "x     1", "long  2"]
