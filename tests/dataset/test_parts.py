"""A table prepared in parts and joined is to the byte what one machine makes of it."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from fmtl.catalogue import sample
from fmtl.cli import main
from fmtl.dataset.prepared import open_dataset
from fmtl.dataset.reuse import parts


@pytest.fixture
def shop(store):
    """A table whose photos have twins, and some that can't be read."""
    table = sample.draw_catalogue(store / "shop")
    images = sorted((store / "shop" / "images").glob("*.jpg"))
    for first, second in zip(images[:20:2], images[-1:-20:-2], strict=False):
        shutil.copy(first, second)  # equal files, ids apart
    Image.open(images[30]).resize((70, 70)).save(images[41], quality=70)  # near
    images[50].write_bytes(b"not a photo")
    images[51].unlink()
    return table


def files_of(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name[0] != "."}


def prepare(table, out, *more):
    return main(["prepare", "--table", str(table), "--px", "32", "--out", str(out), *more])


def four_parts(table, *more):
    for number in (3, 1, 4, 2):
        assert prepare(table, f"data/part{number}", "--part", f"{number}/4", *more) == 0
    return ",".join(f"data/part{number}" for number in (2, 4, 1, 3))


def test_parts_join_to_the_bytes_of_one_machine(shop):
    assert prepare(shop, "data/whole") == 0
    joined = four_parts(shop)
    counts = [len(pd.read_parquet(f"data/part{number}/images.parquet")) for number in (1, 2, 3, 4)]
    assert min(counts) > 0
    assert main(["join", "--parts", joined, "--out", "data/joined"]) == 0
    whole, found = files_of("data/whole"), files_of("data/joined")
    assert whole.keys() == found.keys()
    assert {name for name, content in whole.items() if content != found[name]} == set()
    assert open_dataset("data/joined").manifest["counts"]["duplicate_groups"] >= 9


def test_no_photo_is_decoded_again(shop, monkeypatch):
    from fmtl.dataset import decode

    joined = four_parts(shop)
    decoded, decode_all = [], decode.decode_all
    monkeypatch.setattr(decode, "decode_all", lambda *a, **k: decoded.append(decode_all(*a, **k)) or decoded[-1])
    assert main(["join", "--parts", joined, "--out", "data/joined"]) == 0
    (found,) = decoded
    assert found.taken_over >= sum(not result.reason for result in found.results) > 500


def test_the_share_is_by_the_rows_id():
    ids = [str(n) for n in range(4000)]
    shares = [[parts.is_of(row_id, (number, 4)) for row_id in ids] for number in (1, 2, 3, 4)]
    assert [sum(of_row) for of_row in zip(*shares, strict=True)] == [1] * 4000
    assert all(900 < sum(share) < 1100 for share in shares)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda: shutil.rmtree("data/part3"), "no such part"),
        (lambda: damage("data/part3"), "a file is missing or was changed"),
        (lambda: alter("data/part3", part="2/4"), "is part 2/4"),
        (lambda: alter("data/part3", part="3/5"), "is part 3/5"),
        (lambda: add_a_line("shop/catalogue.csv"), "has changed since its parts were prepared"),
    ],
)
def test_what_is_no_whole_is_refused(shop, capfd, harm, said):
    joined = four_parts(shop)
    harm()
    assert main(["join", "--parts", joined, "--out", "data/joined"]) != 0
    assert said in capfd.readouterr().err and not Path("data/joined").exists()


def test_a_missing_part_and_a_part_of_other_settings_are_named(shop, capfd):
    joined = four_parts(shop)
    assert main(["join", "--parts", joined.rpartition(",")[0], "--out", "data/joined"]) == 2
    assert "of 4 parts 3 are missing" in capfd.readouterr().err
    assert prepare(shop, "data/part3", "--part", "3/4", "--seed", "5") == 0
    assert main(["join", "--parts", joined, "--out", "data/joined"]) == 2
    assert "of other settings" in capfd.readouterr().err
    assert main(["train", "--data", "data/part3", "--weights", "none"]) == 3
    assert "a part of a dataset; fmtl join" in capfd.readouterr().err


def add_a_line(table):
    with Path(table).open("a") as file:
        file.write("\n")


def damage(folder):
    shard = next(Path(folder).glob("pixels-*.bin"))
    content = bytearray(shard.read_bytes())
    content[7] ^= 1
    os.chmod(shard, 0o644)
    shard.unlink()
    shard.write_bytes(content)


def alter(folder, **changes):
    from fmtl.storage.records import SEAL, sealed

    said = json.loads((Path(folder) / parts.MARK).read_text())
    said.pop(SEAL)
    (Path(folder) / parts.MARK).write_text(json.dumps(sealed(said | changes)))
