"""Photos are found below one folder, and are what they were when they were found."""

import os

import pytest

from fmtl.catalogue.photos import folder
from fmtl.catalogue.photos.folder import ImageError, ImageFolder, PhotoFile
from fmtl.catalogue.reasons import Reason


@pytest.mark.parametrize("change", [b"longer than before", b"new", b""], ids=["grows", "same length", "emptied"])
def test_a_file_that_changes_while_it_is_read_is_left_out(tmp_path, monkeypatch, change):
    file = tmp_path / "a.jpg"
    file.write_bytes(b"old")
    os.utime(file, ns=(1, 1))
    opened = os.open

    def somebody_writes_first(path, flags):
        file.write_bytes(change)
        return opened(path, flags)

    monkeypatch.setattr(folder.os, "open", somebody_writes_first)
    with pytest.raises(ImageError) as error:
        ImageFolder(tmp_path).read("a.jpg")
    assert error.value.reason == Reason.CHANGED


def test_a_file_that_stays_as_it_is_is_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"content")
    content, status = ImageFolder(tmp_path).read("a.jpg")
    assert content == b"content" and folder.signature(status)[0] == 7
    assert PhotoFile.named(tmp_path / "a.jpg").read() == b"content"


def test_a_photo_is_looked_up_when_it_is_read_and_not_before(tmp_path):
    photo = PhotoFile(ImageFolder(tmp_path), "later.jpg")
    with pytest.raises(ImageError, match="missing"):
        photo.read()
    (tmp_path / "later.jpg").write_bytes(b"now")
    assert photo.read() == b"now"


def test_a_link_that_the_user_named_is_followed_and_one_in_a_table_stays_inside(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").write_bytes(b"content")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "link.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")
    assert PhotoFile.named(tmp_path / "shop" / "link.jpg").read() == b"content"
    with pytest.raises(ImageError) as error:
        PhotoFile(ImageFolder(tmp_path / "shop"), "link.jpg").read()
    assert error.value.reason == Reason.OUTSIDE_ROOT


def test_every_reason_has_a_meaning_and_is_its_word():
    for reason in Reason:
        assert reason.meaning and str(reason) == reason.value == reason
