"""Catalogues as people have them, from public reports: what is read, which photos are found, what each column is."""

import bz2
import gzip
import json
import sqlite3
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fmtl.catalogue.columns import Columns
from fmtl.catalogue.photos.finding import best_finder
from fmtl.catalogue.photos.folder import ImageFolder
from fmtl.catalogue.table import Catalogue
from fmtl.commands.prepare import build_dataset
from fmtl.dataset import places, steps
from fmtl.dataset.draft import Draft
from fmtl.dataset.prepared import GROUP
from fmtl.errors import DataError
from fmtl.settings.schema import PrepareSettings

N = 24


@dataclass(frozen=True)
class Read:
    """A table that was read, up to where photos are decoded."""

    table: Catalogue
    columns: Columns
    draft: Draft
    problems: dict

    @property
    def labels(self) -> dict[str, list[str]]:
        """Classes by column."""
        return {column: sorted(self.draft.labels[column].dropna().unique()) for column in self.draft.labels}

    @property
    def notes(self) -> str:
        return "\n".join(map(str, self.draft.notes))

    @property
    def paths(self) -> list[str]:
        return self.draft.table["path"].tolist()


def read(table: Path, **options) -> Read:
    """As ``prepare`` reads it."""
    plan = PrepareSettings(table=str(table), out=str(table.parent / "out"), **options).resolve()
    finders = places.finders(plan)
    catalogue, columns = places.read_tables(plan, finders)
    draft = steps.begin(catalogue, columns, plan)
    finder = best_finder(finders, draft.table["path"].tolist())
    return Read(catalogue, columns, *steps.find_photos(draft, finder))


def colour(i: int) -> str:
    return "red" if i % 2 else "blue"


def kind(i: int) -> str:
    return "hat" if i % 3 else "bag"


def put(folder: Path, names) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / name, "PNG")


@pytest.fixture
def shop(tmp_path) -> Path:
    """A folder with photos ``images/1.png`` and so on."""
    put(tmp_path / "images", [f"{i}.png" for i in range(1, N + 1)])
    return tmp_path


def write(path: Path, header: str, row, *, encoding="utf-8", n=N, line="\n") -> Path:
    text = line.join([header, *(row(i) for i in range(1, n + 1))]) + line
    path.write_bytes(text.encode(encoding))
    return path


PLAIN = [f"{i}.png" for i in range(1, N + 1)]
IMAGE = "image,colour"

# How a table names its photos; all of them are images/1.png and so on beside it.
SPELLINGS = {
    "below the image folder": ("{i}.png", ""),
    "from the table's folder": ("images/{i}.png", "by their path from the table's folder"),
    "from the table's folder, with a dot": ("./images/{i}.png", "by their path from the table's folder"),
    "with backslashes": ("images\\{i}.png", "by their path from the table's folder"),
    "in full": ("{root}/images/{i}.png", "by their full path"),
    "with a slash in front": ("/{i}.png", "a slash in front"),
    "with the folder and a slash in front": ("/images/{i}.png", "another folder in front"),
    "below a folder of another machine": ("/home/ann/shop/photos/{i}.png", "another folder in front"),
    "below a folder of a Windows machine": ("C:\\shop\\photos\\{i}.png", "another folder in front"),
    "with a folder that is not there": ("photos/{i}.png", "another folder in front"),
    "up and down again": ("../{name}/images/{i}.png", "by their path from the table's folder"),
    "suffix in capitals": ("{i}.PNG", "another case"),
    "with another suffix": ("{i}.jpg", "another suffix or none"),
}


@pytest.mark.parametrize("said", SPELLINGS)
def test_photos_are_found_however_the_table_names_them(shop, said):
    pattern, note = SPELLINGS[said]
    table = write(shop / "t.csv", IMAGE, lambda i: f"{pattern.format(i=i, root=shop, name=shop.name)},{colour(i)}")
    found = read(table)
    assert [Path(path).name for path in found.paths] == PLAIN
    assert note in found.notes and not found.problems


def test_photos_without_a_suffix_are_found_by_the_column_that_names_them(shop):
    found = read(write(shop / "t.csv", "product,photo,colour", lambda i: f"P-{i:04d},{i},{colour(i)}"))
    assert found.paths == PLAIN and "by column 'photo'" in found.notes


def test_ids_that_became_decimal_beside_a_blank_find_their_photos(shop):
    table = write(shop / "t.csv", "id,colour", lambda i: f"{i}.0,{colour(i)}")
    found = read(table, image_template="{id}.png")
    assert found.paths == PLAIN and "24 photos are written as a decimal number: '1.0.png' is 1.png" in found.notes


def test_names_of_another_unicode_form_are_found(tmp_path):
    put(tmp_path / "images", ["gru\u0308n.png", "wei\u00df.png"])
    table = tmp_path / "t.csv"
    table.write_text("image,colour\ngr\u00fcn.png,green\nWEISS.png,white\n", encoding="utf-8")
    assert read(table, label_cols=("colour",)).paths == ["gru\u0308n.png", "wei\u00df.png"]


