"""Answers of other labellers, from files as people write them."""

import numpy as np
import pandas as pd
import pytest

from fmtl.commands.choosing import external
from fmtl.errors import DataError, UsageError
from fmtl.evaluation.answers import Photos
from fmtl.settings.fields import Settings
from fmtl.settings.reading import Given, build
from fmtl.settings.schema import CompareSettings
from fmtl.tasks import make_tasks

TASKS = make_tasks({"Base Colour": ["Red", "Navy Blue"], "Tags": ["new", "sale"], "Size": ["40", "41"]}, sets=["Tags"])
PHOTOS = Photos(
    pd.DataFrame({"id": ["a", "b", "c"], "path": ["x/a.jpg", "b.jpg", "c.jpg"]}),
    np.arange(3),
    TASKS,
    {"Base Colour": np.array([0, 1, 1]), "Tags": np.array([[1, 0], [1, 1], [0, 0]]), "Size": np.array([0, 1, -100])},
)


def read(tmp_path, text, name="answers.csv"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return external.read("vlm", str(tmp_path / name), PHOTOS)


def test_words_become_classes_as_labels_do_and_rows_are_found_by_id(tmp_path):
    found = read(
        tmp_path, "id,base colour,Tags,Size,price,seconds\nb,navy blue,new|sale,41.0,2,300\na, RED ,new,40,4,500\n"
    )
    assert found.answers["Base Colour"].tolist() == [0, 1, -1]
    assert found.answers["Tags"].tolist() == [[1, 0], [1, 1], [-1, -1]]
    assert found.answers["Size"].tolist() == [0, 1, -1]
    assert found.coverage == {"Base Colour": 2 / 3, "Tags": 2 / 3, "Size": 1.0}  # the third has no known size
    assert found.costs == {"price": 3.0, "seconds": 400.0} and not found.notes


def test_by_path_and_by_slug(tmp_path):
    slug = TASKS[0].slug
    found = read(tmp_path, f"image,{slug}\nx/a.jpg,Navy Blue\nc.jpg,Navy Blue\n")
    assert found.answers["Base Colour"].tolist() == [1, -1, 1]
    assert any("no column 'Tags'" in note and "wrong" in note for note in found.notes)


def test_what_is_left_out_is_said(tmp_path):
    found = read(tmp_path, "id,Base Colour,Tags,Size\na,teal,new|great,40\na,Red,new,40\nz,Red,new,40\nb,teal,,41\n")
    assert found.answers["Base Colour"].tolist() == [-1, -1, -1]
    assert found.answers["Tags"].tolist()[:2] == [[1, 2], [-1, -1]]  # 2: it has something that is no class
    told = "\n".join(found.notes)
    assert "'teal' (2)" in told and "'great' (1)" in told and "1 rows are not of the test photos" in told
    assert "1 rows are of a photo that another row told of before" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name,Base Colour\na,Red\n", "column 'image' or 'id'"),
        ("id,Base Colour\nz,Red\n", "no answer for any of the 3 test photos"),
        ("id,Base Colour,price\na,Red,cheap\n", "'cheap'"),
    ],
)
def test_a_file_of_something_else_is_refused_with_its_name(tmp_path, text, told):
    with pytest.raises(DataError, match="answers.csv") as error:
        read(tmp_path, text)
    assert told in str(error.value)


def test_files_have_names():
    def of(text) -> Settings:
        return build(CompareSettings, {"external": Given(text, "--external")})

    assert of("vlm=a.csv, old model=b=1.csv").external == {"vlm": "a.csv", "old model": "b=1.csv"}
    for wrong in ("a.csv", "=a.csv", "a=b.csv,a=c.csv"):
        with pytest.raises(UsageError, match="external"):
            of(wrong)


def test_where_photos_share_an_id_a_path_tells_them_apart(tmp_path):
    rows = pd.DataFrame({"id": ["a", "a", "c"], "path": ["a1.jpg", "a2.jpg", "c.jpg"]})
    shared = Photos(rows, PHOTOS.groups, TASKS, PHOTOS.targets)
    (tmp_path / "answers.csv").write_text("id,image,Base Colour\n1,a1.jpg,Red\n2,a2.jpg,Navy Blue\n")
    found = external.read("vlm", str(tmp_path / "answers.csv"), shared)
    assert found.answers["Base Colour"].tolist() == [0, 1, -1]
    (tmp_path / "answers.csv").write_text("id,Base Colour\na,Red\n")
    found = external.read("vlm", str(tmp_path / "answers.csv"), shared)
    assert found.answers["Base Colour"].tolist() == [0, 0, -1] and "2 test photos share their id" in found.notes[0]


def test_an_attribute_may_be_called_price(tmp_path):
    tasks = make_tasks({"Price": ["low", "high"]})
    photos = Photos(PHOTOS.rows, PHOTOS.groups, tasks, {"Price": np.array([0, 1, 1])})
    (tmp_path / "answers.csv").write_text("id,Price\na,low\nb,high\n")
    found = external.read("vlm", str(tmp_path / "answers.csv"), photos)
    assert found.answers["Price"].tolist() == [0, 1, -1] and not found.costs
