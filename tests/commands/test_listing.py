"""predict takes what prepare takes, and every file is a row or counted."""

import os
import subprocess
import sys
from pathlib import Path

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fmtl.catalogue.photos.folder import ImageError
from fmtl.commands.labelling.listing import list_photos
from fmtl.commands.labelling.predictions import Predictions
from fmtl.commands.predict import predict
from fmtl.errors import DataError, EnvironmentFault, UsageError
from fmtl.settings.schema import PredictSettings

NAMES = tuple(f"{i}.png" for i in range(1, 7))
ROWS = "id,image\n" + "".join(f"{i},{i}.png\n" for i in range(1, 7))


def listed(**settings):
    return list_photos(PredictSettings(model="m", **settings))


def read(listing) -> list[bytes | str]:
    """The content of each photo, or its reason."""
    found = []
    for photo in listing.photos:
        try:
            if isinstance(photo, ImageError):
                raise photo
            found.append(photo.read())
        except ImageError as error:
            found.append(str(error.reason))
    return found


@pytest.fixture
def shop(write_catalogue):
    return write_catalogue(ROWS, NAMES).parent


@pytest.fixture
def contents(shop):
    return [(shop / "images" / name).read_bytes() for name in NAMES]


def test_every_file_of_a_folder_is_a_row_or_counted(shop, tmp_path):
    folder = shop / "images"
    for name in ("a.jfif", "b.JPE", "c", "d.heic", "e.avif"):
        (folder / name).write_bytes(b"x")
    for name in ("notes.txt", "t.csv", "u.csv", ".hidden.png"):
        (folder / name).write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    for i in range(3):
        (tmp_path / "elsewhere" / f"{i}.png").write_bytes(b"x")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "up").symlink_to(tmp_path)
    found = listed(images=str(folder))
    want = sorted([*NAMES, "a.jfif", "b.JPE", "c", "d.heic", "e.avif", "linked/0.png", "linked/1.png", "linked/2.png"])
    assert found.names == want
    assert read(found)[-3:] == ["outside_root"] * 3
    notes = "\n".join(map(str, found.notes))
    assert "3 files are no photos by their names and were passed over: 2 .csv, 1 .txt" in notes
    assert "3 files are links that lead out" in notes and "--follow-links true" in notes
    assert read(listed(images=str(folder), follow_links=True))[-3:] == [b"x"] * 3


def test_a_name_that_is_not_utf_8_does_not_lose_the_others(shop):
    os.rename(os.fsencode(shop / "images") + b"/1.png", os.fsencode(shop / "images") + b"/caf\xe9.png")
    found = listed(images=str(shop / "images"))
    assert found.names == [*NAMES[1:], "caf\\xe9.png"] and all(isinstance(content, bytes) for content in read(found))
    assert pd.DataFrame({"image": found.names}).to_csv().encode()


@pytest.mark.parametrize("how", ["table beside", "folder named", "template", "preset", "workbook", "list", "wildcard"])
def test_photos_are_named_as_prepare_takes_them(shop, contents, monkeypatch, how):
    images = shop / "images"
    if how == "table beside":
        found = listed(images=str(shop / "products.csv"))
    elif how == "folder named":
        images = images.rename(shop / "other")
        found = listed(table=str(shop / "products.csv"), images=str(images))
    elif how == "template":
        (shop / "t.csv").write_bytes(
            "nr;größe\n".encode("cp1252") + "".join(f"{i};{i}\n" for i in range(1, 7)).encode()
        )
        found = listed(table=str(shop / "t.csv"), image_template="{nr}.png")
    elif how == "preset":
        for name in NAMES:
            (images / name).rename(images / name.replace("png", "jpg"))
        text = "id,gender,productDisplayName\n" + "".join(f"{i},Men,Shirt {i}\n" for i in range(1, 7))
        (shop / "styles.csv").write_text(text.replace("Shirt 3", "Shirt 3, blue"))
        found = listed(table=str(shop / "styles.csv"), preset="kaggle-fashion")
    elif how == "workbook":
        pd.DataFrame({"photo": [f"images/{name}" for name in NAMES]}).to_excel(shop / "t.xlsx", index=False)
        found = listed(images=str(shop / "t.xlsx"))
    elif how == "list":
        (shop / "list.txt").write_text("".join(f"images/{name}\n" for name in NAMES))
        found = listed(images=str(shop / "list.txt"))
    else:
        monkeypatch.chdir(shop)
        found = listed(images="images/*.png")
    assert read(found) == contents


def test_photos_in_a_parquet_table_are_listed(shop, contents):
    cells = [{"bytes": content, "path": name} for content, name in zip(contents, NAMES, strict=True)]
    pq.write_table(pa.table({"image": cells}), shop / "t.parquet", row_group_size=2)
    found = listed(images=str(shop / "t.parquet"))
    assert found.names == [*NAMES] and read(found) == contents


def test_a_bad_line_is_a_row_and_does_not_stop_the_others(shop, contents):
    (shop / "products.csv").write_text(ROWS.replace("3,3.png\n", "3,3.png\nbroken\n").replace("5.png", "none.png"))
    found = listed(images=str(shop / "products.csv"))
    assert found.names == [*NAMES[:3], "", "4.png", "none.png", "6.png"]
    assert read(found) == [*contents[:3], "short_row", contents[3], "missing", contents[5]]
    assert any("1 lines could not be read; the first: line 5" in str(note) for note in found.notes)


