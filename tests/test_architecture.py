"""The house with wings: pyproject.toml says which may import which, and what an import contract can't say is here."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "fmtl").rglob("*.py"))


def lint_imports(folder: Path) -> subprocess.CompletedProcess:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_imports_point_down_and_libraries_have_one_door():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "planted", "said"),
    [
        ("dataset/decode.py", "import torch", "Preparing needs no torch"),
        ("dataset/duplicates.py", "def late():\n    import torch", "Preparing needs no torch"),
        ("catalogue/table.py", "from fmtl.model import network", "imports only point down"),
        ("training/engine.py", "from fmtl.reports import plots", "imports only point down"),
        ("commands/train.py", "import mlflow", "MLflow: tracking"),
    ],
)
def test_a_planted_import_is_noticed(tmp_path, file, planted, said):
    shutil.copytree(ROOT / "fmtl", tmp_path / "fmtl", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "fmtl" / file).open("a", encoding="utf-8") as code:
        code.write(f"\n\n{planted}\n")
    done = lint_imports(tmp_path)
    broken = [line for line in done.stdout.splitlines() if " BROKEN" in line]
    assert done.returncode == 1 and any(said in line for line in broken), done.stdout


def test_wings_are_small_enough_to_be_looked_through():
    for folder in {path.parent for path in FILES}:
        num, most = len(list(folder.glob("*.py"))), 10 if folder == ROOT / "fmtl" else 14
        assert num <= most or folder.name == "commands", f"{folder}: {num} files"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_are_absolute_and_torchvisions_models_are_the_models(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.level), "relative import"
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert "model" in path.parts or not any(name.startswith("torchvision.models") for name in names)


def test_what_computes_nothing_starts_without_torch():
    """Import contracts see what may be imported; this is what is."""
    commands = ", ".join(
        f"fmtl.commands.{name}"
        for name in ("prepare", "compare", "register", "upkeep.sync", "upkeep.doctor", "upkeep.clean")
    )
    code = (
        f"import sys, fmtl.cli, fmtl.settings.schema, {commands}\n"
        "from fmtl.settings.schema import PrepareSettings; PrepareSettings(table='t').resolve()\n"
        "sys.exit(' '.join(sorted({'torch', 'timm', 'torchvision'} & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
