"""The corpus of bad input: every file and table is handled as its verdict says, and every row is accounted for."""

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus import GREEN, RED, encode, image_cases, plain, put, signpost, textured, write_images
from PIL import Image

from fmtl.catalogue.photos.folder import ImageFolder
from fmtl.commands.prepare import build_dataset
from fmtl.dataset import freshness, shards, workers
from fmtl.dataset.pixels import images
from fmtl.dataset.prepared import GROUP, IMAGES, REJECTS
from fmtl.errors import DataError
from fmtl.settings.schema import PrepareSettings
from fmtl.tasks import IGNORE_INDEX

PX = 48
IMAGE_CASES = list(image_cases())


def build(table: Path, **options):
    settings = {"table": str(table), "out": str(table.parent / "out"), "px": PX, "max_reject_fraction": 1} | options
    return build_dataset(PrepareSettings(**settings))[0]


def check_accounts(dataset) -> pd.DataFrame:
    """Every row read is once in the table or once in the rejects; returns these."""
    counts = dataset.manifest["counts"]
    rejects = pd.read_csv(dataset.folder / REJECTS, dtype=str, keep_default_na=False)
    assert counts["read"] == counts["kept"] + counts["rejected"] == len(dataset.table) + len(rejects)
    assert sum(counts["reasons"].values()) == counts["rejected"]
    assert not rejects["line"].duplicated().any()
    return rejects


@pytest.fixture(scope="module")
def image_corpus(tmp_path_factory):
    """The catalogue of all image cases, prepared: dataset, what was found of each image, and how many files it has."""
    shop = tmp_path_factory.mktemp("corpus") / "shop"
    shop.mkdir()
    num_files = write_images(IMAGE_CASES, shop / "images")
    lines = [f'{i},"{case.path}",{["red", "blue"][i % 2]}' for i, case in enumerate(IMAGE_CASES)]
    (shop / "table.csv").write_text("id,image,colour\n" + "\n".join(lines) + "\n")
    dataset = build(shop / "table.csv", image_col="image")
    rejects = check_accounts(dataset).set_index("id")
    looked = pd.read_parquet(dataset.folder / IMAGES)
    assert len(looked) == len(IMAGE_CASES)
    return dataset, rejects, looked, num_files


