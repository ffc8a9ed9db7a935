"""Words and files of strangers, which would run something where a program is careless: nothing of theirs may run.

    python tests/commands/strangers.py [--calls 60] [--json FILE]

Every Python process that takes part tells what it executes and what pickles ask for (by an audit hook), and every
payload would leave a file. Prints what was tried; exit 1 where something ran, or a traceback was all that was said.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import click
import pandas as pd
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from kit import hostile

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent

HOOK = """
import json, os, sys
_log = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
_watched = {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "pickle.find_class"}
def _hear(event, args):
    if event in _watched:
        os.write(_log, (json.dumps([event, repr(args)[:600]]) + chr(10)).encode())
sys.addaudithook(_hear)
"""
BIN = Path(sys.executable).parent


class Watched:
    """A folder in which commands run, and what was executed there."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder, folder / "audit.jsonl"
        (folder / "hook").mkdir()
        (folder / "hook" / "sitecustomize.py").write_text(HOOK)
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        self._environment = clean | {
            "AUDIT_LOG": str(self.log),
            "PYTHONPATH": f"{folder / 'hook'}{os.pathsep}{ROOT}",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *command: str | Path) -> tuple[int, str]:
        done = subprocess.run(
            [str(word) for word in command], cwd=self.folder, env=self._environment, capture_output=True, text=True,
            timeout=300, check=False, stdin=subprocess.DEVNULL, errors="replace",
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def executed(self) -> Iterator[str]:
        """What was asked for that only a payload asks for."""
        for line in self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []:
            event, args = json.loads(line)
            if (
                (event == "pickle.find_class" and ("'system'" in args or "'evil'" in args))
                or event in ("os.system", "pty.spawn")
                or (hostile.MARK in args and event != "subprocess.Popen")
            ):
                yield f"{event} {args}"

    def left(self) -> list[str]:
        """Files that a payload has left anywhere near."""
        return [str(path) for place in (self.folder, ROOT) for path in place.glob(f"**/{hostile.MARK}*")
                if ".venv" not in path.parts and path.parent.name != "hook"]  # fmt: skip


def prepared(watched: Watched) -> Path:
    """A table of a few photos."""
    images = watched.folder / "images"
    images.mkdir()
    rows = []
    for i in range(40):
        Image.new("RGB", (24, 24), (200 * (i % 2), 6 * i, 90)).save(images / f"{i}.png")
        rows.append({"image": f"{i}.png", "colour": ("blue", "red")[i % 2]})
    pd.DataFrame(rows).to_csv(watched.folder / "table.csv", index=False)
    return watched.folder / "table.csv"


def calls(table: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Entry points of the project, with a stranger's word in one of their parameters."""
    for word in hostile.WORDS:
        yield "prepare", {"table": word}
        yield "fetch", {"table": str(table), "column": word, "out": "photos"}
        yield "train", {"data": word, "run_name": word, "weights": "none"}
        yield "register", {"run": word, "name": word}
        yield "predict", {"model": word, "images": word, "out": word}


def projects(watched: Watched, table: Path, num: int) -> list[str]:
    """``mlflow run`` with words in parameters; what was wrong."""
    wrong = []
    for entry, params in islice(calls(table), num):
        given = [part for name, value in params.items() for part in ("-P", f"{name}={value}")]
        code, said = watched.run(BIN / "mlflow", "run", ROOT, "-e", entry, "--env-manager", "local", *given)
        if code == 0:
            wrong.append(f"mlflow run -e {entry} {params}: exit 0")
        told = said.partition("Traceback")[2]
        if told and "mlflow/cli" not in told and "mlflow.exceptions" not in told:
            wrong.append(f"mlflow run -e {entry} {params}: {told[-300:]}")
    return wrong


def files(watched: Watched, table: Path) -> Iterator[tuple[str, list[str | Path]]]:
    """Every hostile file, and the command that reads it."""
    place = watched.folder / "hostile"
    place.mkdir()
    for group in (hostile.TABLES, hostile.WEIGHTS, hostile.SETTINGS):
        for name, make in group.items():
            (place / name).write_bytes(make())
    train = ["train", "--data", "data", "--backbone", "test_efficientnet", "--px", "24", "--epochs", "1"]
    for name in hostile.TABLES:
        yield name, ["prepare", "--table", place / name, "--images", "images", "--out", f"out-{name}"]
        yield f"{name}, to predict", ["predict", "--model", "model", "--table", place / name, "--images", "images"]
    for name in hostile.WEIGHTS:
        yield name, [*train, "--weights", place / name]
    for name in hostile.SETTINGS:
        yield name, ["train", "--config", place / name]
    for how in hostile.MODELS:
        folder = hostile.model_folder(place / f"model-{how}", how)
        yield f"model: {how}", ["predict", "--model", folder, "--images", "images"]
    yield "checkpoint", ["predict", "--model", hostile.checkpoint(place / "x_best.pt"), "--images", "images"]
    run = shutil.copytree(TESTS / "golden" / "0.1" / "run", place / "run")
    for last in (run / "checkpoints").glob("*_last.pt"):
        hostile.checkpoint(last.with_name("y.pt")).replace(last)
    yield "checkpoint, to resume", ["train", "--resume", run, "--data", TESTS / "golden" / "0.1" / "dataset"]
    for name, path in (("folder", "../../../etc"), ("list", "list.txt")):
        (watched.folder / "list.txt").write_text(f"/etc/passwd\n| touch {hostile.MARK}\n$(touch {hostile.MARK}).png\n")
        yield f"photos: {name}", ["predict", "--model", "model", "--images", path]


@click.command()
@click.option("--calls", "num", default=60)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(num: int, out: Path | None) -> None:
    codes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="fmtl-strangers-") as folder:
        watched = Watched(Path(folder))
        table = prepared(watched)
        shutil.copytree(TESTS / "golden" / "0.1" / "model", watched.folder / "model")
        fmtl = [sys.executable, "-m", "fmtl"]
        code, said = watched.run(
            *fmtl, "prepare", "--table", table, "--images", "images", "--px", "24", "--out", "data"
        )
        wrong = [] if code == 0 else [said]
        wrong += projects(watched, table, num)
        for name, command in files(watched, table):
            code, said = watched.run(*fmtl, *command)
            codes[f"exit {code}"] += 1
            click.echo(f"{name:32} exit {code}  {(said.strip().splitlines() or [''])[-1][:100]}")
            wanted = 2 if name in hostile.SETTINGS else 3
            if code != wanted or "Traceback" in said or "root:" in said:
                wrong.append(f"{name}: exit {code}: {said[-400:]}")
        wrong += [f"executed: {what}" for what in watched.executed()] + [f"left: {path}" for path in watched.left()]
        events = len(watched.log.read_text().splitlines())
    for problem in wrong:
        click.echo(f"WRONG {problem}")
    summary = {
        "mlflow run": min(num, 5 * len(hostile.WORDS)),
        "files": codes.total(),
        "exits": dict(codes),
        "events heard": events,
        "wrong": wrong,
    }
    click.echo(json.dumps(summary))
    if out:
        out.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(wrong) or events == 0)


if __name__ == "__main__":
    main()