def test_bare_names_are_found_in_class_folders_where_one_file_fits(tmp_path):
    put(tmp_path / "images", [*(f"{colour(i)}/{i}.png" for i in range(1, 9)), "red/9.png", "blue/9.png"])
    found = read(write(tmp_path / "t.csv", IMAGE, lambda i: f"{i}.png,{colour(i)}", n=9))
    assert found.paths == [*(f"{colour(i)}/{i}.png" for i in range(1, 9)), "9.png"]
    assert found.problems == {10: ("several_fit", found.problems[10][1])}
    assert "2 files could be meant: blue/9.png, red/9.png" in found.problems[10][1]


def test_a_photo_that_is_missing_in_its_folder_is_not_taken_from_another(tmp_path):
    put(tmp_path / "images", ["train/1.png", "val/2.png", "3.png"])
    (tmp_path / "t.csv").write_text("image,colour\ntrain/1.png,a\nval/1.png,b\nval/2.png,a\nval/3.png,b\n")
    assert read(tmp_path / "t.csv").paths == ["train/1.png", "val/1.png", "val/2.png", "val/3.png"]


def test_names_as_addresses_write_them_are_found_and_several_in_a_cell_are_said(tmp_path):
    put(tmp_path / "images", ["red hat.png", "blue bag.png"])
    (tmp_path / "t.csv").write_text("image,colour\nred%20hat.png,a\nblue%20bag.png,b\nred hat.png|blue bag.png,a\n")
    found = read(tmp_path / "t.csv", label_cols=("colour",))
    assert found.paths[:2] == ["red hat.png", "blue bag.png"]
    assert "names 2 photos; give each a row of its own" in found.problems[4][1]


def test_a_row_does_not_take_the_photo_of_another(tmp_path):
    put(tmp_path / "images", ["0.png", "1.png", "2.png"])
    (tmp_path / "t.csv").write_text("image,colour\n0.png,a\n1.png,b\nextra/0.png,a\nextra/2.png,b\n")
    found = read(tmp_path / "t.csv")
    assert found.paths == ["0.png", "1.png", "extra/0.png", "2.png"] and list(found.problems) == [4]


def test_two_paths_that_would_become_one_file_are_nobodys(tmp_path):
    put(tmp_path / "images", ["1.png", "2.png"])
    (tmp_path / "t.csv").write_text("image,colour\na/1.png,a\nb/1.png,b\na/2.png,a\n")
    found = read(tmp_path / "t.csv", label_cols=("colour",))
    assert found.paths == ["a/1.png", "b/1.png", "2.png"] and sorted(found.problems) == [2, 3]


def test_where_no_photo_is_the_error_says_where_it_was_looked_for_and_what_is_there(tmp_path):
    put(tmp_path / "other", ["a.png"])
    table = write(tmp_path / "t.csv", IMAGE, lambda i: f"{i}.png,{colour(i)}")
    with pytest.raises(DataError, match=r"(?s)'1.png' was looked for in .*other.*holds a.png.*--images names"):
        build_dataset(PrepareSettings(table=str(table), images=str(tmp_path / "other"), out=str(tmp_path / "out")))


def test_photos_in_a_folder_of_another_name_beside_the_table_are_found(tmp_path):
    put(tmp_path / "pictures", PLAIN)
    found = read(write(tmp_path / "t.csv", IMAGE, lambda i: f"{i}.png,{colour(i)}"))
    assert found.paths == [f"pictures/{name}" for name in PLAIN] and "in the only folder that has a file" in found.notes


def test_linked_photos_are_followed_where_that_is_wanted(tmp_path):
    put(tmp_path / "store", PLAIN)
    (tmp_path / "shop" / "images").mkdir(parents=True)
    for name in PLAIN:
        (tmp_path / "shop" / "images" / name).symlink_to(tmp_path / "store" / name)
    table = write(tmp_path / "shop" / "t.csv", IMAGE, lambda i: f"{i}.png,{colour(i)}")
    settings = {"table": str(table), "out": str(tmp_path / "out"), "px": 16}
    with pytest.raises(DataError, match="--follow-links true"):
        build_dataset(PrepareSettings(**settings))
    dataset, _ = build_dataset(PrepareSettings(follow_links=True, **settings))
    assert len(dataset.table) == N
    assert any(f"{N} photos are links that lead out" in note for note in dataset.manifest["notes"])
    again, news = build_dataset(PrepareSettings(follow_links=True, **settings))
    assert again.digest == dataset.digest and news == ["nothing has changed since this dataset was made"]


