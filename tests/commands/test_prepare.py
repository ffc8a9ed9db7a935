import json
import re

import mlflow
import numpy as np
import pandas as pd
import pytest

from fmtl.commands.prepare import build_dataset, prepare, sample_folder
from fmtl.dataset.prepared import GROUP, REPORT, open_dataset
from fmtl.errors import DataError, UsageError
from fmtl.settings.schema import PrepareSettings
from fmtl.tasks import IGNORE_INDEX

NAMES = tuple(f"{i}.png" for i in range(1, 13))


def rows(*lines):
    return "id,image,colour,kind\n" + "\n".join(lines) + "\n"


GOOD = [f"{i},{i}.png,{'red' if i % 2 else 'blue'},{'hat' if i % 3 else 'bag'}" for i in range(1, 13)]


def build(table, tmp_path, **options):
    return build_dataset(PrepareSettings(table=str(table), out=str(tmp_path / "out"), px=32, **options))


def test_every_row_is_once_in_the_table_or_once_in_the_rejects(write_catalogue, tmp_path):
    bad = ["13,none.png,red,hat", "14,../x.png,red,hat", "15,1.png,,", "16,2.png,red", "17,,red,hat", ",3.png,red,hat"]
    dataset, _ = build(write_catalogue(rows(*GOOD, *bad), NAMES), tmp_path)
    rejects = pd.read_csv(dataset.folder / "rejects.csv", dtype=str, keep_default_na=False)
    assert dataset.table["id"].tolist() == [str(i) for i in range(1, 13)]
    assert rejects[["line", "id", "reason"]].to_numpy().tolist() == [
        ["14", "13", "missing"],
        ["15", "14", "outside_root"],
        ["16", "15", "no_label"],
        ["17", "16", "short_row"],
        ["18", "17", "blank_image"],
        ["19", "", "blank_id"],
    ]
    counts = dataset.manifest["counts"]
    assert counts["read"] == 18 == counts["kept"] + counts["rejected"]
    assert counts["reasons"] == {r: 1 for r in rejects["reason"]}


def test_a_blank_label_masks_that_task_only(write_catalogue, tmp_path):
    lines = [*GOOD[:-1], "12,12.png,,bag"]
    dataset, _ = build(write_catalogue(rows(*lines), NAMES), tmp_path)
    assert dataset.table["colour"].iloc[-1] == IGNORE_INDEX
    assert dataset.tasks[1].classes[dataset.table["kind"].iloc[-1]] == "bag"


def test_labels_are_cleaned_before_they_become_classes(write_catalogue, tmp_path):
    lines = [*GOOD[:-1], "12,12.png, red\u200b ,bag"]
    dataset, _ = build(write_catalogue(rows(*lines), NAMES), tmp_path)
    assert dataset.tasks[0].classes == ("blue", "red")
    assert any("'colour': 1 labels had odd spaces" in note for note in dataset.manifest["notes"])


def test_byte_identical_images_stay_in_one_split(dataset):
    twins = dataset.table[dataset.table.duplicated(GROUP, keep=False)]
    assert len(twins) == 6
    assert (twins.groupby(GROUP)["split"].nunique() == 1).all()
    assert dataset.manifest["counts"]["conflicting_groups"] == 1


def test_the_same_input_gives_the_same_digest_and_another_seed_another(write_catalogue, tmp_path):
    table = write_catalogue(rows(*GOOD), NAMES)
    digests = [build(table, tmp_path, seed=seed)[0].digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_targets_and_pixels_are_those_of_the_row(write_catalogue, tmp_path):
    table = write_catalogue(rows(*GOOD), NAMES)
    dataset, _ = build(table, tmp_path)
    frame = pd.read_csv(table, dtype=str)
    for row in range(len(frame)):
        colour = dataset.tasks[0].classes[dataset.table["colour"].iloc[row]]
        assert colour == frame["colour"].iloc[row]
    from fmtl.dataset.pixels import images

    for row in (0, 7):
        want = images.decode((table.parent / "images" / frame["image"].iloc[row]).read_bytes(), px=32)
        assert (dataset.pixels(np.array([row]))[0] == want).all()


def test_too_many_rejects_fail_and_name_the_folder(write_catalogue, tmp_path):
    table = write_catalogue(rows(*GOOD), NAMES[:4])
    with pytest.raises(DataError, match=r"8 of 12 rows were rejected \(missing 8\).*line 6.*--images names the folder"):
        build(table, tmp_path)
    assert not (tmp_path / "out").exists()
    dataset, _ = build(table, tmp_path, max_reject_fraction=0.7)
    assert len(dataset.table) == 4


def test_a_folder_that_is_something_else_is_left_alone(write_catalogue, tmp_path):
    table = write_catalogue(rows(*GOOD), NAMES)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="exists and is no prepared dataset"):
        build(table, tmp_path)
    inside, _ = build_dataset(PrepareSettings(table=str(table), out=str(tmp_path / "ours"), px=32))
    (inside.folder / "table.csv").write_text(table.read_text())
    with pytest.raises(UsageError, match="would be replaced"):
        build_dataset(PrepareSettings(table=str(inside.folder / "table.csv"), out=str(inside.folder)))
    assert (tmp_path / "out" / "thesis.txt").read_text() == "x"


