"""Blank cells filled, and what the table and the model do not agree on."""

import csv
import io

import numpy as np
import openpyxl
import pandas as pd
import pytest
from PIL import Image

from fmtl.commands.predict import predict
from fmtl.errors import DataError, UsageError
from fmtl.settings.schema import PredictSettings
from fmtl.storage import tables

TITLE = "Artikel Frühjahr;;;\r\n"
ROWS = [
    ["Nr", "Bild", "Art des Teils", "Text"],
    ["007", "fotos\\1.png", "", 'mit "Zitat"; und mehr'],
    ["008", "fotos\\2.png", "hat", "schlicht"],
    ["009", "fotos\\3.png", "BAG", "Größe\r\nzweizeilig"],
    ["010", "fotos\\fehlt.png", "", ""],
    ["011", "fotos\\4.png", "Mütze", ""],
    ["012", "fotos\\5.png", "", "zu;viele"],
]


@pytest.fixture
def shop(tmp_path):
    folder = tmp_path / "laden"
    (folder / "fotos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(1, 6):
        Image.fromarray(rng.integers(0, 256, (20, 16, 3), np.uint8)).save(folder / "fotos" / f"{n}.png")
    return folder


def as_csv(rows):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=";").writerows(rows)
    return TITLE + text.getvalue()


def written(folder, kind):
    """The table as its users have it."""
    path = folder / f"tabelle.{kind}"
    if kind == "csv":
        path.write_bytes((as_csv(ROWS) + "013;kaputt\r\n").encode("cp1252"))
    elif kind == "xlsx":
        book = openpyxl.Workbook()
        book.active.append(["Artikel Frühjahr"])
        for row in ROWS:
            book.active.append([cell or None for cell in row])
        book.active["C8"] = "=A1"  # a blank that is none
        book.create_sheet("Hinweise").append(["bleibt"])
        book.save(path)
    else:
        pd.DataFrame(ROWS[1:], columns=ROWS[0]).replace("", None).assign(Preis=[1.5] * 6).to_parquet(path)
    return path


def settings(model, table, out, **options):
    return PredictSettings(model=str(model), table=str(table), fill=str(out), precision="fp32", **options)


def labels_of(predictions):
    return dict(zip(predictions["image"], predictions["Art_des_Teils"], strict=True))


def test_only_blank_cells_of_a_csv_are_filled_byte_for_byte(store, model, shop, capsys):
    table = written(shop, "csv")
    found = predict(settings(model, table, shop / "voll.csv", threshold=0))
    labels = labels_of(found)
    expected = [list(row) for row in ROWS]
    expected[1][2], expected[6][2] = labels["fotos\\1.png"], labels["fotos\\5.png"]
    assert (shop / "voll.csv").read_bytes() == (as_csv(expected) + "013;kaputt\r\n").encode("cp1252")
    told = capsys.readouterr().out
    assert "Art des Teils: 3 blank cells = 2 filled + 0 below 0 + 1 without a photo" in told
    assert "1 are no class of the model, such as 'Mütze'" in told


def test_disagreements_are_the_known_labels_that_differ_most_certain_first(store, model, shop):
    found = predict(PredictSettings(model=str(model), images=str(shop / "fotos"), precision="fp32"))
    labels, sure = labels_of(found), dict(zip(found["image"], found["Art_des_Teils/confidence"], strict=True))
    other = {"hat": "BAG", "bag": "hat"}
    cells = {n: other[labels[f"{n}.png"]] for n in (1, 3, 5)} | {2: labels["2.png"].upper(), 4: "Mütze"}
    rows = "".join(f"A{n},fotos/{n}.png,{cells[n]}\n" for n in range(1, 6))
    (shop / "t.csv").write_text(f"id,image,art des teils\n{rows}")
    predict(settings(model, shop / "t.csv", shop / "voll.csv"))
    told = pd.read_csv(shop / "disagreements.csv")
    order = sorted((1, 3, 5), key=lambda n: -sure[f"{n}.png"])
    wanted = [[n + 1, f"A{n}", f"fotos/{n}.png", "art des teils", cells[n], labels[f"{n}.png"]] for n in order]
    assert told.drop(columns="confidence").to_numpy().tolist() == wanted
    assert told["confidence"].is_monotonic_decreasing