def test_the_image_column_is_the_one_whose_photos_are_there(shop):
    table = write(
        shop / "a.csv", "image_url,filename,colour", lambda i: f"https://shop.example/{i}.png,{i}.png,{colour(i)}"
    )
    assert read(table).paths == PLAIN
    put(shop / "images", [f"thumb_{i}.png" for i in range(1, N + 1)])
    table = write(shop / "b.csv", "id,thumbnail,image,colour", lambda i: f"{i},thumb_{i}.png,{i}.png,{colour(i)}")
    found = read(table)
    assert found.paths == PLAIN and "from column 'image', not from 'thumbnail'; --image-col" in found.notes


def test_photos_at_addresses_are_named_as_such(shop):
    table = write(shop / "t.csv", IMAGE, lambda i: f"https://shop.example/{i}.png?w=9,{colour(i)}")
    with pytest.raises(DataError, match="all 24 rows were rejected .url 24..*fmtl fetch"):
        build_dataset(PrepareSettings(table=str(table), out=str(shop / "out")))
    fetched = "".join(f"https://shop.example/{i}.png?w=9,{i}.png,ok\n" for i in range(1, N + 1))
    (shop / "images" / "fetched.csv").write_text("url,path,status\n" + fetched)
    assert read(table).paths == PLAIN


# How a table is written. Each has the colours and kinds of the plain one.

ROW = "{i},{i}.png,{c},{k}"
FILES = {
    "text over several lines": (
        "id,image,colour,kind,text", ROW + ',"Soft and light.\nMade of cotton, linen, wool, silk"',
    ),
    "backslash before a quote": ("id,image,colour,kind,text", ROW + ',"12\\" wide, said ""she"""'),
    "Excel's hint": ("sep=;\nid;image;colour;kind", ROW.replace(",", ";")),
    "commas in a header of semicolons": (
        "id;image;colour;kind;share in %, by weight, of the shell, dry", ROW.replace(",", ";") + ";80",
    ),
    "decimal commas": ("id;image;colour;kind;price", ROW.replace(",", ";") + ";{i},99"),
    "semicolons in text": ("id,image,colour,kind,text", ROW + ",soft; light {i}; warm"),
    "title lines": ("Product export 2024-05-01,,,\n,,,\nid,image,colour,kind", ROW),
    "title lines of one field": ("Product export\n\nid,image,colour,kind", ROW),
    "empty columns": ("id,image,colour,kind,,", ROW + ",,"),
    "a comma at the end of each row": ("id,image,colour,kind", ROW + ","),
    "a column without a name": (",image,colour,kind", ROW),
    "a line break in a name": ('id,image,"colour",kind,"price\nin EUR"', ROW + ",9"),
    "spaces around quotes' cells": ("id,image,colour,kind", '{i},"{i}.png","{c}","{k}"'),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_tables_are_read_however_they_are_written(shop, name):
    header, row = FILES[name]
    table = write(shop / "t.csv", header, lambda i: row.format(i=i, c=colour(i), k=kind(i)))
    found = read(table)
    assert found.paths == PLAIN and not found.table.rejects
    assert found.labels == {"colour": ["blue", "red"], "kind": ["bag", "hat"]}


def test_a_table_without_a_header_is_an_error_that_says_so(shop):
    table = write(shop / "t.csv", "0.png,red", lambda i: f"{i}.png,{colour(i)}")
    with pytest.raises(DataError, match="line 1: looks like a row, not like a header: '0.png', 'red'"):
        read(table)


def test_rows_that_all_have_a_field_too_many_are_an_error_with_the_numbers(shop):
    table = write(shop / "t.csv", "image,colour", lambda i: f"{i}.png,{colour(i)},x")
    with pytest.raises(DataError, match="none of 24 rows fits the header of 2 columns.*line 2: 3 fields instead of 2"):
        read(table)


def test_a_name_with_a_comma_can_be_named(shop):
    table = write(shop / "t.csv", 'image,colour,"kind, of goods"', lambda i: f"{i}.png,{colour(i)},{kind(i)}")
    assert list(read(table, label_cols='"kind, of goods",colour').labels) == ["kind, of goods", "colour"]
    with pytest.raises(DataError, match="stands in double quotes"):
        read(table, label_cols="kind, of goods")


@pytest.mark.parametrize(
    ("encoding", "words", "said"),
    [
        ("cp1252", ("Men\u2019s", "\u0152uvre"), "--encoding cp1252"),
        ("latin-1", ("gr\u00fcn", "wei\u00df"), "--encoding latin-1"),
        ("utf-16-le", ("gr\u00fcn", "wei\u00df"), "--encoding utf-16-le"),
        ("utf-8-sig", ("gr\u00fcn", "\u7ea2\u8272"), ""),
    ],
)
def test_encodings_are_guessed_where_that_is_safe_and_said(shop, encoding, words, said):
    table = write(shop / "t.csv", "image,label", lambda i: f"{i}.png,{words[i % 2]}", encoding=encoding)
    found = read(table)
    assert found.labels == {"label": sorted(words)} and said in found.notes


def test_an_encoding_that_cannot_be_guessed_is_an_error_that_shows_how_it_would_read(shop):
    table = write(shop / "t.csv", "image,label", lambda i: f"{i}.png,{('красный', 'синий')[i % 2]}", encoding="cp1251")
    with pytest.raises(DataError, match="line 2, byte.*--encoding cp1251 reads '.*синий"):
        read(table)
    assert read(table, encoding="cp1251").labels == {"label": ["красный", "синий"]}


def frame() -> pd.DataFrame:
    numbers = range(1, N + 1)
    return pd.DataFrame({"id": numbers, "image": PLAIN, "colour": map(colour, numbers), "kind": map(kind, numbers)})


def test_packed_tables_and_other_formats_are_read(shop):
    text = frame().to_csv(index=False).encode()
    (shop / "a.csv.gz").write_bytes(gzip.compress(text))
    (shop / "b.csv.bz2").write_bytes(bz2.compress(text))
    with pa.output_stream(shop / "c.csv.zst", compression="zstd") as file:
        file.write(text)
    frame().to_json(shop / "d.jsonl", orient="records", lines=True)
    frame().to_json(shop / "e.json", orient="records")
    frame().to_parquet(shop / "f.data")
    with pd.ExcelWriter(shop / "g.xlsx") as book:
        frame().assign(id=frame()["id"].astype(float)).to_excel(book, sheet_name="Export", index=False, startrow=2)
        pd.DataFrame({"x": [1]}).to_excel(book, sheet_name="Notes", index=False)
    tables = [read(path) for path in sorted(shop.glob("*.*"))]
    assert len(tables) == 7
    for found in tables:
        assert found.paths == PLAIN and found.draft.table["id"].tolist() == [str(i) for i in range(1, N + 1)]
        assert found.labels == {"colour": ["blue", "red"], "kind": ["bag", "hat"]}
    assert "sheet 'Export' is read, not 'Notes'; --sheet names another" in tables[-1].notes


def test_cells_of_a_workbook_become_the_text_that_is_seen(shop):
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["image", "size", "new", "day", "note"])
    for i in range(1, N + 1):
        sheet.append([f"{i}.png", 36.0 if i % 2 else 37.5, i % 3 == 0, pd.Timestamp(2024, 5, 1 + i % 2), None])
    book.save(shop / "t.xlsx")
    found = read(shop / "t.xlsx", label_cols=("size", "new", "day"))
    assert found.labels == {"size": ["36", "37.5"], "new": ["False", "True"], "day": ["2024-05-01", "2024-05-02"]}
    with pytest.raises(DataError, match="no sheet 'Sheat'; did you mean 'Sheet'"):
        read(shop / "t.xlsx", sheet="Sheat")


