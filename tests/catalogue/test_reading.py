import pandas as pd
import pytest

from fmtl.catalogue.reading import read_catalogue
from fmtl.errors import DataError


def read(tmp_path, text, **options):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_catalogue(path, **options)


def test_an_unescaped_comma_never_shifts_columns(tmp_path):
    text = "id,name,season\n1,Shirt, blue,Fall\n2,Belt,Summer\n"
    plain = read(tmp_path, text)
    assert plain.frame.to_dict("records") == [{"id": "2", "name": "Belt", "season": "Summer"}]
    assert [(r.line, r.id, r.reason) for r in plain.rejects] == [(2, "1", "extra_fields")]
    rejoined = read(tmp_path, text, free_text_col="name")
    assert rejoined.frame.loc[2].to_dict() == {"id": "1", "name": "Shirt, blue", "season": "Fall"}
    assert rejoined.rejects == []


def test_every_line_is_kept_or_rejected_with_its_number(tmp_path):
    text = 'id,a,b\n1,x,y\n2,x\n\n3,"two\nlines",y\n4,x,y,z,w\n5,p,q\n'
    catalogue = read(tmp_path, text)
    assert list(catalogue.frame.index) == [2, 5, 8]
    assert [(r.line, r.reason) for r in catalogue.rejects] == [(3, "short_row"), (7, "extra_fields")]
    assert catalogue.num_rows_read == 5


def test_cells_are_stripped_and_only_blanks_and_named_spellings_are_missing(tmp_path):
    catalogue = read(tmp_path, "id,a\n1, NA \n2,None\n3, x \n4,\n", missing=["NA"])
    assert catalogue.frame["a"].tolist() == [None, "None", "x", None]


def test_ids_stay_text(tmp_path):
    assert read(tmp_path, "id,a\n00123,x\n12345678901234567,y\n").frame["id"].tolist() == ["00123", "12345678901234567"]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_other_delimiters_are_found_and_said(tmp_path, delimiter):
    catalogue = read(tmp_path, f"id{delimiter}a\n1{delimiter}x,y\n")
    assert catalogue.frame["a"].tolist() == ["x,y"]
    assert "separated by" in catalogue.notes[0].text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "empty file"),
        (b"id,a\n", "0 rows"),
        (b"id,a,a\n1,2,3\n", "duplicate column names"),
        (b'id,a\n1,"x\n2,y\n', "line 2.*quote"),
        ("id,a\n1,é\n".encode("latin-1"), "line 2, byte 7.*not utf-8.*save the table as UTF-8"),
    ],
)
def test_an_unusable_table_is_an_error_that_names_the_place(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    assert list(read(tmp_path, b"\xef\xbb\xbfid,a\n1,x\n").frame.columns) == ["id", "a"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_with_its_byte_order_mark_is_read(tmp_path, encoding):
    mark = "" if encoding == "utf-16" else "\ufeff"
    frame = read(tmp_path, (mark + "id,a\n1,Größe\n").encode(encoding)).frame
    assert frame.to_dict("records") == [{"id": "1", "a": "Größe"}]


def test_parquet_gives_the_same_text_as_csv(tmp_path):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"id": [7, 8], "size": [1.0, None], "kind": [" a", None], "new": [True, False]}).to_parquet(path)
    frame = read_catalogue(path).frame
    assert frame.to_dict("list") == {
        "id": ["7", "8"],
        "size": ["1", None],
        "kind": ["a", None],
        "new": ["True", "False"],
    }
    assert list(frame.index) == [1, 2]


def test_a_file_that_is_no_parquet_is_an_error(tmp_path):
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not a readable Parquet"):
        read_catalogue(path)