@pytest.mark.parametrize("kind", ["xlsx", "parquet"])
def test_workbooks_and_parquet_stay_what_they_are(store, model, shop, kind):
    table = written(shop, kind)
    labels = labels_of(predict(settings(model, table, shop / f"voll.{kind}", threshold=0)))
    wanted = [row[2] or None for row in ROWS[1:]]
    wanted[0], wanted[5] = labels["fotos\\1.png"], labels["fotos\\5.png"]
    if kind == "parquet":
        before, after = pd.read_parquet(table), pd.read_parquet(shop / "voll.parquet")
        assert after["Art des Teils"].fillna("").tolist() == [label or "" for label in wanted]
        pd.testing.assert_frame_equal(after.drop(columns="Art des Teils"), before.drop(columns="Art des Teils"))
        return
    book = openpyxl.load_workbook(shop / "voll.xlsx")
    assert [sheet.title for sheet in book] == ["Sheet", "Hinweise"]
    cells = [[cell.value for cell in row] for row in book.worksheets[0].iter_rows(min_row=3)]
    wanted[5] = "=A1"
    assert [row[2] for row in cells] == wanted
    assert [row[3] for row in cells] == [(row[3].replace("\r\n", "\n") or None) for row in ROWS[1:]]


def test_nothing_is_filled_below_the_threshold(store, model, shop, capsys):
    table = written(shop, "csv")
    predict(settings(model, table, shop / "voll.csv", threshold=1))
    assert (shop / "voll.csv").read_bytes() == table.read_bytes()
    assert "3 blank cells = 0 filled + 2 below 1 + 1 without a photo" in capsys.readouterr().out


def test_a_label_that_the_encoding_lacks_makes_it_utf8_with_a_mark(store, tmp_path, shop, capsys):
    from fmtl.catalogue.formats import filling
    from fmtl.catalogue.reading import read_catalogue

    path = written(shop, "csv")
    how = {"free_text_col": None, "encoding": None, "quotes": True, "sheet": None}
    notes = filling.fill(path, shop / "f.csv", read_catalogue(path), {3: {"Art des Teils": "Żółty; ciemny"}}, **how)
    assert "'Ż' is no character of latin-1" in str(notes[0])
    assert read_catalogue(shop / "f.csv").frame.loc[3, "Art des Teils"] == "Żółty; ciemny"
    assert (shop / "f.csv").read_bytes().startswith(b"\xef\xbb\xbfArtikel Fr")


def test_into_another_kind_the_rows_that_were_read_go_as_text(store, model, shop, capsys):
    predict(settings(model, written(shop, "csv"), shop / "voll.xlsx", threshold=1))
    assert "of another kind and lacks 1 lines that could not be read" in capsys.readouterr().out
    frame = pd.read_excel(shop / "voll.xlsx", dtype=str)
    assert frame["Nr"].tolist() == [row[0] for row in ROWS[1:]]


def test_own_columns_stand_behind_the_predictions(store, model, shop):
    table = shop / "t.csv"
    table.write_text("sku,image,Art_des_Teils,x/confidence\n007,fotos/1.png,,nan\n008,fotos/2.png,hat,\n")
    found = predict(PredictSettings(model=str(model), table=str(table), keep_columns=True, out="p.parquet"))
    own = ["sku", "table/image", "table/Art_des_Teils", "x/confidence"]
    assert list(found)[-4:] == own
    assert found[own].to_numpy().tolist() == [["007", "fotos/1.png", None, "nan"], ["008", "fotos/2.png", "hat", None]]
    assert pd.read_parquet("p.parquet")["x/confidence"].fillna("").tolist() == ["nan", ""]


