"""fmtl-serve: the modules that run exported files, all that they need, and nothing that takes long to import."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from kit.servers import RUN, Live, coded, started
from PIL import Image

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy" / "fmtl-serve"
HEAVY = {"torch", "torchvision", "timm", "mlflow", "sklearn", "scipy", "matplotlib", "onnx", "yaml", "filelock", "tqdm"}
OF_EXTRAS = {"pandas", "pyarrow", "pillow_heif"}  # imported by what only fmtl calls, or where it is installed
NAMES = {
    "PIL": "pillow", "python_multipart": "python-multipart", "prometheus_client": "prometheus-client",
    "starlette": "fastapi",
}  # fmt: skip
TAGGED = {"fmtl/py.typed"}


def project(path):
    return tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8"))


def module_files():
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "fmtl").rglob("*.py")
    }


def imported(path):
    """Names of modules that a file imports anywhere, but for its types."""

    def walk(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from (name.name for name in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                yield child.module
                yield from (f"{child.module}.{name.name}" for name in child.names)
            yield from walk(child)

    return set(walk(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.fixture(scope="module")
def closure():
    """Files of fmtl that the command needs, and the libraries that these import."""
    files, seen, libraries = module_files(), set(), set()
    todo = ["fmtl.serving.command"]
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        for name in imported(files[module]):
            parts = name.split(".")
            inside = [n for k in range(1, len(parts) + 1) if (n := ".".join(parts[:k])) in files]
            todo += inside
            if not inside and parts[0] not in sys.stdlib_module_names:
                libraries.add(parts[0])
    return {files[module].relative_to(ROOT).as_posix() for module in seen}, libraries


def test_it_holds_what_it_imports_and_its_pages_and_no_more(closure):
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fmtl" / "serving").glob("*.html")}
    listed = project(FOLDER)["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert set(listed.values()) == closure[0] | pages | TAGGED
    assert all(source == f"../../{target}" for source, target in listed.items())


def test_it_requires_what_it_imports_and_is_of_the_same_version(closure):
    whole, light = project(ROOT)["project"], project(FOLDER)["project"]
    required = {name.partition(">")[0].lower() for name in light["dependencies"]}
    wanted = {NAMES.get(name, name) for name in closure[1] - OF_EXTRAS}
    assert wanted <= required
    assert required == wanted
    assert not closure[1] & HEAVY
    everything = whole["dependencies"] + [n for extra in whole["optional-dependencies"].values() for n in extra]
    assert set(light["dependencies"]) <= set(everything)
    assert (light["version"], light["requires-python"]) == (whole["version"], whole["requires-python"])


def test_the_command_starts_without_what_takes_long():
    code = "import sys, fmtl.serving.command, fmtl.serving.running; print(*{n.partition('.')[0] for n in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not set(done.stdout.split()) & (HEAVY | {"pandas", "pyarrow"})


@pytest.mark.slow
def test_an_environment_of_its_own_is_small_labels_and_serves(tmp_path):
    """Installed from the registry; what it says is what this fmtl says of the same file."""
    from kit.exported import exported_file

    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    install = [str(environment / "bin" / "pip"), "install", "--quiet", "--no-cache-dir", str(FOLDER)]
    subprocess.run(install, check=True, capture_output=True)
    size = sum(path.lstat().st_size for path in environment.rglob("*") if path.is_file())
    assert size < 400e6, size
    (tmp_path / "shop.onnx").write_bytes(exported_file(0, "1"))
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for n in range(5):
        small = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((70 + n, 90)).save(tmp_path / "photos" / f"{n}.jpg")
    light, whole = [str(environment / "bin" / "fmtl-serve")], [sys.executable, "-c", RUN]
    for command, out in ((light, "light.csv"), (whole, "whole.csv")):
        arguments = ["shop.onnx", "--images", "photos", "--out", out]
        alone = {} if command == light else {"PYTHONPATH": str(ROOT)}
        subprocess.run(command + arguments, cwd=tmp_path, check=True, capture_output=True, env=os.environ | alone)
    assert (tmp_path / "light.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    with started([*light, str(tmp_path / "shop.onnx"), "--port", "0"], {"PYTHONPATH": ""}) as (process, port):
        live = Live(process, port, tmp_path / "shop.onnx")
        status, _, answer = live.post({"images": [coded((tmp_path / "photos" / "0.jpg").read_bytes())]})
        assert status == 200 and answer["predictions"][0]["status"] == "ok"
        assert live.end() == 0