def test_files_that_are_no_table_are_named_for_what_they_are(shop):
    with zipfile.ZipFile(shop / "a.xlsx", "w") as file:
        file.writestr("[Content_Types].xml", "<Types/>")
        file.writestr("xl/workbook.xml", "<workbook/>")
    with zipfile.ZipFile(shop / "b.zip", "w") as file:
        file.writestr("t.csv", "image,colour")
    pa.feather.write_feather(pa.table({"image": PLAIN}), shop / "c.feather")
    sqlite3.connect(shop / "d.db").execute("create table t (x)").connection.commit()
    (shop / "e.xls").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(100))
    (shop / "f.pkl").write_bytes(b"\x80\x04\x95" + bytes(100))
    (shop / "g.csv").write_bytes((shop / "images" / "1.png").read_bytes())
    (shop / "h.csv.gz").write_bytes(gzip.compress(b"image,colour\n" * 1000)[:-20])
    words = ("not a readable workbook", "a zip archive", "Feather", "SQLite", "save it as .xlsx or CSV", "a pickle",
             "a photo", "can't be unpacked")  # fmt: skip
    for path, word in zip(sorted(p for p in shop.iterdir() if p.is_file()), words, strict=True):
        with pytest.raises(DataError, match=word) as caught:
            read(path)
        assert path.name in str(caught.value) and "encoding" not in str(caught.value)


def test_json_lines_that_are_none_become_rejects(shop):
    lines = [json.dumps({"image": f"{i}.png", "colour": colour(i), "tags": ["a", "b"]}) for i in range(1, N + 1)]
    (shop / "t.jsonl").write_text("\n".join([*lines[:3], "{broken", *lines[3:], "[1]"]) + "\n")
    found = read(shop / "t.jsonl")
    assert [(r.line, r.reason) for r in found.table.rejects] == [(4, "not_json"), (26, "not_json")]
    assert found.paths == PLAIN and list(found.labels) == ["colour"]