@pytest.mark.parametrize("options", [{"out": "t.csv"}, {"fill": "t.csv"}, {"out": "p.csv", "fill": "./p.csv"}])
def test_a_table_is_never_overwritten(store, model, options):
    with pytest.raises(ValueError, match="files of their own"):
        PredictSettings(model=str(model), table="t.csv", **options)


def test_what_can_not_be_filled_is_said_before_the_work(store, model, shop):
    (shop / "t.csv").write_text("image,Farbe\nfotos/1.png,rot\n")
    with pytest.raises(DataError, match=r"no column of what the model tells \(Art des Teils\)"):
        predict(settings(model, shop / "t.csv", shop / "f.csv"))
    with pytest.raises(DataError, match="expected a table"):
        predict(PredictSettings(model=str(model), images=str(shop / "fotos"), fill="f.csv"))
    with pytest.raises(UsageError, match="expected a table"):
        predict(PredictSettings(model=str(model), images=str(shop / "fotos"), keep_columns=True))


def test_text_in_a_workbook_stays_text(tmp_path):
    tables.to_workbook(tmp_path / "a.xlsx", "s", [pd.DataFrame({"=a": ["=1+1", "x\x01y"], "n": [1.5, np.nan]})])
    cells = [[(c.value, c.data_type) for c in row] for row in openpyxl.load_workbook(tmp_path / "a.xlsx")["s"]]
    assert cells == [[("=a", "s"), ("n", "s")], [("=1+1", "s"), (1.5, "n")], [("x?y", "s"), (None, "n")]]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig"])
def test_the_mark_of_an_encoding_is_kept(store, model, shop, encoding):
    mark = {"utf-16-be": "\ufeff"}.get(encoding, "")
    text = mark + "Art des Teils,image\n,fotos/1.png\nhat,fotos/2.png\n"
    (shop / "t.csv").write_bytes(text.encode(encoding))
    found = predict(settings(model, shop / "t.csv", shop / "f.csv", threshold=0))
    label = labels_of(found)["fotos/1.png"]
    assert (shop / "f.csv").read_bytes() == text.replace("\n,", f"\n{label},").encode(encoding)


def test_numbers_that_stand_for_labels_in_parquet_become_text_whole(store, model, shop):
    pd.DataFrame({"image": ["fotos/1.png", "fotos/2.png"], "Art des Teils": [None, 1.0]}).to_parquet(shop / "t.parquet")
    label = labels_of(predict(settings(model, shop / "t.parquet", shop / "f.parquet", threshold=0)))["fotos/1.png"]
    assert pd.read_parquet(shop / "f.parquet")["Art des Teils"].tolist() == [label, "1"]


def test_a_lone_carriage_return_ends_no_row(store, model, shop):
    rows = {"image": ["fotos/1.png", "fotos/2.png"], "Art des Teils": [None, "hat"], "Text": ["a\rb", "c"]}
    pd.DataFrame(rows).to_parquet(shop / "t.parquet")
    found = predict(settings(model, shop / "t.parquet", shop / "f.parquet", keep_columns=True))
    assert found["Text"].tolist() == ["a\rb", "c"]
    assert pd.read_csv("predictions.csv")["Text"].tolist() == ["a\rb", "c"]


def test_formulas_stay_and_it_is_said_that_their_values_are_not_there(store, model, shop, capsys):
    book = openpyxl.Workbook()
    for row in (["image", "Art des Teils", "n"], ["fotos/1.png", None, "=1+1"], ["fotos/2.png", "hat", "x"]):
        book.active.append(row)
    book.save(shop / "t.xlsx")
    predict(settings(model, shop / "t.xlsx", shop / "f.xlsx", threshold=0))
    assert openpyxl.load_workbook(shop / "f.xlsx").active["C2"].value == "=1+1"
    assert "blank to other programs until a spreadsheet has saved it" in capsys.readouterr().out


def test_disagreements_replace_no_other_file(model):
    with pytest.raises(ValueError, match=r"disagreements.csv would be overwritten"):
        PredictSettings(model=str(model), table="disagreements.csv", fill="f.csv")