def test_folders_of_others_survive_the_sample_and_a_stray_manifest(write_catalogue, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, name in (("my-catalogue", "thesis.txt"), ("webapp", "manifest.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text('{"name": "app"}')
    with pytest.raises(UsageError, match="holds other files"):
        sample_folder("my")
    with pytest.raises(UsageError, match="no prepared dataset"):
        build_dataset(PrepareSettings(table=str(write_catalogue(rows(*GOOD), NAMES)), out="webapp"))
    assert (tmp_path / "my-catalogue" / "thesis.txt").exists() and (tmp_path / "webapp" / "manifest.json").exists()


def test_a_label_column_may_have_any_name(write_catalogue, tmp_path):
    text = rows(*GOOD).replace("colour,kind", "group,path")
    dataset, _ = build(write_catalogue(text, NAMES), tmp_path)
    assert [task.name for task in dataset.tasks] == ["group", "path"]
    assert [task.slug for task in dataset.tasks] == ["group", "path_2"]


def test_preparing_again_replaces_the_dataset(write_catalogue, tmp_path):
    table = write_catalogue(rows(*GOOD), NAMES)
    build(table, tmp_path)
    build(table, tmp_path, label_cols=("kind",))
    assert [task.name for task in open_dataset(tmp_path / "out").tasks] == ["kind"]


def test_a_preset_knows_its_columns(write_catalogue, tmp_path):
    header = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName\n"
    lines = [
        f"{i},{'Men' if i % 2 else 'Women'},A{i % 3},S{i % 2},T{i % 4},C{i % 3},{'Fall' if i % 2 else 'Summer'},2012,"
        f"{['Casual', 'NA', ''][i % 3]},Shirt{', blue' if i == 5 else ''}"
        for i in range(1, 13)
    ]
    table = write_catalogue(header + "\n".join(lines) + "\n", tuple(f"{i}.jpg" for i in range(1, 13)))
    dataset, _ = build(table, tmp_path, preset="kaggle-fashion")
    assert len(dataset.table) == 12
    assert any("1 lines had unescaped delimiters" in note for note in dataset.manifest["notes"])
    notes = dataset.manifest["notes"]
    assert any("'usage' was named and is kept, though: constant" in note for note in notes)
    assert "column 'usage': blanks written as 4 'NA', 4 empty" in notes
    assert "usage" in [task.name for task in dataset.tasks]


def test_the_run_records_what_was_prepared(store, capsys):
    prepared = prepare(PrepareSettings(table="sample", px=32))
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.status == "FINISHED"
    assert run.data.tags["fmtl.kind"] == "prepare"
    assert run.data.tags["fmtl.outcome"] == "completed"
    assert run.data.tags["fmtl.data"] == prepared.digest == run.inputs.dataset_inputs[0].dataset.digest
    assert run.data.params["px"] == "32"
    assert run.data.metrics["rows/read"] == 600 == run.data.metrics["rows/kept"] + run.data.metrics["rows/rejected"]
    artifacts = {item.path for item in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    assert artifacts == {"manifest.json", "rejects.csv", "duplicates.csv", "report.html"}
    out = capsys.readouterr().out
    assert "600 rows read = 598 kept + 2 rejected (1 missing, 1 truncated)" in out
    assert "report: data/prepared/report.html" in out


def test_the_report_is_one_file_without_outside_resources_and_escapes_labels(write_catalogue, tmp_path):
    lines = [*GOOD, "13,1.png,<script>alert(1)</script>,hat"]
    dataset, _ = build(write_catalogue(rows(*lines), NAMES), tmp_path)
    page = (dataset.folder / REPORT).read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_the_manifest_names_every_other_file(dataset):
    manifest = json.loads((dataset.folder / "manifest.json").read_text())
    names = {p.name for p in dataset.folder.iterdir()} - {"manifest.json"}
    assert set(manifest["files"]) == names