def test_folders_of_parquet_as_other_programs_write_them(shop):
    table = pa.table({"image": PLAIN, "colour": list(map(colour, range(1, N + 1))), "kind": ["hat", "bag"] * 12})
    pq.write_to_dataset(table, shop / "hive", partition_cols=["colour"])
    (shop / "hive" / "_delta_log").mkdir()
    pq.write_table(pa.table({"x": [1]}), shop / "hive" / "_delta_log" / "checkpoint.parquet")
    found = read(shop / "hive", images=str(shop / "images"))
    assert sorted(found.paths) == sorted(PLAIN)
    assert found.labels == {"kind": ["bag", "hat"], "colour": ["blue", "red"]}
    assert "columns from the names of folders: colour" in found.notes and "a Delta table" in found.notes

    (shop / "parts").mkdir()
    pq.write_table(table.slice(0, 12).append_column("size", pa.nulls(12)), shop / "parts" / "0.parquet")
    other = table.slice(12).append_column("size", pa.array(["S", "M"] * 6)).select(["size", "kind", "colour", "image"])
    pq.write_table(other, shop / "parts" / "1.parquet")
    found = read(shop / "parts", images=str(shop / "images"))
    assert found.paths == PLAIN and found.labels["size"] == ["M", "S"]


@pytest.mark.parametrize("tags", ["Men|Shoes|Casual|Low", "red;cotton;summer"])
@pytest.mark.parametrize("title", ["", "Export of 2024\n"])
def test_marks_inside_one_column_do_not_take_the_place_of_the_delimiter(shop, tags, title):
    found = read(write(shop / "t.csv", f"{title}id,image,kind,tags", lambda i: f"{i},{i}.png,{kind(i)},{tags}"))
    assert found.table.frame.columns.tolist() == ["id", "image", "kind", "tags"] and found.paths == PLAIN


def test_a_title_of_several_cells_is_no_header(shop):
    found = read(
        write(shop / "t.csv", "Product export,2024-05-01,\nid,image,colour", lambda i: f"{i},{i}.png,{colour(i)}")
    )
    assert found.paths == PLAIN and found.labels == {"colour": ["blue", "red"]}


def test_a_header_of_numbers_is_a_header(shop):
    found = read(write(shop / "t.csv", "image,colour,0,1", lambda i: f"{i}.png,{colour(i)},{i % 2},{1 - i % 2}"))
    assert found.paths == PLAIN and list(found.labels) == ["colour"]


def test_a_header_that_joined_files_repeat_is_no_product(shop):
    table = write(shop / "t.csv", IMAGE, lambda i: f"{i}.png,{colour(i)}" + ("\nimage,colour" if i == 9 else ""))
    found = read(table)
    assert found.labels == {"colour": ["blue", "red"]} and found.paths == PLAIN
    assert [(reject.line, reject.reason) for reject in found.table.rejects] == [(11, "header_again")]


def test_json_as_other_programs_arrange_it_is_read(shop):
    frame().to_json(shop / "a.json")
    (shop / "b.json").write_text(json.dumps({"data": frame().to_dict("records"), "total": N}, indent=1))
    for name in ("a.json", "b.json"):
        found = read(shop / name)
        assert found.paths == PLAIN and found.labels == {"colour": ["blue", "red"], "kind": ["bag", "hat"]}


def test_code_pages_whose_letters_look_western_are_not_guessed(shop):
    for encoding, words in {"cp1250": ("biały", "żółty"), "cp1254": ("kırmızı", "yeşil")}.items():
        table = write(shop / "t.csv", "image,label", lambda i, w=words: f"{i}.png,{w[i % 2]}", encoding=encoding)
        with pytest.raises(DataError, match="not utf-8"):
            read(table)
        assert read(table, encoding=encoding).labels == {"label": sorted(words)}


def test_two_tables_with_photos_in_their_cells_are_training_and_test(shop):
    for part in ("train", "test"):
        cells = [{"bytes": part.encode(), "path": None}] * 8
        pq.write_table(pa.table({"image": cells, "colour": ["red", "blue"] * 4}), shop / f"{part}.parquet")
    found = read(shop / "train.parquet", test_table=str(shop / "test.parquet"))
    assert len(found.draft.table) == 16 and len(found.table.cells) == 16 and not found.draft.rejects
    with pytest.raises(DataError, match="both tables must have them in one column"):
        write(shop / "t.csv", IMAGE, lambda i: f"{i}.png,{colour(i)}")
        read(shop / "train.parquet", test_table=str(shop / "t.csv"))


def test_two_tables_are_training_and_test(shop):
    write(shop / "train.csv", "id,image,colour", lambda i: f"{i},{i}.png,{colour(i)}", n=16)
    (shop / "test.csv").write_text(
        "id,colour,image\n" + "".join(f"{i},{colour(i)},{i}.png\n" for i in range(17, 25)) + "25,red\n"
    )
    settings = PrepareSettings(
        table=str(shop / "train.csv"), test_table=str(shop / "test.csv"), out=str(shop / "out"), px=16
    )
    dataset, _ = build_dataset(settings)
    assert dataset.table["split"].tolist()[16:] == ["test"] * 8
    assert set(dataset.table["split"][:16]) == {"train", "val"}
    rejects = pd.read_csv(dataset.folder / "rejects.csv")
    assert rejects["line"].tolist() == [27] and rejects["detail"][0].startswith("test.csv, line 10: 2 fields")


