import json
import os

import pytest

from fmtl.storage.cache import prune, recall


def test_what_is_damaged_is_as_good_as_none(tmp_path):
    file = tmp_path / "x.json"

    def read():
        return int(json.loads(file.read_text(encoding="utf-8"))["value"])

    assert recall(read) is None
    for damaged in ("", "{", "[]", '{"value": "x"}', '{"value": null}', "{}", "\0"):
        file.write_text(damaged, encoding="utf-8")
        assert recall(read) is None, damaged
    file.write_text('{"value": 3}', encoding="utf-8")
    assert recall(read) == 3


def test_an_error_that_is_no_damage_is_raised_unless_it_is_named():
    class Torn(Exception):
        pass

    def read():
        raise Torn

    assert recall(read, Torn) is None
    with pytest.raises(Torn):
        recall(read)


def test_what_was_used_longest_ago_goes_first_and_the_last_used_never(tmp_path):
    for age, name in enumerate(("new", "old", "older")):
        (tmp_path / f"{name}.x").write_bytes(b"1234")
        os.utime(tmp_path / f"{name}.x", (1000 - age, 1000 - age))
    (tmp_path / "other.y").write_bytes(b"1234")
    prune(tmp_path, "*.x", 9)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.x", "old.x", "other.y"]
    prune(tmp_path, "*.x", 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.x", "other.y"]
