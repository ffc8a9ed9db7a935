"""Names and labels that would steer a terminal, a page, a note, a shell or a path are shown as they are."""

import csv
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import mlflow
import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

import fmtl
from fmtl import cli
from fmtl.errors import neutral
from fmtl.reports import markdown

ESCAPE = "\x1b"
TASK = f"Col{ESCAPE}[5mour <script>alert(2)</script> x; touch owned"
LABELS = (
    "http://elsewhere.example", "www.elsewhere.example", "@somebody",
    f"{ESCAPE}]0;owned\x07{ESCAPE}[31mred", "<img src=x onerror=alert(1)>", "[click](javascript:alert(1))",
    "![p](http://elsewhere.example/p.png)", '=HYPERLINK("http://elsewhere.example","x")', "a | b # c", "\u202egnp.exe",
    "`code` *bold* _low_ $(touch owned)", "; touch owned #", "$x^{2$ \\frac", "../../owned",
)  # fmt: skip
FILES = (f"e{ESCAPE}[2Jv.jpg", "<b>x.jpg", "new\nline.jpg", "a;$(touch owned).jpg", "\u202egpj.jpg", "[l](x).jpg")
RUN_NAME = f"evil{ESCAPE}[31m<script>x</script>[l](javascript:1)`$(touch owned)"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class Tags(HTMLParser):
    """What a page would run, or fetch from elsewhere."""

    def __init__(self):
        super().__init__()
        self.bad = []

    def handle_starttag(self, tag, attrs):
        active = [(k, v) for k, v in attrs if k.startswith("on") or re.match("javascript:|https?:|//", v or "", re.I)]
        if tag in ("script", "iframe", "object") or active:
            self.bad.append((tag, attrs))


def bad_tags(page):
    found = Tags()
    found.feed(page)
    return found.bad


def rendered(note):
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(note)


@pytest.fixture
def shop(store):
    (store / "images").mkdir()
    draw = np.random.default_rng(0)
    rows = []
    for i in range(12 * len(LABELS)):
        name = FILES[i] if i < len(FILES) else f"p{i}.jpg"
        k = i % len(LABELS)
        pixels = draw.integers(0, 40, (24, 24, 3)) + 18 * k
        Image.fromarray(pixels.astype(np.uint8)).save(store / "images" / name)
        rows.append((f"{ESCAPE}[1mid{i}", name, LABELS[k], "mf"[i % 2]))
    with (store / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "Image", TASK, "Gender"), *rows])
    return store


def without_our_script(text):
    """The leaderboard without its script and the data for it, which can hold nothing else."""
    ours = (Path(fmtl.__file__).parent / "reports/templates/leaderboard.js").read_text(encoding="utf-8")
    assert text.count(ours.strip()) == 1
    text = re.sub(r"<script>\s*</script>", "", text.replace(ours.strip(), ""))
    data = re.compile('<script type="application/json" class="pair-data">([^<>&]*)</script>')
    assert all(json.loads(found) for found in data.findall(text))
    return data.sub("", text)


def test_the_whole_way_says_strangers_words_and_does_nothing_that_they_ask(shop, capsys):
    train = ["--weights", "none", "--backbone", "test_efficientnet", "--px", "24", "--epochs", "1"]
    said = ""
    for command in (
        ["prepare", "--table", "t.csv", "--images", "images", "--image-col", "Image", "--label-cols", f"{TASK},Gender",
         "--px", "24", "--out", "d"],
        ["train", "--data", "d", *train, "--run-name", RUN_NAME],
        ["compare"],
        ["register"],
        ["predict", "--model", "models:/fashion-attributes@champion", "--images", "images"],
        ["doctor"],
        ["clean"],
    ):  # fmt: skip
        assert cli.main(command) == 0, command
        heard = capsys.readouterr()
        said += heard.out + heard.err.replace("\r", "\n").replace("\x1b[A", "")
    assert not STEERING.search(said)
    assert r"task Col\x1b[5mour <script>" in said and r"evil\x1b[31m<script>" in said
    pages = [page for page in shop.rglob("*.html") if "code" not in page.parts]  # of a model, which is ours
    assert len(pages) >= 5  # the dataset's, its copy, the gallery, the leaderboard and its copy
    for page in pages:
        text = (
            without_our_script(page.read_text(encoding="utf-8"))
            if page.name == "leaderboard.html"
            else page.read_text()
        )
        assert not STEERING.search(text) and not bad_tags(text), page
    experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
    notes = [run.data.tags.get("mlflow.note.content", "") for run in mlflow.MlflowClient().search_runs(experiments)]
    assert sum(r"\x1b" in note.replace("\\\\", "\\") for note in notes) >= 2  # of the dataset and of the training
    for note in notes:
        html = rendered(note)
        assert not bad_tags(html) and not re.search("<(script|img|b|a)[ >]", html) and not STEERING.search(note)
    assert not list(shop.rglob("owned*")) and not list(shop.parent.glob("owned*"))


@pytest.mark.parametrize("words", [*LABELS, *FILES, TASK, RUN_NAME])
def test_markdown_shows_a_text_as_itself(words):
    line = neutral(" ".join(words.split()))
    assert "".join(re.findall(">([^<]*)<", rendered(markdown.text(words)))).rstrip("\n") == line.translate(
        {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord('"'): "&quot;"}
    )
    assert not bad_tags(rendered(markdown.code(words)))
    assert not re.search(r"://|@|www\.", markdown.text(words))  # of which MLflow's pages make links


def test_the_moves_of_progress_bars_pass_and_nothing_else(store, capsys):
    assert cli.main(["prepare", "--table", f"{ESCAPE}[2J\r\u202e.csv", "--out", "d"]) == 3
    assert r"\x1b[2J\r\u202e.csv" in capsys.readouterr().err
    with cli._neutral_terminal():
        print(f"{ESCAPE}[A", end="", file=sys.stderr)
        print("\r10%|█", end="", file=sys.stderr)
        print(f"\rname\rover {ESCAPE}[A\udc9b", file=sys.stderr)
        print(f"{ESCAPE}[A", "\rname", sep="")
        sys.stdout.writelines([f"{ESCAPE}[2J", "\n"])
    heard = capsys.readouterr()
    assert heard.err == "\x1b[A\r10%|█\rname\\rover \\x1b[A\\udc9b\n"
    assert heard.out == "\\x1b[A\\rname\n\\x1b[2J\n"  # no bars are drawn there


def test_a_command_without_streams_does_its_work(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["--version"]) == 0