# What each column is.


def test_what_is_no_attribute_of_a_photo_is_left_out_with_its_reason(shop):
    def row(i):
        return (
            f"{i}.png;{colour(i)};{i % 7 + 10},99;{i % 4 * 10}%;2024-05-{i % 20 + 1:02d} 10:00;s{i % 7}@shop.example;"
            f"https://cdn.example/{i % 9}.jpg?w=500;$ {i % 5 + 1},000.00;{i % 12 + 1}:30 pm;"
            f"A very soft and warm thing no. {i % 4};{i % 3 + 7}. May 2024"
        )

    head = "image;colour;price;discount;created;mail;link;cost;hour;text;day"
    found = read(write(shop / "t.csv", head, row))
    assert list(found.labels) == ["colour"]
    for column, word in {"price": "numbers", "discount": "percentages", "created": "dates", "mail": "e-mail",
                         "link": "addresses", "cost": "amounts", "hour": "times", "text": "free text",
                         "day": "dates"}.items():  # fmt: skip
        assert f"column '{column}' left out: {word}" in found.notes, column
    assert list(read(shop / "t.csv", label_cols=("discount",)).labels) == ["discount"]


def test_columns_and_file_names_that_tell_products_keep_them_together(tmp_path):
    views = [(s, v) for s in range(1, 41) for v in ("front", "back", "side")]
    put(tmp_path / "images", [f"SKU{s:03d}_{v}.png" for s, v in views])
    head = "sku,image,colour,kind\n"
    rows = "".join(f"SKU-{s:03d},SKU{s:03d}_{v}.png,{colour(s)},{kind(s)}\n" for s, v in views)
    (tmp_path / "a.csv").write_text(head + rows)
    found = read(tmp_path / "a.csv")
    assert list(found.columns.groups) == ["sku"] and list(found.labels) == ["colour", "kind"]
    assert "column 'sku' tells products: 40 of them in 120 rows" in found.notes
    (tmp_path / "b.csv").write_text((head + rows).replace("SKU-", "").replace("sku,", "n,", 1))
    found = read(tmp_path / "b.csv")
    assert list(found.columns.groups) == ["file names"] and "views of 40 products" in found.notes
    assert found.columns.groups["file names"].tolist() == [f"SKU{s:03d}" for s, _ in views]
    assert not read(tmp_path / "b.csv", group_col="none").columns.groups

    dataset, _ = build_dataset(PrepareSettings(table=str(tmp_path / "a.csv"), out=str(tmp_path / "out"), px=16))
    products = dataset.table["path"].str[:6]
    assert (dataset.table.groupby(products)["split"].nunique() == 1).all() and dataset.table["split"].nunique() == 3


VIEWS = {
    "in another language": ("A{p}_{v}.jpg", ("vorne", "hinten")),
    "by letters": ("A{p}{v}.jpg", "abc"),
    "by numbers": ("p{p}-{v}.jpg", "123"),
    "some without": ("{p}{v}.jpg", ("", "_2", "_3")),
}


@pytest.mark.parametrize("how", VIEWS)
def test_views_are_told_by_file_names_in_any_language(tmp_path, how):
    pattern, kinds = VIEWS[how]
    rows = [f"{pattern.format(p=p, v=v)},{colour(p)}" for p in range(1000, 1030) for v in kinds]
    (tmp_path / "t.csv").write_text("\n".join(["image,colour", *rows]) + "\n")
    groups = read(tmp_path / "t.csv").columns.groups["file names"]
    assert groups.nunique() == 30 and (groups.groupby(groups).size() == len(kinds)).all()


def test_file_names_that_only_look_like_views_group_nothing(tmp_path):
    for names in (
        ["IMG_{i:04d}.jpg"],
        ["{i}.jpg", "{i}-again.jpg"],
        ["2024_{i:02d}.jpg"],
        ["{i:05d}.jpg"],
        [f"2024-05-{d:02d}_{{i}}.jpg" for d in range(1, 7)],
    ):
        rows = [f"{name.format(i=i)},{colour(i)}" for i in range(40) for name in names]
        (tmp_path / "t.csv").write_text("\n".join(["image,colour", *rows]) + "\n")
        assert not read(tmp_path / "t.csv").columns.groups, names


