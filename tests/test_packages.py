"""The packages that are published: built from what is committed, installed elsewhere, and run."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A source package made from the files that are under version control, and a wheel made from that package alone."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("packages")
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", "HEAD"], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(source)], input=archive, check=True)
    build = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
    subprocess.run([sys.executable, "-c", build, "build_sdist", str(out)], cwd=source, check=True, capture_output=True)
    (sdist,) = out.glob("*.tar.gz")
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as package:
        package.extractall(unpacked, filter="data")
    (folder,) = unpacked.iterdir()
    subprocess.run([sys.executable, "-c", build, "build_wheel", str(out)], cwd=folder, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(packages):
    _, wheel = packages
    with zipfile.ZipFile(wheel) as package:
        names = package.namelist()
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fmtl").rglob("*.py")}
    assert modules <= set(names)
    assert {"fmtl/py.typed"} | {
        p.relative_to(ROOT).as_posix() for p in (ROOT / "fmtl/reports/templates").iterdir()
    } <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fmtl"}


@pytest.mark.slow
def test_the_wheel_runs_where_it_is_installed(packages, tmp_path):
    """In an environment of its own, which sees this one's libraries but not its fmtl."""
    _, wheel = packages
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/store.db", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert Path(run(python, "-c", "import fmtl; print(fmtl.__file__)").strip()).is_relative_to(site)
    fmtl = [python, "-m", "fmtl"]
    run(*fmtl, "prepare", "--table", "sample", "--px", "32", "--limit", "120", "--out", "data")
    said = run(*fmtl, "train", "--data", "data", "--backbone", "test_efficientnet", "--weights", "none", "--px", "32",
               "--epochs", "1", "--gallery", "false", "--precision", "fp32", "--channels-last", "false")  # fmt: skip
    assert "test: accuracy" in said
