"""predict finds and reads each photo once, as prepare does."""

from collections import Counter

import pandas as pd
import pytest

from fmtl.catalogue.photos.folder import ImageFolder
from fmtl.commands.predict import predict
from fmtl.settings.schema import PredictSettings

NAMES = tuple(f"{i}.png" for i in range(1, 8))


@pytest.fixture
def asked(monkeypatch):
    """How often each photo is looked up, and how often read."""
    found = {"find": Counter(), "read": Counter()}
    for how, counted in found.items():
        method = getattr(ImageFolder, how)

        def call(self, relative, method=method, counted=counted):
            counted[relative] += 1
            return method(self, relative)

        monkeypatch.setattr(ImageFolder, how, call)
    return found


@pytest.mark.parametrize("what", ["folder", "table", "files"])
def test_each_photo_is_looked_up_and_read_once(store, model, write_catalogue, asked, what):
    table = write_catalogue("id,image\n" + "".join(f"{n},{n}\n" for n in NAMES), NAMES)
    folder = table.parent / "images"
    images = {"folder": str(folder), "table": str(table), "files": ",".join(str(folder / n) for n in NAMES)}[what]
    found = predict(PredictSettings(model=str(model), images=images, out="p.csv", batch_size=3))
    assert found["status"].tolist() == ["ok"] * 7
    for counted in asked.values():
        assert counted == dict.fromkeys(NAMES, 1)


def test_every_row_has_an_answer_and_a_reason_where_there_is_no_photo(store, model, write_catalogue, tmp_path):
    text = "id,image\n1,1.png\n2,\n3,none.png\n4,../products.csv\n5,2.png\n6,3.png\n"
    table = write_catalogue(text, NAMES)
    (table.parent / "images" / "3.png").write_bytes(b"")
    predict(PredictSettings(model=str(model), images=str(table), out="p.parquet"))
    found = pd.read_parquet("p.parquet")
    assert found["status"].tolist() == ["ok", "missing", "missing", "outside_root", "ok", "empty"]
    assert found["image"].tolist() == ["1.png", "", "none.png", "../products.csv", "2.png", "3.png"]
    assert found["Art_des_Teils"].isna().tolist() == [False, True, True, True, False, True]