def test_identifiers_under_any_name_tell_products(tmp_path):
    rows = [f"{i}.jpg,A-{1000 + i // 2},{colour(i)}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["Bild,Artikelnummer,Farbe", *rows]) + "\n")
    assert list(read(tmp_path / "t.csv").columns.groups) == ["Artikelnummer"]


def test_columns_that_only_sound_like_products_group_nothing(tmp_path):
    rows = [
        f"{i}.jpg,SKU-{i // 3:04d},{i % 19}.99,C{i % 9}00,{i % 28 + 1:02d}.05.2024,{36 + i % 8},{colour(i)}"
        for i in range(300)
    ]
    head = "image,sku,product_price,colour_code,product_date,item_size,colour"
    (tmp_path / "t.csv").write_text("\n".join([head, *rows]) + "\n")
    assert list(read(tmp_path / "t.csv").columns.groups) == ["sku"]
    rows = [f"{i}.jpg,S-{i // 2:04d},M-{i // 4:04d},X-{i % 97:04d},{colour(i)}" for i in range(300)]
    (tmp_path / "t.csv").write_text("\n".join(["image,sku,model,ref,colour", *rows]) + "\n")
    assert list(read(tmp_path / "t.csv").columns.groups) == ["sku", "model"]  # ref crosses them


def test_numbers_are_classes_where_the_column_says_so(shop):
    found = read(write(shop / "t.csv", "image,label,year", lambda i: f"{i}.png,{i % 3},{2010 + i % 3}"))
    assert found.labels == {"label": ["0", "1", "2"]} and "'label' is taken for classes by its name" in found.notes


def test_a_style_of_many_rows_is_an_attribute(shop):
    table = write(shop / "t.csv", "image,style,item", lambda i: f"{i}.png,{('casual', 'formal')[i % 2]},{kind(i)}")
    assert list(read(table).labels) == ["style", "item"]


def test_a_split_column_is_used_or_said_not_to_be(shop):
    table = write(
        shop / "t.csv", "image,colour,split", lambda i: f"{i}.png,{colour(i // 3)},{('train', 'val', 'test')[i % 3]}"
    )
    found = read(table)
    assert found.columns.split == "split" and list(found.labels) == ["colour"]
    assert "column 'split' says which split a photo is in; --split-col none draws them" in found.notes
    found = read(table, split_col="none")
    assert found.columns.split is None and list(found.labels) == ["colour"]
    found = read(table, test_table=str(table), split_col="none")
    assert found.columns.split == places.TEST_TABLE and "split" not in found.labels
    dataset, _ = build_dataset(PrepareSettings(table=str(table), out=str(shop / "out"), px=16))
    assert dataset.table["split"].tolist() == [("train", "val", "test")[i % 3] for i in range(1, N + 1)]
    table.write_text(table.read_text().replace("4.png,red,val", "4.png,red,tset"))
    found = read(table)
    assert found.columns.split is None and list(found.labels) == ["colour"]
    assert "warning: column 'split' looks like a split and is not used, since line 5 says 'tset'" in found.notes
    named = write(
        shop / "g.csv", "image,colour,data_split", lambda i: f"{i}.png,{colour(i)},{('train', 'test')[i % 2]}"
    )
    assert read(named).columns.split == "data_split"
    fold = write(shop / "f.csv", "image,colour,fold", lambda i: f"{i}.png,{colour(i)},f{i % 4}")
    assert list(read(fold).labels) == ["colour"]


def test_an_id_that_is_a_label_too_groups_nothing(shop):
    table = write(shop / "t.csv", "id,image,colour", lambda i: f"{i % 4},{i}.png,{colour(i)}")
    assert not read(table, label_cols=("id", "colour")).columns.groups
    assert list(read(table).columns.groups) == ["id"]


# Labels.


def test_several_values_in_a_cell_are_recognised_and_the_first_can_be_taken(shop):
    def row(i):
        colours, materials = ["red|blue", "red", "blue", "blue|red"][i % 4], ["Cotton", "Wool"][i % 2 :]
        return f'{i}.png,{colours},"{materials}",{kind(i)}'

    table = write(shop / "t.csv", "image,colour,material,kind", row)
    found = read(table)
    assert list(found.labels) == ["kind"]
    assert "warning: column 'colour' left out: several values in a cell, separated by '|'" in found.notes
    assert "warning: column 'material' left out: several values in a cell, separated by the commas" in found.notes
    found = read(table, first_value=("colour", "material"))
    assert found.labels == {"colour": ["blue", "red"], "material": ["Cotton", "Wool"], "kind": ["bag", "hat"]}
    assert "the first counts" in found.notes
    lists = pa.table({"image": PLAIN, "colour": ["red", "blue"] * 12, "material": [["wool"], ["wool", "silk"]] * 12})
    pq.write_table(lists, shop / "t.parquet")
    assert (
        list(read(shop / "t.parquet").labels) == ["colour"]
        and "column 'material' left out" in read(shop / "t.parquet").notes
    )
    assert read(shop / "t.parquet", first_value=("material",)).labels["material"] == ["wool"]


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (("36", "36.0", "38", "3.8"), ["3.8", "36", "38"]),
        (("36.0", "38.0"), ["36", "38"]),
        (("1.50", "1.5", "2.0"), ["1.5", "2.0"]),
        (("007", "7", "7.0", "8"), ["007", "7", "8"]),
        (("36", "36.0", "XL"), ["36", "XL"]),
        (("1e3000000", "3", "12e45678901234567890123"), ["12e45678901234567890123", "1e3000000", "3"]),
    ],
)
def test_numbers_are_compared_as_numbers(shop, cells, labels):
    found = read(
        write(shop / "t.csv", "image,size", lambda i: f"{i}.png,{cells[i % len(cells)]}"), label_cols=("size",)
    )
    assert found.labels["size"] == labels and "look alike" not in found.notes


