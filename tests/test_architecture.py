"""The layered house: imports point down only, and some libraries have one door."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fmtl"

FLOORS = [
    {"errors"},
    {"tasks", "durable", "tables"},
    {
        "catalogue",
        "columns",
        "splits",
        "images",
        "transforms",
        "sample",
        "hardware",
        "labels",
        "duplicates",
        "packing",
        "depthwise",
    },
    {"checkpoints", "dataset", "losses", "metrics", "models", "shards"},
    {"optim", "predictor", "plots", "leaderboard", "batches", "loaders", "workers", "baselines", "probe", "explain"},
    {"config", "engine", "tracking", "report", "decoding", "features"},
    {"training", "standings", "preparation", "artifacts", "gallery", "suspects"},
    {"notes"},
    {"pipeline", "notebook"},
    {"pipeline.main"},
    {"cli"},
    {"__main__"},
]
GUARDED = {
    "click": {"cli"},
    "mlflow": {"tracking"},
    "yaml": {"config"},
    "pydantic": {"config"},
    "timm": {"models", "optim", "depthwise"},
    "torchvision.models": {"models"},
    "fmtl.config": {"cli", "pipeline", "pipeline.main", "notebook"},
}
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(module: str) -> str:
    """``fmtl.tracking.run`` is in the room ``tracking``; ``pipeline.main`` is a room of its own."""
    parts = module.split(".")[1:]
    return "pipeline.main" if parts[:2] == ["pipeline", "main"] else parts[0]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """Every module imported anywhere in a file, ``from x import y`` as ``x.y``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def violations(path: Path) -> list[str]:
    module = module_of(path)
    room = room_of(module)
    found = []
    for name in sorted(imports_of(path)):
        if name.startswith("fmtl.") and name != "fmtl.__version__":
            other = room_of(name)
            if other != room and FLOOR_OF[other] >= FLOOR_OF[room]:
                found.append(f"{module} (floor {FLOOR_OF[room]}) imports {name} (floor {FLOOR_OF[other]})")
            if room == other == "pipeline" and name.split(".")[2] in PIPELINE - {module.split(".")[-1]}:
                found.append(f"{module} imports its neighbour {name}")
        for library, rooms in GUARDED.items():
            if (name + ".").startswith(library + ".") and room not in rooms and room != library.removeprefix("fmtl."):
                found.append(f"{module} imports {name}; only {sorted(rooms)} may")
    return found


PIPELINE = {path.stem for path in (PACKAGE / "pipeline").glob("*.py")} - {"__init__", "main"}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down_and_libraries_have_one_door(path):
    assert violations(path) == []


def test_every_module_has_a_floor():
    assert {room_of(module_of(path)) for path in FILES} == set(FLOOR_OF)


def test_an_upward_import_is_noticed(tmp_path, monkeypatch):
    house = tmp_path / "fmtl"
    house.mkdir()
    (house / "errors.py").write_text("import mlflow\nfrom fmtl.engine import fit\n")
    monkeypatch.setitem(globals(), "PACKAGE", house)
    assert len(violations(house / "errors.py")) == 2
