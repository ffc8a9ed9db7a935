"""Attributes that exist for some products only: what says so, and what becomes of labels and limits."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fmtl.catalogue.values import applicability
from fmtl.commands.prepare import build_dataset
from fmtl.dataset.prepared import open_dataset, unlabelled
from fmtl.errors import DataError, UsageError
from fmtl.settings import reading
from fmtl.settings.reading import Given
from fmtl.settings.schema import PrepareSettings
from fmtl.tasks import Tasks

NUM = 24
RULE = {"heel": {"kind": ["shoe", "boot"]}}
KINDS = ["shoe", "boot", "shirt", "shirt"] * 6
HEELS = ["high", "flat", "", ""] * 6
APPLIES = ["yes", "yes", "no", "no"]


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(NUM):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def prepared(shop, heels=HEELS, kinds=KINDS, **options):
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(NUM)], "kind": kinds, "heel": heels})
    return of(shop, frame, **options)


def of(shop, frame, **options):
    frame.to_csv(shop / "t.csv", index=False)
    settings = {"table": str(shop / "t.csv"), "out": str(shop / "out"), "px": 32, "workers": 1, "reuse": False}
    return build_dataset(PrepareSettings(**settings, **options))[0]


def labels(dataset, name):
    """By the number of the photo; empty where it is not known."""
    (task,) = (task for task in dataset.tasks if task.name == name)
    texts = task.texts(dataset.tasks.by_name(dataset.targets)[name])
    said = dict(zip(dataset.table["path"], texts, strict=True))
    return [said[f"{i}.png"] for i in range(NUM)]


def contradictions(dataset):
    return pd.read_csv(dataset.folder / "contradictions.csv", keep_default_na=False).to_dict("records")


SPELLINGS = {
    "N/A": {"not_applicable": ("N/A",)},
    "-": {"not_applicable": ("N/A", "-")},
    "does not apply": {"not_applicable": ("does not apply",)},
    "NA": {"not_applicable": ("NA",), "missing": ("null",)},
    "0": {"not_applicable": ("0",)},
    "n.v.t.": {"not_applicable": ("n.v.t.",)},
}


@pytest.mark.parametrize("cell", SPELLINGS)
def test_a_cell_may_say_that_its_column_does_not_apply(shop, cell):
    dataset = prepared(shop, heels=["high", "flat", cell, ""] * 6, **SPELLINGS[cell])
    assert dataset.tasks.names == ["kind", "heel", "heel applies"]
    assert labels(dataset, "heel") == ["high", "flat", "", ""] * 6
    assert labels(dataset, "heel applies") == ["yes", "yes", "no", ""] * 6
    assert unlabelled(dataset, dataset.tasks[1]) == (6, 6)
    assert "attribute 'heel' applies to 12 rows and not to 6; of 6 it is not known" in dataset.manifest["notes"]
    assert contradictions(dataset) == []


SETS = {
    "a cell of bars": ["red|blue", "red", "N/A", ""],
    "a list in quotes": ['["red", "blue"]', '["red"]', '["N/A"]', ""],
    "a list with a value besides": ['["red", "blue", "N/A"]', '["red"]', '["N/A", "N/A"]', ""],
}


@pytest.mark.parametrize("kind", SETS)
def test_a_set_may_say_it_too(shop, kind):
    dataset = prepared(shop, heels=SETS[kind] * 6, set_cols=("heel",), not_applicable=("N/A",))
    assert labels(dataset, "heel") == ["blue|red", "red", "", ""] * 6
    assert labels(dataset, "heel applies") == ["yes", "yes", "no", ""] * 6


def test_columns_for_each_value_say_it_where_none_of_them_answers(shop):
    frame = pd.DataFrame(
        {
            "image": [f"{i}.png" for i in range(NUM)],
            "kind": KINDS,
            "heel_high": ["1", "0", "N/A", ""] * 6,
            "heel_low": ["1", "N/A", "N/A", ""] * 6,
        }
    )
    dataset = of(shop, frame, set_cols=("heel",), not_applicable=("N/A",))
    assert labels(dataset, "heel") == ["high|low", "[]", "", ""] * 6
    assert labels(dataset, "heel applies") == ["yes", "yes", "no", ""] * 6


def test_a_rule_says_where_an_attribute_applies_also_where_its_label_is_blank(shop):
    dataset = prepared(shop, heels=["high", "", "", ""] * 3 + HEELS[:12], applies=RULE)
    assert labels(dataset, "heel applies") == APPLIES * 6
    assert labels(dataset, "heel")[:4] == ["high", "", "", ""]
    assert (dataset.tasks[2].applies_to, dataset.tasks[2].classes) == ("heel", ("no", "yes"))
    assert dataset.tasks.attributes == ["kind", "heel"]
    again = open_dataset(dataset.folder)
    assert again.tasks == dataset.tasks
    assert Tasks.from_json(dataset.tasks.to_json()) == dataset.tasks


def test_of_a_product_whose_kind_is_blank_only_a_label_tells(shop):
    kinds = ["", "", *KINDS[2:]]
    dataset = prepared(shop, kinds=kinds, heels=["high", "", *HEELS[2:]], applies=RULE)
    frame = pd.read_csv(shop / "t.csv")
    assert frame["kind"].isna().sum() == 2
    said = dict(zip(dataset.table["path"], dataset.targets[:, 2].tolist(), strict=True))
    assert said["0.png"] == 1 and "1.png" not in said  # which has no label at all


def test_labels_that_contradict_a_rule_count_for_neither_and_are_listed(shop):
    heels = ["high", "flat", "high", "", *HEELS[4:]]
    dataset = prepared(shop, heels=heels, applies=RULE)
    assert labels(dataset, "heel")[2] == labels(dataset, "heel applies")[2] == ""
    assert contradictions(dataset) == [{"line": 4, "attribute": "heel", "label": "high", "because": "kind shirt"}]
    assert any("1 rows contradict themselves" in note for note in dataset.manifest["notes"])
    heels = ["high", "N/A", *HEELS[2:]]
    (listed,) = contradictions(prepared(shop, heels=heels, applies=RULE, not_applicable=("N/A",)))
    assert (listed["line"], listed["label"]) == (3, "")


def test_a_set_of_nothing_contradicts_no_rule(shop):
    dataset = prepared(shop, heels=["high|low", "[]", "[]", ""] * 6, applies=RULE, set_cols=("heel",))
    assert contradictions(dataset) == []
    assert labels(dataset, "heel") == ["high|low", "[]", "", ""] * 6
    assert labels(dataset, "heel applies") == APPLIES * 6


def test_several_columns_of_a_rule_must_all_agree():
    frame = pd.DataFrame({"kind": ["shoe", "shoe", "shirt", None, None], "who": ["her", "him", None, "him", "her"]})
    frame = frame.astype(object).where(frame.notna(), None)
    given = frame.assign(heel=pd.Series([None] * 5, dtype=object))
    rule = {"heel": {"kind": ["shoe"], "who": ["her"]}}
    found, _ = applicability.find(given, given, rule, {}, casefold=False)
    assert found["heel applies"].tolist() == ["yes", "no", "no", "no", None]


def table(**columns):
    frame = pd.DataFrame(columns, dtype=object)
    return frame.astype(object).where(frame.notna(), None)


def test_a_rule_is_met_by_equal_numbers_and_with_casefold_by_words_of_any_case():
    frame = table(size=["36", "36.0", "37", None], kind=["Shoe", "SHOE", "shirt", "shoe"], heel=[None] * 4)
    for labels in (frame, frame[["heel"]]):  # a rule by an attribute, and by any other column
        by_size, _ = applicability.find(frame, labels, {"heel": {"size": ["36"]}}, {}, casefold=False)
        assert by_size["heel applies"].tolist() == ["yes", "yes", "no", None]
        by_kind, _ = applicability.find(frame, labels, {"heel": {"kind": ["shoe"]}}, {}, casefold=True)
        assert by_kind["heel applies"].tolist() == ["yes", "yes", "no", "yes"]
        by_case, _ = applicability.find(frame, labels, {"heel": {"kind": ["shoe"]}}, {}, casefold=False)
        assert by_case["heel applies"].tolist() == ["no", "no", "no", "yes"]


def test_what_asks_for_an_attribute_that_does_not_apply_does_not_apply_itself():
    frame = table(
        height=["9", None, None, "3", None],
        heel=["high", "flat", None, None, None],
        kind=["shoe", "shoe", "shirt", "shirt", "shoe"],
    )
    rules = {"height": {"heel": ["high"]}, "heel": {"kind": ["shoe"]}}
    found, told = applicability.find(frame, frame, rules, {}, casefold=False)
    assert found["heel applies"].tolist() == ["yes", "yes", "no", "no", "yes"]
    assert found["height applies"].tolist() == ["yes", "no", "no", None, None]
    assert told.contradictions.to_numpy().tolist() == [[3, "height", "3", "heel does not apply"]]
    with pytest.raises(DataError, match="in a circle, 'heel' by 'height' by 'heel'|in a circle, 'height' by 'heel'"):
        applicability.find(frame, frame, {"heel": {"height": ["9"]}, "height": {"heel": ["high"]}}, {}, casefold=False)


def test_a_reason_names_only_the_columns_that_speak_against_the_label():
    frame = table(kind=["shoe", "shirt"], who=["him", "him"], heel=["high", "high"])
    rules = {"heel": {"kind": ["shoe"], "who": ["her", "him"]}}
    _, told = applicability.find(frame, frame, rules, {}, casefold=False)
    assert told.contradictions["because"].tolist() == ["kind shirt"]


@pytest.mark.parametrize("cell", ["n/a", " N/A", "N/\u200bA", "N/A\u00a0"])
def test_spellings_are_known_in_any_case_and_with_odd_spaces(shop, cell):
    dataset = prepared(shop, heels=["high", "flat", cell, ""] * 6, not_applicable=("N/A",))
    assert labels(dataset, "heel applies") == ["yes", "yes", "no", ""] * 6


def test_the_first_value_of_a_list_is_none_that_says_it_does_not_apply(shop):
    cells = ["high|low", "flat", "N/A|low", "N/A|n/a"] * 6
    dataset = prepared(shop, heels=cells, first_value=("heel",), not_applicable=("N/A",))
    assert labels(dataset, "heel") == ["high", "flat", "low", ""] * 6
    assert labels(dataset, "heel applies") == ["yes", "yes", "yes", "no"] * 6


def test_rows_of_one_product_of_which_only_one_says_what_it_is_keep_their_other_labels(shop):
    frame = pd.DataFrame({"id": range(NUM), "image": [f"{i}.png" for i in range(NUM)], "kind": KINDS, "heel": HEELS})
    frame.loc[2, "heel"] = "high"
    again = frame.iloc[[2]].assign(kind="shirt", heel="")
    frame.loc[2, "kind"] = ""
    dataset = of(shop, pd.concat([frame, again]), applies=RULE)
    assert dataset.manifest["counts"]["reasons"] == {"duplicate_row": 1}
    assert [labels(dataset, name)[2] for name in ("kind", "heel", "heel applies")] == ["shirt", "", ""]
    (listed,) = contradictions(dataset)
    assert (listed["label"], listed["because"]) == ("high", "lines 4, 26 are one product")


def test_splits_that_a_table_names_need_no_product_in_train_to_which_nothing_applies(shop):
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(NUM)], "kind": ["shoe", "boot"] * 12, "split": "train"})
    frame["heel"] = ["high", "flat"] * 12
    frame.loc[[20, 21], "split"], frame.loc[[22, 23], "split"] = "val", "test"
    frame.loc[23, "heel"] = "N/A"
    dataset = of(shop, frame, not_applicable=("N/A",), split_col="split")
    assert labels(dataset, "heel applies")[23] == ""
    assert any("label dropped, train has none: 'no' of column 'heel applies'" in n for n in dataset.manifest["notes"])


def test_values_of_a_rule_that_do_not_occur_are_told(shop):
    told = prepared(shop, applies={"heel": {"kind": ["shoe", "boots", "boot"]}}).manifest["notes"]
    assert any("no row has 'boots' in column 'kind'; did you mean 'boot'?" in note for note in told)
    with pytest.raises(DataError, match="no row has 'Shoe' in column 'kind'"):
        prepared(shop, applies={"heel": {"kind": ["Shoe"]}})
    assert labels(prepared(shop, applies={"heel": {"kind": ["Shoe", "BOOT"]}}, casefold=True), "heel applies")[:2] == [
        "yes",
        "yes",
    ]
    with pytest.raises(DataError, match="'heels' is no attribute; did you mean 'heel'"):
        prepared(shop, applies={"heels": {"kind": ["shoe"]}})
    with pytest.raises(DataError, match="column 'kinds' is not in the table; did you mean 'kind'"):
        prepared(shop, applies={"heel": {"kinds": ["shoe"]}})


def test_a_column_that_is_blank_for_whole_kinds_is_told_and_nothing_is_done(shop):
    dataset = prepared(shop)
    assert dataset.tasks.names == ["kind", "heel"]
    (told,) = (note for note in dataset.manifest["notes"] if "is blank in" in note)
    assert "column 'heel' is blank in 12 of 12 rows of 1 classes of 'kind' (shirt 12)" in told
    given = told.partition("--applies ")[2].strip("'")
    (settings,) = [reading.build(PrepareSettings, {"table": Given("t", ""), "applies": Given(given, "--applies")})]
    assert settings.applies == {"heel": {"kind": ("boot", "shoe")}}
    assert labels(prepared(shop, applies=settings.applies), "heel applies") == APPLIES * 6
    random = np.random.default_rng(0).permutation(HEELS).tolist()
    assert not any("is blank in" in note for note in prepared(shop, heels=random).manifest["notes"])


def test_a_kind_of_a_few_rows_that_are_blank_by_chance_is_no_proposal():
    kind = pd.Series(["a"] * 200 + ["b"] * 4, dtype=object)
    half = pd.Series(["x", None] * 102, dtype=object)
    half[200:] = None
    labels = pd.DataFrame({"kind": kind, "half": half})
    assert applicability.propose(labels, {}) == []
    labels = pd.DataFrame({"kind": ["a"] * 200 + ["b"] * 20, "half": ["x", None] * 100 + [None] * 20})
    labels = labels.astype(object).where(labels.notna(), None)
    (note,) = applicability.propose(labels, {})
    assert "20 of 20 rows" in note.text


def test_a_wrong_label_hides_no_proposal_and_what_is_too_rare_to_tell_is_not_in_its_rule():
    kind = ["shoe"] * 100 + ["shirt"] * 100 + ["scarf"] * 2
    heel = pd.Series(["high"] * 95 + [None] * 5 + ["flat"] + [None] * 101, dtype=object)
    (note,) = applicability.propose(pd.DataFrame({"kind": kind, "heel": heel}), {})
    assert "blank in 101 of 102 rows of 2 classes of 'kind' (shirt 100, scarf 2)" in note.text
    assert note.text.endswith("""--applies '{"heel": {"kind": ["shoe"]}}'""")


def test_a_rule_is_written_in_yaml_on_the_command_line_and_in_a_file(shop):
    text = "{heel: {kind: [shoe, boot]}}"
    given = {"table": Given("t.csv", "--table")}
    settings = reading.build(PrepareSettings, given | {"applies": Given(text, "--applies")})
    (shop / "p.yaml").write_text("table: t.csv\napplies:\n  heel:\n    kind: [shoe, boot]\n")
    assert reading.build_from_file(PrepareSettings, {}, shop / "p.yaml") == [settings]
    assert settings.applies == {"heel": {"kind": ("shoe", "boot")}}
    one = reading.build(PrepareSettings, given | {"applies": Given("{heel: {kind: shoe}}", "--applies")})
    assert one.applies == {"heel": {"kind": ("shoe",)}}
    twice = "{heel: {kind: [a]}, heel: {who: [b]}}"
    for wrong in ("heel", "{heel: shoe}", "{heel: {}}", "{heel: {kind: []}}", "{heel: [", "[" * 5000, "!!python/x {}",
                  twice, "{heel: {heel: [high]}}"):  # fmt: skip
        with pytest.raises(UsageError, match="--applies"):
            reading.build(PrepareSettings, given | {"applies": Given(wrong, "--applies")})
    (shop / "p.yaml").write_text("table: t.csv\napplies:\n  heel: {kind: shoe}\n  heel: {who: her}\n")
    with pytest.raises(UsageError, match="p.yaml line 2: 'heel' is given twice"):
        reading.build_from_file(PrepareSettings, {}, shop / "p.yaml")
    with pytest.raises(UsageError, match="'N/A' is in both"):
        reading.build(PrepareSettings, given | {name: Given("N/A", "") for name in ("missing", "not_applicable")})


def test_limits_that_every_product_shares_are_no_task(shop):
    dataset = prepared(shop, kinds=["shoe", "boot"] * 12, heels=["high", "flat"] * 12, applies=RULE)
    assert dataset.tasks.names == ["kind", "heel"]
    assert any("'heel applies' left out" in note for note in dataset.manifest["notes"])


def test_few_products_to_which_nothing_applies_are_no_rare_class(shop):
    kinds, heels = ["shirt", *["shoe", "boot"] * 11, "shoe"], ["", *["high", "flat"] * 11, "high"]
    dataset = prepared(shop, kinds=kinds, heels=heels, applies=RULE, rare="drop", min_class_images=3)
    assert labels(dataset, "heel applies") == ["no"] + ["yes"] * 23


def test_a_second_table_says_it_too(shop):
    prepared(shop, heels=["high", "flat", "N/A", ""] * 6, not_applicable=("N/A",))
    frame = pd.read_csv(shop / "t.csv", keep_default_na=False)
    frame.iloc[:16].to_csv(shop / "t.csv", index=False)
    frame.iloc[16:].to_csv(shop / "u.csv", index=False)
    settings = {"table": str(shop / "t.csv"), "test_table": str(shop / "u.csv"), "out": str(shop / "out"), "px": 32}
    dataset = build_dataset(PrepareSettings(**settings, not_applicable=("N/A",), workers=1, reuse=False))[0]
    assert labels(dataset, "heel applies") == ["yes", "yes", "no", ""] * 6


def test_files_of_stranger_tasks_are_refused():
    plain = {"name": "heel", "slug": "heel", "classes": ["a", "b"]}
    limits = {"name": "heel applies", "slug": "h", "classes": ["no", "yes"], "applies_to": "heel"}
    assert Tasks.from_json([plain, limits]).attributes == ["heel"]
    for wrong in (
        [limits],
        [plain, limits | {"applies_to": "heel applies"}],
        [plain, limits | {"classes": ["yes", "no"]}],
        [plain, limits | {"applies_to": 3}],
        [plain, limits, limits | {"name": "again", "slug": "again"}],
    ):
        with pytest.raises(DataError, match="tasks"):
            Tasks.from_json(wrong)