@pytest.mark.parametrize("images", ["nothing", "a.png, b.png", "no/*.png"])
def test_what_is_not_there_is_an_error(tmp_path, monkeypatch, images):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="neither a file nor a folder"):
        listed(images=images)


def test_nothing_labelled_is_an_error_after_the_rows_were_written(store, model, shop):
    (shop / "elsewhere").mkdir()
    with pytest.raises(
        DataError, match=r"none of 6 photos could be labelled \(missing 6\|6 missing\)|none of 6 photos"
    ):
        predict(
            PredictSettings(
                model=str(model), table=str(shop / "products.csv"), images=str(shop / "elsewhere"), out="p.csv"
            )
        )
    assert pd.read_csv("p.csv")["status"].tolist() == ["missing"] * 6


def test_the_output_is_checked_before_the_work(store, shop):
    with pytest.raises(EnvironmentFault, match="can't be written"):
        predict(PredictSettings(model="no model", images=str(shop / "images"), out="/proc/none/p.csv"))


def test_names_stay_what_they_are_unless_it_is_for_a_spreadsheet(store, model, shop):
    os.rename(shop / "images" / "1.png", shop / "images" / "-front.png")
    settings = {"model": str(model), "images": str(shop / "images")}
    predict(PredictSettings(out="a.csv", **settings))
    assert pd.read_csv("a.csv")["image"].tolist()[0] == "-front.png"
    predict(PredictSettings(out="b.csv", spreadsheet=True, separator=";", names="attribute", **settings))
    text = (store / "b.csv").read_bytes()
    assert text.startswith(b"\xef\xbb\xbfimage;status;Art des Teils;Art des Teils/confidence")
    assert b"'-front.png" in text


KILLED = """
import os, sys
from fmtl.model.predictor import Predictor
from fmtl.cli import main
batches, done = Predictor.predict_batches, 0
def dying(self, photos, **options):
    global done
    for part in batches(self, photos, **options):
        yield part
        done += 1
        if done == 2: os.kill(os.getpid(), 9)
Predictor.predict_batches = dying
main(sys.argv[1:])
"""


@pytest.mark.parametrize("kind", ["csv", "parquet", "xlsx"])
def test_a_killed_run_goes_on_and_gives_the_file_of_one_that_was_not(store, model, shop, kind):
    """Killed after its second batch of two; then with rows that were written in half."""
    settings = {"model": str(model), "images": str(shop / "images"), "batch_size": 2, "precision": "fp32"}
    whole = predict(PredictSettings(out=f"whole.{kind}", **settings))
    options = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-c", KILLED, "predict", *options, "--out", f"p.{kind}"]
    done = subprocess.run(command, cwd=store, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    part = store / f".p.{kind}.part.csv"
    assert not (store / f"p.{kind}").exists() and len(pd.read_csv(part)) in (2, 4)
    with part.open("a") as file:
        file.write("5.png,ok,")
    resumed = predict(PredictSettings(out=f"p.{kind}", resume=True, **settings))
    pd.testing.assert_frame_equal(resumed, whole)
    if kind != "xlsx":  # which says when it was made
        assert (store / f"p.{kind}").read_bytes() == (store / f"whole.{kind}").read_bytes()
    assert sorted(p.name for p in store.iterdir() if p.name.startswith(".")) == []


def test_rows_made_in_another_way_are_not_continued(store, model, shop):
    settings = {"model": str(model), "images": str(shop / "images"), "out": "p.csv", "batch_size": 2}
    rows = Predictions(Path("p.csv"), key={"model": "another", "top_k": 1}, batch_size=2)
    rows.begin(resume=False)
    rows.append(pd.DataFrame({"image": ["1.png"], "status": ["ok"]}))
    with pytest.raises(UsageError, match="was made with another model, list of photos, "):
        predict(PredictSettings(resume=True, **settings))
    assert len(predict(PredictSettings(**settings))) == 6  # anew


def test_cells_of_a_workbook_and_of_parquet_are_what_they_say(store, tmp_path):
    frame = pd.DataFrame({"image": ["=1+1", "", "NA"], "status": ["ok", "short_row", "ok"],
                          "size": ["36", None, "null"], "size/confidence": [0.1 + 0.2, float("nan"), 1.0]})  # fmt: skip
    for kind in ("xlsx", "parquet", "csv"):
        rows = Predictions(tmp_path / f"p.{kind}", key={}, batch_size=2, numbers=["size/confidence"])
        rows.begin(resume=False)
        rows.append(frame.iloc[:2])
        rows.append(frame.iloc[2:])
        rows.finish(separator=",", spreadsheet=False)
    found = pd.read_parquet(tmp_path / "p.parquet")
    assert found["image"].tolist() == ["=1+1", "", "NA"] and found["size"].fillna("").tolist() == ["36", "", "null"]
    assert found["size/confidence"].tolist()[::2] == [0.1 + 0.2, 1.0]
    assert (tmp_path / "p.csv").read_text() == frame.to_csv(index=False)
    sheet = openpyxl.load_workbook(tmp_path / "p.xlsx")["predictions"]
    cells = list(sheet.iter_rows(min_row=2))
    assert [cell.value for cell in cells[0]] == ["=1+1", "ok", "36", pytest.approx(0.3)] and cells[0][
        0
    ].data_type == "s"