def verdict_of(index: int, corpus) -> str:
    """What is wrong with how an image case was handled, or nothing."""
    dataset, rejects, looked, _ = corpus
    case, row = IMAGE_CASES[index], looked.iloc[index]
    found = row["reason"] or "ok"
    if found not in case.verdict.split("|"):
        return f"{case.id} {case.path}: {found} ({row['detail']}), expected {case.verdict}"
    if (str(index) in rejects.index) != (found != "ok"):
        return f"{case.id} {case.path}: not accounted for"
    if found == "ok":
        if case.note and case.note not in row["notes"].split():
            return f"{case.id} {case.path}: notes '{row['notes']}' lack {case.note}"
        position = int(np.flatnonzero(dataset.table["id"] == str(index))[0])
        middle = dataset.pixels(np.array([position]))[0, PX // 2, PX // 2].astype(int)
        if case.colour and np.abs(middle - case.colour).max() > 2:
            return f"{case.id} {case.path}: colour {middle.tolist()}, expected {case.colour}"
    return ""


def test_every_image_is_kept_or_left_out_as_its_verdict_says(image_corpus, capsys):
    problems = [problem for i in range(len(IMAGE_CASES)) if (problem := verdict_of(i, image_corpus))]
    with capsys.disabled():
        handled = len(IMAGE_CASES) - len(problems)
        print(f"\nimage corpus: handled {handled} / {len(IMAGE_CASES)} = {handled / len(IMAGE_CASES):.0%}, "
              f"{image_corpus[3]} files")  # fmt: skip
    assert not problems, "\n".join(problems)
    assert image_corpus[3] >= 300


def test_every_orientation_of_a_photo_gives_the_same_pixels(image_corpus):
    dataset, _, _, _ = image_corpus
    for size in (120, 600):
        want = images.decode(encode(signpost((size, size * 4 // 3)), "PNG"), px=PX).astype(int)
        rows = dataset.table["path"].str.startswith(f"i09-{size}-").to_numpy().nonzero()[0]
        assert len(rows) == sum(case.path.startswith(f"i09-{size}-") for case in IMAGE_CASES) >= 32
        for row, pixels in zip(rows, dataset.pixels(rows).astype(int), strict=True):
            inner = np.abs(want - pixels)[4:-4, 10:-10]
            assert np.median(inner) <= 2 and inner.mean() < 6, dataset.table["path"].iloc[row]


def test_nothing_outside_the_image_folder_is_opened(image_corpus):
    """The same rows, decoded in this process, where every opened path can be seen."""
    dataset, _, _, _ = image_corpus
    root = dataset.folder.parent / "images"
    cases = [case for case in IMAGE_CASES if case.id in ("S01", "S02", "I15")]
    names = [case.path for case in cases]
    job = shards.Job("unused", freshness.scan(names, ImageFolder(root)), {}, {}, str(root),
                     shards.decoding(PX, "pad", "#ffffff"))  # fmt: skip
    opened: list[str] = []
    watching = True

    def hook(event, args):
        if watching and event == "open" and isinstance(args[0], str | bytes):  # not a descriptor that is open already
            opened.append(os.fsdecode(args[0]))

    sys.addaudithook(hook)
    results, _ = shards.decode(job, len)
    watching = False
    assert [result.reason or "ok" for result in results] == [case.verdict for case in cases]
    outside = [path for path in opened if not Path(path).resolve().is_relative_to(root.resolve())]
    assert [path for path in outside if "site-packages" not in path and not path.startswith(sys.prefix)] == []


CRASHING = """
import os, signal
from fmtl.dataset import workers
from fmtl.dataset.pixels import images
decode = images.decode_into
def dying(out, content, **options):
    if b"DIE-SEGV" in content: os.kill(os.getpid(), signal.SIGSEGV)
    if b"DIE-KILL" in content: os.kill(os.getpid(), signal.SIGKILL)
    if b"DIE-MEMORY" in content: raise MemoryError
    return decode(out, content, **options)
images.decode_into = dying
workers.main()
"""


def test_a_worker_that_dies_costs_the_image_it_was_at(write_catalogue, tmp_path, monkeypatch):
    names = tuple(f"{i}.png" for i in range(40))
    lines = [f"{i},{i}.png,{'red' if i % 2 else 'blue'}" for i in range(40)]
    table = write_catalogue("id,image,colour\n" + "\n".join(lines) + "\n", names)
    for i, how in ((0, "SEGV"), (7, "KILL"), (8, "MEMORY"), (39, "SEGV")):
        with (table.parent / "images" / f"{i}.png").open("ab") as file:
            file.write(f"DIE-{how}".encode())
    script = tmp_path / "dying.py"
    script.write_text(CRASHING)
    monkeypatch.setattr(workers, "COMMAND", (sys.executable, str(script)))
    dataset = build(table)
    rejects = check_accounts(dataset)
    assert rejects["id"].tolist() == ["0", "7", "8", "39"]
    assert set(rejects["reason"]) == {"decoder_crash"}
    assert ["SIGSEGV" in d for d in rejects["detail"]] == [True, False, False, True]
    want = [images.decode((table.parent / "images" / path).read_bytes(), px=PX) for path in dataset.table["path"]]
    assert (dataset.pixels(np.arange(36)) == np.stack(want)).all()
    monkeypatch.undo()
    assert build(table).manifest["counts"]["rejected"] == 0  # what killed a decoder once is tried again


def test_a_worker_that_cannot_start_is_an_error_and_no_endless_loop(write_catalogue, monkeypatch):
    table = write_catalogue("id,image,colour\n1,1.png,red\n2,2.png,blue\n", ("1.png", "2.png"))
    monkeypatch.setattr(workers, "COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(RuntimeError, match="worker process can't work: .*exit code 3"):
        build(table, label_cols=("colour",))


def test_an_image_that_changes_while_prepare_runs_is_left_out(write_catalogue):
    folder = write_catalogue("id\n", ("a.png", "b.png", "c.png")).parent / "images"
    sources = freshness.scan(["a.png", "b.png", "c.png"], ImageFolder(folder))
    (folder / "a.png").write_bytes((folder / "b.png").read_bytes() + b"more")
    (folder / "b.png").unlink()
    job = shards.Job("unused", sources, {}, {}, str(folder), shards.decoding(PX, "pad", "#ffffff"))
    assert [result.reason for result in shards.decode(job, len)[0]] == ["changed", "missing", ""]


def test_a_checksum_finds_the_flipped_bit_that_still_decodes(write_catalogue):
    table = write_catalogue("", tuple(f"{i}.png" for i in range(1)))
    folder = table.parent / "images"
    lines, good = ["id,image,colour,sum"], encode(textured(5), "JPEG", quality=80)
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 4
    for n, kind in enumerate(("md5", "sha1", "sha256")):
        digest = hashlib.new(kind, good).hexdigest()
        (folder / f"good{n}.jpg").write_bytes(good)
        (folder / f"bad{n}.jpg").write_bytes(bad)
        lines += [f"g{n},good{n}.jpg,red,{digest.upper()}", f"b{n},bad{n}.jpg,blue,{digest}"]
    lines += ["x,good0.jpg,blue,nonsense", "y,bad0.jpg,blue,"]
    table.write_text("\n".join(lines) + "\n")
    rejects = check_accounts(build(table, checksum_col="sum"))
    assert rejects["id"].tolist() == ["b0", "b1", "b2", "x"]
    assert set(rejects["reason"]) == {"checksum"}


# Tables: one folder of photos, many tables.

HEADER = "id,image,colour,kind,title"
ROWS = [f"{i},{i}.png,{'red' if i % 2 else 'blue'},{'hat' if i % 3 else 'bag'},Nice no. {i}" for i in range(1, 13)]
TEXT = "\n".join([HEADER, *ROWS]) + "\n"


def table_with(*rows: str, header=HEADER, first=False) -> str:
    return "\n".join([header, *(rows if first else ()), *ROWS, *(() if first else rows)]) + "\n"


@dataclass(frozen=True)
class TableCase:
    """A table and what must come of it.

    Attributes:
        content: Text, or bytes as they lie on the disk; of a Parquet file its columns.
        rejects: (line, reason) of the rows left out.
        error: Pattern of the error, if nothing must come of it.
        note: Part of a note that must be made.
        kept: Rows kept; by default the twelve good ones.
        classes: Of some tasks, by name.
        ids: Of the first rows kept.
        masked: How many labels of all tasks are blank among the rows kept.
    """

    id: str
    name: str
    content: str | bytes | dict
    rejects: tuple = ()
    error: str = ""
    note: str = ""
    options: dict = field(default_factory=dict)
    kept: int = 12
    classes: dict = field(default_factory=dict)
    ids: tuple = ()
    masked: int | None = None


def each(row: Callable[[int], str], header="id,image,colour,kind") -> str:
    """A table of twelve rows, made one by one."""
    return "\n".join([header, *(row(i) for i in range(1, 13))]) + "\n"


def colour(i: int) -> str:
    return "red" if i % 2 else "blue"


def kind(i: int) -> str:
    return "hat" if i % 3 else "bag"


def with_colours(odd: dict[int, str]) -> str:
    """The twelve good rows, some with a colour of their own."""
    return each(lambda i: f"{i},{i}.png,{odd.get(i, colour(i))},{kind(i)}")


def with_splits(split_of: Callable[[int], str]) -> str:
    return each(lambda i: f"{i},{i}.png,{colour(i)},{kind(i)},{split_of(i)}", "id,image,colour,kind,part")


def columns(**others) -> dict:
    """Columns of a Parquet table with twelve good rows."""
    return {"image": [f"{i}.png" for i in range(1, 13)], "colour": [colour(i) for i in range(1, 13)]} | others


def hugging_face(**features) -> dict:
    return {"huggingface": json.dumps({"info": {"features": features}})}


COLOURS = {"colour": ("blue", "red")}
CLASS_LABEL = {"names": ["blue", "red"], "_type": "ClassLabel"}
NUMBERS = [i % 2 for i in range(1, 13)]
ONLY_COLOUR = {"label_cols": ("colour",)}
SPLIT = {"split_col": "part"}
BLANKS = ("NA", "None", "null", "nan", "N/A", "-")
PRESET = {"preset": "kaggle-fashion", "label_cols": ("gender", "season"), "image_template": "{id}.png"}
KAGGLE = "id,gender,season,productDisplayName\n" + "".join(
    f"{i},{'Men' if i % 2 else 'Women'},{'Fall' if i % 3 else 'Summer'},Shirt {i}\n" for i in range(1, 13)
)
TABLE_CASES = [
    TableCase("D01", "extra comma, no free text known", table_with("13,1.png,red,hat,a,b"), ((14, "extra_fields"),)),
    TableCase("D01", "two extra commas", table_with("13,1.png,red,hat,a,b,c"), ((14, "extra_fields"),)),
    TableCase("D01", "rejoined", KAGGLE.replace("Shirt 5\n", "Shirt 5, blue, large\n"), options=PRESET,
              note="1 lines had unescaped delimiters in 'productDisplayName'"),
    TableCase("D01", "rejoined with empty parts", KAGGLE.replace("Shirt 5\n", "Shirt 5,,\n"), options=PRESET),
    TableCase("D02", "extra comma in the first row", table_with("13,1.png,red,hat,a,b", first=True),
              ((2, "extra_fields"),)),
    TableCase("D02", "first row rejoined", KAGGLE.replace("Shirt 1\n", "Shirt 1, blue\n"), options=PRESET,
              note="re-joined"),
    TableCase("D01", "comma in another column", KAGGLE.replace("5,Men,Fall", "5,Men, really,Fall"),
              ((6, "extra_fields"),), options=PRESET, kept=11),
    TableCase("D03", "a row of commas", TEXT + ",,,,\n", ((14, "blank_row"),)),
    TableCase("D03", "blank lines before the header", "\n  \n" + TEXT),
    *(TableCase("D01", f"rejoined between {name}", KAGGLE.replace(",", mark).replace("Shirt 5", f"Shirt 5{mark} blue"),
                options=PRESET, note="re-joined")
      for name, mark in {"semicolons": ";", "tabs": "\t", "bars": "|"}.items()),
    TableCase("D01", "comma between semicolons", KAGGLE.replace(",", ";").replace("Shirt 5", "Shirt 5, blue"),
              options=PRESET, note="columns are separated by ';'"),
    TableCase("D01", "quote after a space", TEXT.replace("Nice no. 3", ' "Nice, no. 3"'), ((4, "extra_fields"),),
              kept=11),
    TableCase("D03", "short row", table_with("13,1.png,red"), ((14, "short_row"),)),
    TableCase("D03", "one field", table_with("13", first=True), ((2, "short_row"),)),
    TableCase("D03", "blank lines are no rows", TEXT.replace("\n5,", "\n\n  \n5,")),
    TableCase("D04", "unclosed quote at the end", TEXT + '13,1.png,red,hat,"Nice\n', error="line 14.*quote"),
    TableCase("D04", "unclosed quote in the middle", TEXT.replace("Nice no. 3", '"Nice no. 3'), error="line 4.*quote"),
    TableCase("D04", "two rows become one", TEXT.replace("Nice no. 3", '"Nice no. 3').replace("Nice no. 4", 'Nice 4"'),
              error="line 4: a quote opened there takes in the lines up to 5"),
    TableCase("D04", "an open quote swallows rows of all kinds", TEXT.replace("Nice no. 3", '"Nice no. 3')
              .replace("Nice no. 6", "Nice, no. 6").replace("Nice no. 9", 'Nice"'),
              error="line 4: a quote opened there takes in the lines up to 10"),
    TableCase("D04", "two rows become one in the middle", TEXT.replace("3.png,red,bag", '3.png,red,"bag')
              .replace("4.png,blue,hat", '4.png,blue,hat"'), error="line 4: a quote opened there"),
    TableCase("D04", "seven rows become one", TEXT.replace("Nice no. 3", '"Nice').replace("Nice no. 9", 'Nice"'),
              error="line 4: a quote opened there takes in the lines up to 10"),
    TableCase("D04", "three rows become one, one with a comma in free text", KAGGLE.replace("Shirt 3", '"Shirt')
              .replace("Shirt 4", "Shirt, large").replace("Shirt 5", 'Shirt"'), options=PRESET,
              error="line 4: a quote opened there"),
    TableCase("D04", "four rows become one, two with a comma in free text", KAGGLE.replace("Shirt 3", '"Shirt')
              .replace("Shirt 4", "Shirt, large").replace("Shirt 5", "Shirt, small").replace("Shirt 6", 'Shirt"'),
              options=PRESET, error="line 4: a quote opened there"),
    TableCase("D04", "three rows become one, one of them short", TEXT.replace("Nice no. 3", '"Nice')
              .replace("4,4.png,blue,hat,Nice no. 4", "4,4.png").replace("Nice no. 5", 'Nice"'),
              error="line 4: a quote opened there"),
    TableCase("D04", "the header takes in three rows", TEXT.replace(",title", ',"title').replace("Nice no. 3", 'Nice"'),
              error="line 1: a quote opened there"),
    TableCase("D04", "unclosed quote in the header", TEXT.replace(",title", ',"title'), error="line 1.*quote"),
    TableCase("D04", "text after a closed quote", TEXT.replace("Nice no. 3", '"Nice" no. 3'), error="line 4.*quote"),
    TableCase("D04", "doubled quotes", TEXT.replace("Nice no. 3", '"The ""best"", hat"')),
    TableCase("D04", "apostrophe", TEXT.replace("Nice no. 3", "'Nice")),
    TableCase("D04", "lines are counted through text with line breaks",
              TEXT.replace("Nice no. 3", '"Nice\n\nno. 3"') + "13,none.png,red,hat,a\n", ((16, "missing"),)),
    TableCase("D04", "quotes are characters", TEXT.replace("Nice no. 3", '"Nice no. 3'), options={"quotes": False}),
    TableCase("D04", "inches", TEXT.replace("Nice no. 3", '12" wide')),
    TableCase("D04", "text with line breaks", TEXT.replace("Nice no. 3", '"Nice\nno, 3"')),
    TableCase("D05", "empty", "", error="empty file"),
    TableCase("D05", "only a header", HEADER + "\n", error="0 rows"),
    TableCase("D05", "only spaces", "  \n \n", error="(0 rows|empty|no column)"),
    TableCase("D05", "a web page", "<!DOCTYPE html>\n<html><body>404</body></html>\n", error="no column holds image"),
    TableCase("D05", "JSON", '[{"id": 1, "image": "1.png"}]\n', error="0 rows|no column"),
    TableCase("D05", "a workbook", b"PK\x03\x04" + bytes(100), error="a damaged zip file or workbook"),
    TableCase("D05", "compressed", b"\x1f\x8b\x08" + b"x" * 100, error="can't be unpacked"),
    TableCase("D06", "blank line before semicolons", "\n" + TEXT.replace(",", ";"), note="separated by ';'"),
    TableCase("D06", "semicolons", TEXT.replace(",", ";"), note="columns are separated by ';'"),
    TableCase("D06", "tabs", TEXT.replace(",", "\t"), note="columns are separated by '\\t'"),
    TableCase("D06", "bars", TEXT.replace(",", "|"), note="columns are separated by '|'"),
    TableCase("D07", "mark", b"\xef\xbb\xbf" + TEXT.encode()),
    TableCase("D07", "UTF-16 little", TEXT.encode("utf-16")),
    TableCase("D07", "UTF-16 big", b"\xfe\xff" + TEXT.encode("utf-16-be")),
    TableCase("D07", "latin-1", TEXT.replace("Nice no. 4", "Café").encode("latin-1"),
              note="read as with --encoding latin-1, so that line 5 says '4,4.png,blue,hat,Café'"),
    TableCase("D07", "latin-1 named", TEXT.replace("Nice no. 4", "Café").encode("latin-1"),
              options={"encoding": "latin-1"}),
    TableCase("D07", "unknown encoding", TEXT, options={"encoding": "klingon"}, error="encoding: 'klingon'"),
    *(TableCase("D07", f"mark before {name}, encoding named", content, options={"encoding": name}, ids=("1", "2"))
      for name, content in {"utf-8": b"\xef\xbb\xbf" + TEXT.encode(), "utf-16-le": TEXT.encode("utf-16"),
                            "utf-16": TEXT.encode("utf-16")}.items()),
    TableCase("D07", "UTF-16 without mark", TEXT.encode("utf-16-le"), note="read as with --encoding utf-16-le"),
    TableCase("D07", "UTF-16 without mark, named", TEXT.encode("utf-16-le"), options={"encoding": "utf-16-le"}),
    TableCase("D07", "UTF-16 cut in a character", TEXT.encode("utf-16")[:-1], error=r"line 13, byte \d+: not utf-16"),
    TableCase("D07", "UTF-8 cut in a character", TEXT.encode() + b"13,1.png,red,hat,Caf\xc3", error="line 14, byte"),
    TableCase("D07", "any bytes", bytes(range(256)) * 20, error=r"line \d+, byte \d+: not utf-8"),
    TableCase("D07", "zero byte in the id", table_with("1\x003,1.png,red,hat,a"), ((14, "nul_byte"),)),
    TableCase("D07", "old Mac line ends", TEXT.replace("\n", "\r")),
    TableCase("D07", "mixed line ends", TEXT.replace("\n", "\r\n", 5)),
    TableCase("D07", "no line end at the end", TEXT.rstrip("\n")),
    TableCase("D07", "other line separators are text", TEXT.replace("Nice no. 3", "a\x0bb\x0cc\x1cd\x85e\u2028f")),
    TableCase("D07", "mark, encoding named", b"\xef\xbb\xbf" + TEXT.encode(), options={"encoding": "utf-8"}),
    TableCase("D09", "a template without a column", TEXT, options={"image_template": "x.jpg"}, error="names no column"),
    TableCase("D12", "control characters", TEXT.replace("red", "\x1bred", 1), note="1 labels had odd spaces"),
    TableCase("D07", "zero byte", table_with("13,1.png,red,hat,a\0b"), ((14, "nul_byte"),)),
    TableCase("D07", "Windows line ends", TEXT.replace("\n", "\r\n")),
    TableCase("D08", "column twice", TEXT.replace("kind", "colour", 1), error="line 1: duplicate column names"),
    TableCase("D08", "column twice but for spaces", TEXT.replace("kind", " colour ", 1), error="line 1: duplicate"),
    TableCase("D08", "two columns without a name", table_with(header=",image,colour,kind,"),
              note="columns without a name are called 'column 1', 'column 5'"),
    TableCase("D08", "a column without a name, as pandas writes its index",
              each(lambda i: f"{i - 1},{i},{i}.png,{colour(i)},{kind(i)}", ",id,image,colour,kind"), ids=("1", "2")),
    TableCase("D08", "names that differ by case", TEXT.replace("kind", "Colour", 1), classes=COLOURS),
    TableCase("D09", "label column missing", TEXT, options={"label_cols": ("color",)}, error="'colour'"),
    TableCase("D09", "label column in other case", TEXT, options={"label_cols": ("Colour",)}, error="'colour'"),
    TableCase("D09", "id column missing", TEXT, options={"id_col": "ID"}, error="'ID' is not in the table"),
    TableCase("D09", "image column missing", TEXT, options={"image_col": "images"}, error="did you mean 'image'"),
    TableCase("D09", "group column missing", TEXT, options={"group_col": "groop"}, error="'groop' is not in"),
    TableCase("D09", "split column missing", TEXT, options={"split_col": "split"}, error="'split' is not in"),
    TableCase("D09", "checksum column missing", TEXT, options={"checksum_col": "md5"}, error="'md5' is not in"),
    TableCase("D09", "template's column missing", TEXT, options={"image_template": "{sku}.png"},
              error="'sku' is not in"),
    TableCase("D09", "no column of images", TEXT.replace(".png", ""),
              note="12 photos are written with another suffix or none: '1' is 1.png"),
    TableCase("D09", "no column of images that are there", each(lambda i: f"p{i},x{i},{colour(i)},{kind(i)}"),
              error="no column holds image file names"),
    TableCase("D09", "spaces around names", TEXT.replace(HEADER, " id , image,colour ,kind,title "), ids=("1", "2")),
    TableCase("D09", "names in other case", TEXT.replace(HEADER, HEADER.upper()), ids=("1", "2")),
    TableCase("D10", "blank id", table_with(",1.png,red,hat,a"), ((14, "blank_id"),)),
    TableCase("D10", "blank image", table_with("13,,red,hat,a"), ((14, "blank_image"),)),
    TableCase("D10", "ids are text", TEXT.replace("\n1,", "\n00123,").replace("\n2,", "\n12345678901234567,"),
              ids=("00123", "12345678901234567")),
    TableCase("D10", "a spelling of a blank as id", TEXT.replace("\n3,", "\nNA,"), ((4, "blank_id"),),
              options={"missing": ("NA",)}, kept=11),
    TableCase("D10", "ids that lead out", TEXT.replace("\n3,", "\n../../x,"), ((4, "outside_root"),),
              options={"image_template": "{id}.png"}, kept=11),
    TableCase("D11", "row twice", table_with(ROWS[4]), ((14, "duplicate_row"),)),
    TableCase("D11", "row three times", table_with(ROWS[4], ROWS[4]), ((14, "duplicate_row"), (15, "duplicate_row"))),
    TableCase("D11", "row twice with other text", table_with("5,5.png,red,hat,other"), ((14, "duplicate_row"),)),
    TableCase("D11", "blanks are filled from the second row",
              table_with("5,5.png,red,hat,a").replace("5,5.png,red,hat", "5,5.png,,hat", 1),
              ((14, "duplicate_row"),), options={"label_cols": ("colour", "kind")}),
    TableCase("D11", "contradiction", table_with("5,5.png,green,hat,a"),
              ((6, "conflicting_rows"), (14, "conflicting_rows")), kept=11),
    TableCase("D11", "one id, several images", table_with("5,../x.png,red,hat,a"), ((14, "outside_root"),)),
    TableCase("D11", "row twice, once without a label", table_with("5,5.png,,hat,a"), ((14, "duplicate_row"),),
              masked=0),
    TableCase("D11", "one image, several ids", table_with("13,5.png,red,hat,a"), kept=13),
    TableCase("D11", "one path in two spellings", table_with("5,./5.png,red,hat,a"), kept=13),
    TableCase("D12", "spaces that can't be seen",
              with_colours({1: " red\u00a0", 3: "re\u200bd", 5: "\ufeffred", 7: "red\u00ad", 9: "\tred\u2003"}),
              note="'colour': 3 labels had odd spaces", classes=COLOURS),
    TableCase("D12", "doubled spaces", with_colours({1: "dark  red", 3: "dark\u00a0red", 5: "dark red"}),
              classes={"colour": ("blue", "dark red", "red")}),
    TableCase("D12", "two forms of one letter", with_colours({1: "Cafe\u0301", 3: "Caf\u00e9", 5: "Cafe\u0301"}),
              classes={"colour": ("Caf\u00e9", "blue", "red")}),
    TableCase("D12", "nothing that can be seen is a blank", with_colours({1: "\u00a0", 3: "\u200b", 5: "\ufeff"}),
              classes=COLOURS, masked=3),
    TableCase("D12", "case", with_colours({1: "Red", 5: "Red"}), note="labels that look alike: ['Red', 'red']",
              classes={"colour": ("Red", "blue", "red")}),
    TableCase("D12", "case folded", with_colours({1: "Red", 5: "RED"}), options={"casefold": True},
              note="'Red' became 'red'", classes=COLOURS),
    TableCase("D13", "NA is a class", TEXT.replace("blue", "NA"), note="6 cells 'NA'"),
    TableCase("D13", "NA is a blank", TEXT.replace(",hat,Nice no. 5", ",NA,Nice no. 5"),
              options={"missing": ("NA",)}, note="column 'kind': blanks written as 1 'NA'"),
    *(TableCase("D13", f"a class spelled {blank}", with_colours({i: blank for i in (1, 2, 3)}),
                note=f"3 cells '{blank}', a class of its own") for blank in BLANKS if blank != "None"),
    TableCase("D13", "a class spelled None", with_colours(dict.fromkeys((1, 2, 3), "None")),
              classes={"colour": ("None", "blue", "red")}),
    TableCase("D13", "six spellings of a blank", with_colours(dict(enumerate(BLANKS, 1))), options={"missing": BLANKS},
              note="blanks written as 1 'NA', 1 'None'", classes=COLOURS, masked=6),
    TableCase("D13", "only blanks", with_colours(dict.fromkeys(range(1, 13), "NA")), options={"missing": ("NA",)},
              note="'colour' left out: blank in every row"),
    TableCase("D13", "only blanks, named", with_colours(dict.fromkeys(range(1, 13), "NA")),
              options={"missing": ("NA",), **ONLY_COLOUR}, error="label column 'colour' has no value in any row"),
    TableCase("D14", "blanks mask one label", with_colours({1: "", 4: "", 5: " "}), classes=COLOURS, masked=3),
    TableCase("D15", "no label", table_with("13,1.png,,,a"), ((14, "no_label"),)),
    TableCase("D15", "no label that can be seen", table_with("13,1.png,\u200b, ,a"), ((14, "no_label"),)),
    TableCase("D15", "no label anywhere", each(lambda i: f"{i},{i}.png,,"), error="no column can be a label"),
    *(TableCase("D16", f"every class rare, {rare}", with_colours({i: "abcdef"[i % 6] for i in range(1, 13)}),
                options={"rare": rare, **ONLY_COLOUR}, error=error, classes=classes)
      for rare, error, classes in (("drop", "no label column has two classes", {}),
                                   ("other", "", {"colour": ("other",)}),
                                   ("train_only", "", {"colour": tuple("abcdef")}))),
    TableCase("D16", "rare joins a class of that name", with_colours({1: "pink", 2: "other", 3: "other", 4: "other"}),
              options={"rare": "other"}, note="became 'other': pink", classes={"colour": ("blue", "other", "red")}),
    TableCase("D16", "one row", "id,image,colour\n1,1.png,red\n", options=ONLY_COLOUR, kept=1),
    TableCase("D16", "twelve rows of one photo", each(lambda i: f"{i},1.png,{colour(i)},{kind(i)}"), classes=COLOURS),
    TableCase("D17", "a class that val and test lack", with_colours({1: "pink", 3: "pink", 5: "pink"}),
              classes={"colour": ("blue", "pink", "red")}),
    TableCase("D18", "spellings of splits",
              with_splits(lambda i: " Training" if i < 7 else ("DEV ", "Test")[i % 2]), options=SPLIT),
    TableCase("D18", "a split blank", with_splits(lambda i: "" if i == 4 else "train"), options=SPLIT,
              error="line 5, column 'part': ''; expected train, val or test"),
    TableCase("D18", "every split wrong", with_splits(lambda i: "x"), options=SPLIT, error="12 rows name no split"),
    TableCase("D18", "no row in train", with_splits(lambda i: "test"), options=SPLIT, error="no row is in train"),
    TableCase("D18", "only train", with_splits(lambda i: "train"), options=SPLIT,
              note="'part' has no val and no test: drawn"),
    TableCase("D18", "class only in val", with_splits(lambda i: "train" if i % 2 else "val"), options=SPLIT,
              error=r"'blue' of column 'colour': lines 3, 5"),
    TableCase("D18", "class only in test, dropped", with_splits(lambda i: "train" if i % 2 else "test"),
              options=SPLIT | {"rare": "drop"}, note="label dropped, train has none: 'blue' of column 'colour'",
              masked=6),
    TableCase("D21", "twins across the user's splits",
              each(lambda i: f"{i},{(i + 1) // 2}.png,{colour(i // 2)},{kind(i)},{('train', 'test')[i % 2]}",
                   "id,image,colour,kind,part"),
              options=SPLIT, note="6 groups of identical images cross the splits of column 'part'"),
    TableCase("D19", "constant column", TEXT.replace("hat", "bag"), note="'kind' left out: constant"),
    TableCase("D19", "constant column, named", TEXT.replace("hat", "bag"), options={"label_cols": ("kind", "colour")},
              note="'kind' was named and is kept"),
    TableCase("D20", "an id as label", TEXT, note="column 'title' left out: 12 values in 12 rows"),
    TableCase("D20", "an id as label, named", TEXT, options={"label_cols": ("title",)},
              note="'title' was named and is kept"),
    TableCase("D20", "numbers, named", TEXT.replace("hat", "1.5").replace("bag", "2"),
              options={"label_cols": ("kind",)}, note="'kind' was named and is kept", classes={"kind": ("1.5", "2")}),
    TableCase("D20", "numbers", TEXT.replace("hat", "1.5").replace("bag", "2"), note="'kind' left out: numbers"),
    TableCase("D24", "long label", TEXT.replace(",hat,Nice no. 5", f",{'x' * 10_000},Nice"),
              options={"label_cols": ("kind",)}, error="line 6: the label in column 'kind' has 10000 characters"),
    TableCase("D24", "long text", TEXT.replace("Nice no. 5", "x" * 10_000), note="'title' left out: free text"),
    TableCase("D24", "500 characters", TEXT.replace("hat", "x" * 500), options={"label_cols": ("kind",)}),
    TableCase("D24", "501 characters", TEXT.replace("hat", "x" * 501), options={"label_cols": ("kind",)},
              error="line 2: the label in column 'kind' has 501 characters, more than 500"),
    TableCase("D24", "more text than a cell can have", TEXT.replace("Nice no. 3", "x" * 140_000),
              note="'title' left out: free text of up to 140000 characters"),
    TableCase("D25", "ids are text", columns(id=[f"{i:05d}" for i in range(12)]), ids=("00000", "00001")),
    TableCase("D25", "large ids", columns(id=pa.array([2**64 - 1 - i for i in range(12)], pa.uint64())),
              ids=("18446744073709551615", "18446744073709551614")),
    TableCase("D25", "whole numbers beside a blank", columns(size=pa.array([1.0, float("nan"), 2.5] * 4)),
              options={"label_cols": ("colour", "size")}, classes={"size": ("1", "2.5")}, masked=4),
    TableCase("D25", "times", columns(at=[datetime(2020, 1, 1 + i % 2, tzinfo=UTC) for i in range(12)],
                                      hour=[time(1 + i % 2) for i in range(12)]),
              options={"label_cols": ("at", "hour")},
              classes={"at": ("2020-01-01 00:00:00+00:00", "2020-01-02 00:00:00+00:00"),
                       "hour": ("01:00:00", "02:00:00")}),
    TableCase("D25", "decimals of 256 bits",
              columns(price=pa.array([Decimal("1.10"), Decimal("2.00")] * 6, pa.decimal256(50, 2))),
              options={"label_cols": ("price",)}, classes={"price": ("1.10", "2.00")}),
    TableCase("D25", "large text", columns(colour=pa.array(["blue", "red"] * 6, pa.large_string())), classes=COLOURS),
    TableCase("D25", "a column of nothing", columns(kind=pa.nulls(12)), note="'kind' left out: blank in every row"),
    TableCase("D25", "a map as label", columns(tags=pa.array([[("a", 1)]] * 12, pa.map_(pa.string(), pa.int32()))),
              options={"label_cols": ("tags",)}, error="column 'tags' is of type map"),
    TableCase("D25", "bytes as label", columns(colour=[colour(i).encode() for i in range(1, 13)]),
              options={"image_col": "image", **ONLY_COLOUR}, error="column 'colour' is of type binary"),
    TableCase("D25", "bytes as split", columns(photo=[b"x"] * 12, part=[b"train"] * 12),
              options=SPLIT | {"image_col": "image"}, error="column 'part' is of type binary"),
    TableCase("D25", "no rows", dict.fromkeys(("image", "colour"), pa.array([], pa.string())), error="0 rows"),
    TableCase("D25", "text that is no Parquet", {"": TEXT.encode()}, error="table.parquet: not a readable"),
    TableCase("D25", "classes by number", columns(colour=NUMBERS, metadata=hugging_face(colour=CLASS_LABEL)),
              classes=COLOURS),
    TableCase("D25", "classes by number, some unknown", columns(colour=[-1, 0, 1] * 4, kind=["hat", "bag"] * 6,
              metadata=hugging_face(colour=CLASS_LABEL)), classes=COLOURS, masked=4),
    TableCase("D25", "classes by number beside a list", columns(colour=NUMBERS, tags=[["a"]] * 12,
              metadata=hugging_face(colour=CLASS_LABEL, tags=[{"dtype": "string", "_type": "Value"}])),
              classes=COLOURS),
    TableCase("D25", "damaged names of classes", columns(metadata={"huggingface": "{"}), classes=COLOURS),
]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twelve photos that every table shares."""
    folder = tmp_path_factory.mktemp("photos") / "images"
    folder.mkdir()
    for i in range(1, 13):
        (folder / f"{i}.png").write_bytes(encode(textured(i, (20, 16)), "PNG"))
    return folder


@pytest.fixture(scope="module")
def prepared(photos, tmp_path_factory):
    """The folder of the twelve good rows, prepared. It lies where a test's own would, seen from the photos."""
    table = tmp_path_factory.mktemp("prepared") / "good.csv"
    table.write_text(TEXT)
    return build(table, images=str(photos)).folder


@pytest.mark.parametrize("case", TABLE_CASES, ids=lambda case: f"{case.id}-{case.name}".replace(" ", "_"))
def test_every_table_is_read_or_refused_as_its_verdict_says(case, photos, prepared, tmp_path):
    table = write_table(case, tmp_path)
    options = {"images": str(photos)} | case.options
    if case.error:
        with pytest.raises(DataError, match=case.error) as caught:
            build(table, **options)
        # Each begins with what is to be changed: the table, or a setting.
        assert table.name in str(caught.value) or str(caught.value).startswith(
            ("encoding: ", "image_template: ", "split_col: ")
        )
        assert not (tmp_path / "out").exists()
        return
    shutil.copytree(prepared, tmp_path / "out")  # its pixels are taken over: starting a decoder takes longest
    dataset = build(table, **options)
    rejects = check_accounts(dataset)
    assert [(int(line), reason) for line, reason in zip(rejects["line"], rejects["reason"], strict=True)] == [
        *case.rejects
    ]
    assert len(dataset.table) == case.kept
    assert any(case.note in note for note in dataset.manifest["notes"])
    classes = {task.name: task.classes for task in dataset.tasks}
    assert classes | case.classes == classes
    assert dataset.table["id"].tolist()[: len(case.ids)] == [*case.ids]
    assert case.masked in (None, int((dataset.targets == IGNORE_INDEX).sum()))


def write_table(case: TableCase, folder: Path) -> Path:
    table = folder / ("table.parquet" if isinstance(case.content, dict) else "table.csv")
    content = case.content.get("") if isinstance(case.content, dict) else case.content
    if content is None:
        return parquet(table, **case.content)
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    return table


def parquet(path: Path, **columns) -> Path:
    metadata = columns.pop("metadata", None)
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata) if metadata else table, path, row_group_size=5)
    return path


def colours(n=12) -> list[str]:
    return ["red" if i % 2 else "blue" for i in range(1, n + 1)]


def test_parquet_types_that_are_text_in_another_form_are_read(photos, tmp_path):
    table = parquet(
        tmp_path / "table.parquet",
        id=pa.array([10**17 + i for i in range(12)]),
        image=[f"{i}.png" for i in range(1, 13)],
        colour=pa.array(colours()).dictionary_encode(),
        price=pa.array([Decimal("1.50"), Decimal("2.00")] * 6),
        day=pa.array([date(2020, 1, 1), date(2021, 1, 1)] * 6),
        new=pa.array([True, False, None] * 4),
        size=pa.array([1, 2, None] * 4),
    )
    dataset = build(table, images=str(photos), label_cols=("colour", "price", "day", "new", "size"))
    assert {t.name: t.classes for t in dataset.tasks} == {
        "colour": ("blue", "red"), "price": ("1.50", "2.00"), "day": ("2020-01-01", "2021-01-01"),
        "new": ("False", "True"), "size": ("1", "2"),
    }  # fmt: skip
    assert dataset.table["id"].tolist() == [str(10**17 + i) for i in range(12)]
    assert (dataset.table["size"] == IGNORE_INDEX).sum() == 4


def test_parquet_that_cannot_be_used_is_an_error_with_column_and_type(photos, tmp_path):
    good = {"image": [f"{i}.png" for i in range(1, 13)], "colour": colours()}
    table = parquet(tmp_path / "a.parquet", **good, tags=[["x"]] * 12, box=[{"w": 1}] * 12)
    with pytest.raises(DataError, match="column 'box' is of type struct"):
        build(table, images=str(photos), label_cols=("box",))
    assert [task.name for task in build(table, images=str(photos)).tasks] == ["colour"]
    whole = table.read_bytes()
    for size in (0, 3, len(whole) // 2, len(whole) - 1):
        table.write_bytes(whole[:size])
        with pytest.raises(DataError, match="not a readable Parquet file"):
            build(table, images=str(photos))


def test_images_of_one_name_in_a_table_are_different_images(photos, tmp_path):
    cells = [{"bytes": (photos / f"{i}.png").read_bytes(), "path": "image.png"} for i in range(1, 13)]
    dataset = build(parquet(tmp_path / "table.parquet", image=cells, colour=colours()))
    assert len(dataset.table) == 12 and dataset.table["path"].is_unique
    assert (dataset.pixels(np.array([4]))[0] == images.decode((photos / "5.png").read_bytes(), px=PX)).all()


@pytest.mark.parametrize("layout", ["binary", "struct", "struct without paths"])
def test_images_in_the_cells_of_a_table_are_decoded_as_those_in_files(photos, tmp_path, layout):
    content = [(photos / f"{i}.png").read_bytes() for i in range(1, 13)]
    content[3], content[7] = None, b"no image"
    cells = {
        "binary": pa.array(content, pa.binary()),
        "struct": [{"bytes": b, "path": f"{i}.png"} for i, b in enumerate(content, 1)],
        "struct without paths": [{"bytes": b, "path": None} for b in content],
    }[layout]
    table = parquet(tmp_path / "table.parquet", photo=cells, colour=colours())
    dataset = build(table)
    rejects = check_accounts(dataset)
    assert list(zip(rejects["line"], rejects["reason"], strict=True)) == [("4", "missing"), ("8", "not_an_image")]
    kept = [i for i in range(1, 13) if i not in (4, 8)]
    want = np.stack([images.decode((photos / f"{i}.png").read_bytes(), px=PX) for i in kept])
    assert (dataset.pixels(np.arange(10)) == want).all()
    if layout == "struct":
        assert dataset.table["path"].tolist() == [f"{i}.png" for i in kept]
    again, news = build_dataset(
        PrepareSettings(table=str(table), out=str(tmp_path / "out"), px=PX, max_reject_fraction=1)
    )
    assert news == ["nothing has changed since this dataset was made"] and again.digest == dataset.digest


def test_a_folder_as_hugging_face_writes_it_keeps_its_splits_and_class_names(photos, tmp_path):
    features = {"label": {"names": ["blue", "red"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    folder = tmp_path / "data"
    folder.mkdir()
    files = {"train-00000-of-00002": range(1, 5), "train-00001-of-00002": range(5, 8),
             "validation-00000-of-00001": range(8, 10), "test-00000-of-00001": range(10, 13)}  # fmt: skip
    for name, numbers in files.items():
        cells = [{"bytes": (photos / f"{i}.png").read_bytes(), "path": f"{i}.png"} for i in numbers]
        parquet(folder / f"{name}.parquet", image=cells, label=[i % 2 for i in numbers], metadata=metadata)
    out = str(tmp_path / "out")
    dataset = build(folder, out=out, split_col="split", label_cols=("label",))
    assert dataset.tasks[0].classes == ("blue", "red")
    by_path = dataset.table.set_index("path")
    assert by_path["split"].to_dict() == {
        f"{i}.png": "train" if i < 8 else "val" if i < 10 else "test" for i in range(1, 13)
    }
    assert [by_path["label"][f"{i}.png"] for i in range(1, 13)] == [i % 2 for i in range(1, 13)]


# Labels and splits.


def shop(tmp_path, lines, photos):
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    return table, {"images": str(photos)}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Ninety distinct photos."""
    folder = tmp_path_factory.mktemp("many") / "images"
    folder.mkdir()
    for i in range(90):
        (folder / f"{i}.png").write_bytes(encode(textured(100 + i, (12, 12)), "PNG"))
    return folder


def test_twins_with_contradicting_labels_are_counted(photos, tmp_path):
    lines = [*TEXT.splitlines(), "13,1.png,blue,hat,a", "14,2.png,blue,hat,a"]
    table, options = shop(tmp_path, lines, photos)
    counts = build(table, **options).manifest["counts"]
    assert (counts["duplicate_groups"], counts["duplicate_images"], counts["conflicting_groups"]) == (2, 4, 1)


def test_rare_classes_follow_the_policy(many, tmp_path):
    lines = ["id,image,colour,kind"] + [
        f"{i},{i}.png,{'pink' if i in (3, 4) else 'red' if i % 2 else 'blue'},{'hat' if i % 3 else 'bag'}"
        for i in range(90)
    ]
    table, options = shop(tmp_path, lines, many)
    pink = ["3", "4"]
    for rare in ("train_only", "other", "drop"):
        dataset = build(table, rare=rare, **options)
        rows = dataset.table.set_index("id")
        if rare == "train_only":
            assert (rows.loc[pink, "split"] == "train").all()
            assert dataset.tasks[0].classes == ("blue", "pink", "red")
        elif rare == "other":
            assert dataset.tasks[0].classes == ("blue", "other", "red")
            assert (rows.loc[pink, "colour"] == 1).all()
        else:
            assert dataset.tasks[0].classes == ("blue", "red")
            assert (rows.loc[pink, "colour"] == IGNORE_INDEX).all()
        assert len(rows) == 90
        assert any("pink" in note for note in dataset.manifest["notes"])


def test_a_split_column_is_taken_and_its_faults_are_named(many, tmp_path):
    def lines(colour_of, split_of):
        rows = [f"{i},{i}.png,{colour_of(i)},{split_of(i)}" for i in range(90)]
        return ["id,image,colour,part", *rows]

    def thirds(i):
        return ("train", "valid", "test")[i % 3]

    def colour(i):
        return "red" if i % 2 else "blue"

    table, options = shop(tmp_path, lines(colour, thirds), many)
    options |= {"split_col": "part"}
    dataset = build(table, **options)
    assert dataset.table["split"].tolist() == [("train", "val", "test")[i % 3] for i in range(90)]

    table, _ = shop(tmp_path, lines(colour, lambda i: "tset" if i == 5 else thirds(i)), many)
    with pytest.raises(DataError, match=r"line 7, column 'part': 'tset'; expected train, val or test"):
        build(table, **options)

    table, _ = shop(tmp_path, lines(lambda i: "pink" if i == 5 else colour(i), thirds), many)
    with pytest.raises(DataError, match=r"'pink' of column 'colour': lines 7"):
        build(table, **options)
    masked = build(table, rare="drop", min_class_images=1, **options)
    assert masked.table["colour"][5] == IGNORE_INDEX

    table, _ = shop(tmp_path, lines(colour, lambda i: "test" if i < 20 else "train"), many)
    drawn = build(table, **options)
    assert (drawn.table["split"][:20] == "test").all() and not (drawn.table["split"][20:] == "test").any()
    assert (drawn.table["split"] == "val").sum() == pytest.approx(70 * 0.15, abs=2)


def test_twins_products_and_groups_never_cross_splits(many, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    lines = ["id,image,colour,model"]
    for i in range(60):
        image = Image.open(io.BytesIO((many / f"{i}.png").read_bytes()))
        (folder / f"{i}.png").write_bytes(encode(image, "PNG"))
        (folder / f"{i}.bmp").write_bytes(encode(image, "BMP"))  # the same pixels in another file
        lines.append(f"p{i},{i}.png,{'red' if i % 2 else 'blue'},m{i // 5}")
        lines.append(f"q{i},{i}.bmp,{'red' if i % 2 else 'blue'},")
    table, _ = shop(tmp_path, lines, folder)
    dataset = build(table)
    assert dataset.manifest["counts"]["duplicate_groups"] == 60
    rows = dataset.table.set_index("path")
    assert all(rows["split"][f"{i}.png"] == rows["split"][f"{i}.bmp"] for i in range(60))

    grouped = build(table, group_col="model", reuse=False).table.set_index("path")
    for model in range(12):
        members = [f"{i}.{kind}" for i in range(5 * model, 5 * model + 5) for kind in ("png", "bmp")]
        assert grouped.loc[members, "split"].nunique() == 1
        assert grouped.loc[members, GROUP].nunique() == 1

    lines = ["id,image,colour"] + [f"p{i // 2},{i}.png,{'red' if i % 2 else 'blue'}" for i in range(60)]
    table.write_text("\n".join(lines) + "\n")
    products = build(table, reuse=False).table
    assert (products.groupby("id")["split"].nunique() == 1).all() and len(products) == 60


def test_near_duplicates_are_counted_and_kept_together_on_request(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    lines = ["id,image,colour"]
    for i in range(40):
        photo = textured(i, (5, 5)).resize((90, 90), Image.Resampling.BICUBIC)
        put(encode(photo, "JPEG", quality=95))(folder / f"{i}.jpg")
        put(encode(photo.resize((70, 70)), "JPEG", quality=60))(folder / f"{i}-again.jpg")
        lines += [f"a{i},{i}.jpg,{'red' if i % 2 else 'blue'}", f"b{i},{i}-again.jpg,{'red' if i % 2 else 'blue'}"]
    table, _ = shop(tmp_path, lines, folder)
    apart = build(table)
    assert (apart.manifest["counts"]["near_groups"], apart.manifest["counts"]["duplicate_groups"]) == (40, 0)
    rows = build(table, group_near_duplicates=True, reuse=False).table.set_index("path")["split"]
    assert all(rows[f"{i}.jpg"] == rows[f"{i}-again.jpg"] for i in range(40))
    rows = apart.table.set_index("path")["split"]
    assert not all(rows[f"{i}.jpg"] == rows[f"{i}-again.jpg"] for i in range(40))


def test_more_classes_than_can_be_trained_are_an_error(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    put(encode(plain(GREEN), "PNG"))(folder / "1.png")
    table, _ = shop(tmp_path, ["id,image,name"] + [f"{i},1.png,n{i}" for i in range(10_001)], folder)
    with pytest.raises(DataError, match="column 'name' has 10001 classes, more than 10000"):
        build(table, label_cols=("name",))


def test_changed_photos_are_found_and_touched_ones_are_not(many, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i}.png").write_bytes((many / f"{i}.png").read_bytes())
    table, _ = shop(
        tmp_path, ["id,image,colour"] + [f"{i},{i}.png,{'red' if i % 2 else 'blue'}" for i in range(12)], folder
    )
    dataset = build(table)
    assert freshness.changed_photos(dataset.folder, folder) == []
    (folder / "3.png").write_bytes(encode(plain(RED), "PNG"))
    os.utime(folder / "4.png", (1, 1))
    (folder / "5.png").unlink()
    assert freshness.changed_photos(dataset.folder, folder) == ["3.png"]


def test_the_corpus_is_as_large_as_it_says(image_corpus, capsys):
    num_cases, num_files = len(IMAGE_CASES) + len(TABLE_CASES), image_corpus[3] + len(TABLE_CASES)
    ids = {case.id for case in (*IMAGE_CASES, *TABLE_CASES)}
    with capsys.disabled():
        print(f"\ncorpus: {num_cases} cases of {len(ids)} kinds, {num_files} files")
    assert num_files >= 400
    assert len({case.path for case in IMAGE_CASES}) == len(IMAGE_CASES)
    assert len({(case.id, case.name) for case in TABLE_CASES}) == len(TABLE_CASES)
