"""What users read agrees with what the program does."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from fmtl import cli, config
from fmtl.config import MODES, TrainSettings
from fmtl.report import REASONS

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.yaml"))
COMMANDS = sorted(cli.cli.commands)


def test_mlproject_has_every_command_and_declares_only_what_is_required():
    project = yaml.safe_load((ROOT / "MLproject").read_text())
    assert sorted(project["entry_points"]) == COMMANDS
    for name, entry in project["entry_points"].items():
        kind = getattr(config, f"{name.capitalize()}Settings")
        required = {k for k, field in kind.model_fields.items() if field.is_required()}
        assert set(entry.get("parameters", {})) == required
        assert re.fullmatch(r"python -m fmtl (\w+)( --\w+ \{\w+\})*", entry["command"]).group(1) == name


def test_mlprojects_comments_list_every_other_setting():
    text = (ROOT / "MLproject").read_text()
    for name in COMMANDS:
        kind = getattr(config, f"{name.capitalize()}Settings")
        comment = re.search(rf"((?:  #.*\n)+)  {name}:", text).group(1)
        for setting, field in kind.model_fields.items():
            assert field.is_required() or re.search(rf"\b{setting}\b", comment), f"{name}: {setting}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme_and_every_setting_in_the_docs(command):
    assert re.search(rf"\b(fmtl|-e|make) {command}\b|`{command}`", (ROOT / "README.md").read_text())
    kind = getattr(config, f"{command.capitalize()}Settings")
    section = (ROOT / "docs" / "configuration.md").read_text().split(f"## {command}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [row_of(kind, name) for name in kind.model_fields]


def row_of(kind, name):
    field = kind.model_fields[name]
    default = "required" if field.is_required() else config.default_text(kind, name)
    return f"| `{name}` | {default} | {config.allowed_text(kind, name)} | {field.description} |"


def test_help_says_what_a_setting_may_be_and_what_it_is_by_default():
    text = " ".join(subprocess.run([sys.executable, "-m", "fmtl", "train", "--help"], capture_output=True, text=True,
                                   check=True, cwd=ROOT).stdout.split())  # fmt: skip
    for said in (
        "[default: 0.1 (tuned), 0 (baseline); 0 to below 1]",
        "[default: 32; 2 to 65536, auto]",
        "[default: auto; auto, fp32, bf16]",
        "[default: none; none, trivial, rand]",
        "[default: 0.003 (tuned), 0.001 (baseline); above 0 to 10]",
        "[default: 0; 0 or more]",
    ):
        assert said in text, said


def test_every_reason_for_a_reject_is_in_the_docs():
    text = (ROOT / "docs" / "catalogues.md").read_text()
    assert [reason for reason in REASONS if f"`{reason}`" not in text] == []


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_experiment_loads_and_says_its_command_time_and_result(path):
    assert config.build_from_file(TrainSettings, {}, path)
    header = path.read_text().split("\nbackbone")[0]
    assert f"fmtl train --config {path.relative_to(ROOT)}" in header
    assert f"mlflow run . -e train -P config={path.relative_to(ROOT)}" in header
    assert re.search(r"# Time: .*\d", header)
    assert re.search(r"# Result: .*\d", header)


@pytest.mark.parametrize("mode", ["tuned", "baseline"])
def test_the_notebooks_recipes_pin_every_value_of_their_mode(mode):
    (settings,) = config.build_from_file(TrainSettings, {}, ROOT / "experiments" / f"notebook_{mode}.yaml")
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
