import re

import pytest

from fmtl.errors import DataError
from fmtl.tasks import IGNORE_INDEX, RESERVED_SLUGS, Tasks, make_slugs, make_tasks


def test_a_label_becomes_its_index_and_an_unknown_one_is_ignored():
    (task,) = make_tasks({"season": ["Fall", "Summer"]})
    assert task.targets(["Summer", None, "Fall", "Monsoon"]) == [[1], [IGNORE_INDEX], [0], [IGNORE_INDEX]]


def test_slugs_are_safe_unique_and_never_reserved():
    names = ["Men's", "Men_s", "loss", "LOSS", "..", "a/b", "", "Größe", "日本", "x" * 300, "日" * 300]
    slugs = make_slugs(names)
    assert len({slug.casefold() for slug in slugs}) == len(names)
    assert all(re.fullmatch(r"[\w.-]{1,90}", slug) and slug.strip(".") for slug in slugs)
    assert all(len(slug.encode()) <= 130 for slug in slugs)
    assert slugs[7:9] == ["Größe", "日本"]  # letters of every alphabet, as MLflow allows in names
    assert not {slug.casefold() for slug in slugs} & RESERVED_SLUGS


def test_a_safe_name_is_its_own_slug():
    assert make_slugs(["articleType", "base-colour.v2"]) == ["articleType", "base-colour.v2"]


def test_tasks_survive_json():
    tasks = make_tasks({"Men's": ["a", "b"], "x": ["1"]})
    assert Tasks.from_json(tasks.to_json()) == tasks


def test_the_name_of_the_averages_is_refused():
    with pytest.raises(DataError, match="attribute 'avg'.*rename the column"):
        make_tasks({"season": ["a", "b"], "avg": ["c", "d"]})