def test_classes_that_are_numbers_are_ordered_as_numbers(shop):
    cells = ("9", "10", "8.5", "XL", "100")
    table = write(shop / "t.csv", "image,size", lambda i: f"{i}.png,{cells[i % 5]}")
    dataset, _ = build_dataset(PrepareSettings(table=str(table), out=str(shop / "out"), px=16, label_cols=("size",)))
    assert dataset.tasks[0].classes == ("8.5", "9", "10", "100", "XL")


def test_entities_are_read_and_labels_of_a_wrong_encoding_are_reported(shop):
    cells = ("Tops &amp; Tees", "Tops & Tees", "grÃ¼n", "wei\u00df")
    found = read(write(shop / "t.csv", "image,kind", lambda i: f"{i}.png,{cells[i % 4]}"))
    assert found.labels == {"kind": sorted(set(cells) - {"Tops &amp; Tees"})}
    assert (
        "6 labels that were read in a wrong encoding before they came into the table: 'grÃ¼n' for 'grün'" in found.notes
    )


def test_notes_on_labels_that_look_alike_are_few_and_counted(tmp_path):
    animals = ["Fox", "Bear", "Leaf", "Stone", "River"]
    brands = [f"{a}{b}{s}" for a in animals for b in ("land", "wood") for s in ("", "s")]
    put(tmp_path / "images", [f"{i}.png" for i in range(60)])
    rows = "".join(f"{i}.png,{brands[i % 20]}\n" for i in range(60))
    (tmp_path / "t.csv").write_text("image,brand\n" + rows)
    notes = [line for line in read(tmp_path / "t.csv").notes.splitlines() if "look alike" in line]
    assert len(notes) == 6 and "5 more groups" in notes[-1]


def test_a_first_try_takes_each_class_in_its_share(tmp_path):
    put(tmp_path / "images", [f"{i}.png" for i in range(200)])
    rows = "".join(f"{i}.png,{'abc'[(i % 10 > 5) + (i % 10 > 8)]}\n" for i in range(200))
    (tmp_path / "t.csv").write_text("image,kind\n" + rows)
    dataset, _ = build_dataset(
        PrepareSettings(table=str(tmp_path / "t.csv"), out=str(tmp_path / "out"), px=16, limit=50)
    )
    counts = dataset.table["kind"].value_counts()
    assert len(dataset.table) == 50 and dataset.manifest["counts"]["reasons"] == {"not_taken": 150}
    assert [counts[k] for k in range(3)] == pytest.approx([30, 15, 5], abs=1)


def test_a_first_try_keeps_products_whole_and_still_says_what_is_missing(tmp_path):
    put(tmp_path / "images", [f"{i}.png" for i in range(90)])
    rows = "".join(f"{i}.png,SKU-{i // 3:03d},{'ab'[i // 3 % 2]}\n" for i in range(90))
    (tmp_path / "t.csv").write_text("image,sku,kind\n" + rows)
    settings = {"table": str(tmp_path / "t.csv"), "out": str(tmp_path / "out"), "px": 16, "limit": 30}
    dataset, _ = build_dataset(PrepareSettings(**settings))
    assert (dataset.table.groupby(GROUP).size() == 3).all() and len(dataset.table) == 30
    with pytest.raises(DataError, match="all 30 rows were rejected .missing 30"):
        build_dataset(PrepareSettings(images=str(tmp_path), **settings | {"table": str(shifted(tmp_path))}))


def shifted(folder: Path) -> Path:
    """The same table with photos that are nowhere."""
    text = (folder / "t.csv").read_text()
    (folder / "u.csv").write_text(text.replace(".png", "-none.png"))
    return folder / "u.csv"


def test_finding_takes_a_look_at_each_folder_once(tmp_path, monkeypatch):
    put(tmp_path / "images", [f"photos/{i}.jpg" for i in range(20)])
    table = write(tmp_path / "t.csv", IMAGE, lambda i: f"photos/{i - 1}.JPG,{colour(i)}", n=20)
    looked = []
    names = ImageFolder.names
    monkeypatch.setattr(
        ImageFolder, "names", lambda self, folder: looked.append((self.root, folder)) or names(self, folder)
    )
    assert len(read(table).paths) == 20
    assert len(looked) == len(set(looked))
