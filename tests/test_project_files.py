"""What users read agrees with what the program does."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from fmtl import cli
from fmtl.catalogue.reasons import Reason
from fmtl.errors import did_you_mean
from fmtl.settings import reading, space
from fmtl.settings.train import MODES, TrainSettings

ROOT = Path(__file__).parent.parent


def load_generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load_generator()
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.yaml"))
COMMANDS = sorted(cli.cli.commands)


def test_mlproject_has_every_command_and_declares_only_what_is_required():
    project = yaml.safe_load((ROOT / "MLproject").read_text())
    assert sorted(project["entry_points"]) == COMMANDS == sorted(generate.KINDS)
    for name, entry in project["entry_points"].items():
        required = {k for k, field in generate.KINDS[name].model_fields.items() if field.is_required()}
        if any(option.name == "config" for option in cli.cli.commands[name].params):
            required = set()  # a file may name them
        required |= {"config"} if name == "sweep" else set()  # a file of more than its settings
        assert set(entry.get("parameters", {})) == required
        assert re.fullmatch(r"python -m fmtl (\w+)( --\w+ \{\w+\})*", entry["command"]).group(1) == name


def test_the_tables_of_settings_are_those_that_make_docs_writes():
    text = generate.CONFIGURATION.read_text()
    assert generate.configuration(text) == text
    for kind in generate.KINDS.values():
        for name, field in kind.model_fields.items():
            assert f"| `{name}` | " in text and field.description in text


def test_mlprojects_comments_are_those_that_make_docs_writes():
    text = generate.MLPROJECT.read_text()
    assert generate.mlproject(text) == text
    for name in COMMANDS:
        comment = re.search(rf"((?:  #.*\n)+)  {name}:", text).group(1)
        for setting, field in generate.KINDS[name].model_fields.items():
            assert field.is_required() or re.search(rf"\b{setting}\b", comment), f"{name}: {setting}"


def test_a_setting_that_changed_changes_the_docs():
    text = generate.CONFIGURATION.read_text().replace("| `seed` | 0 |", "| `seed` | 1 |")
    assert generate.configuration(text) == generate.CONFIGURATION.read_text() != text
    project = generate.MLPROJECT.read_text()
    assert generate.mlproject(project.replace("weight_decay, ", "")) == project


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command):
    assert re.search(rf"\b(fmtl|-e|make) {command}\b|`{command}`", (ROOT / "README.md").read_text())


def test_help_says_what_a_setting_may_be_and_what_it_is_by_default():
    text = " ".join(subprocess.run([sys.executable, "-m", "fmtl", "train", "--help"], capture_output=True, text=True,
                                   check=True, cwd=ROOT).stdout.split())  # fmt: skip
    for said in (
        "[default: 1 (tuned), 0.75 (baseline); 0.1 to 1]",
        "[default: 32; 2 to 65536, auto]",
        "[default: auto; auto, fp32, bf16]",
        "[default: none; none, trivial, rand]",
        "[default: 0.003 (tuned), 0.001 (baseline); above 0 to 10]",
        "[default: 0; 0 or more]",
    ):
        assert said in text, said


def test_every_reason_for_a_reject_is_in_the_docs():
    text = (ROOT / "docs" / "catalogues.md").read_text()
    assert [reason for reason in Reason if f"`{reason}`" not in text] == []


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_experiment_loads_and_says_its_command_time_and_result(path):
    command = "sweep" if path.name.startswith("sweep_") else "train"
    assert space.read(path, {}) if command == "sweep" else reading.build_from_file(TrainSettings, {}, path)
    header = path.read_text().split("\nbackbone")[0]
    assert f"fmtl {command} --config {path.relative_to(ROOT)}" in header
    assert f"mlflow run . -e {command} -P config={path.relative_to(ROOT)}" in header
    assert re.search(r"# Time: .*\d", header)
    assert re.search(r"# Result: .*\d", header)


@pytest.mark.parametrize("mode", ["tuned", "baseline"])
def test_the_notebooks_recipes_pin_every_value_of_their_mode(mode):
    (settings,) = reading.build_from_file(TrainSettings, {}, ROOT / "experiments" / f"notebook_{mode}.yaml")
    assert set(MODES[mode]) <= settings.model_fields_set


def test_the_lock_meets_every_requirement():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    pinned = dict(
        line.split(";")[0].strip().lower().replace("_", "-").split("==")
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if "==" in line
    )
    for text in wanted:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), text


def test_make_help_lists_every_target():
    text = subprocess.run(["make", "-s", "-C", str(ROOT), "help"], capture_output=True, text=True, check=True).stdout
    listed = {word for line in text.splitlines() for word in line.split("  ")[1].removeprefix("make ").split()}
    phony = re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text()).group(1).split()
    assert listed == set(phony)


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("colr", ["Usage", "colour"], "did you mean 'colour'?"),
        ("x", ["Usage"], "known: Usage"),
        ("x", [], "known: Usage"),
    ],
)
def test_a_suggestion_is_made_where_something_is_spelt_alike(name, known, said):
    assert did_you_mean(name, known, otherwise="known: Usage") == said
