import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from fmtl import cli


def run(capsys, *argv):
    code = cli.main(list(argv))
    out = capsys.readouterr()
    return code, out.out, out.err


def test_a_misspelt_option_names_the_nearest_and_is_no_abbreviation(capsys):
    code, _, err = run(capsys, "train", "--leraning-rate", "1")
    assert code == 2 and "--learning-rate" in err
    code, _, err = run(capsys, "train", "--backbon", "resnet18")
    assert code == 2 and "--backbone" in err


def test_both_spellings_of_an_option_are_the_same(capsys):
    for spelling in ("--learning-rate", "--learning_rate"):
        code, _, err = run(capsys, "train", spelling, "-1")
        assert code == 2 and "--learning-rate: expected greater than 0, got '-1'" in err


def test_booleans_take_a_value_or_none(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr("fmtl.commands.train.train_variants", lambda variants, since: seen.append(variants))
    for argv in (["--freeze"], ["--freeze", "true"], ["--freeze=false"], ["--freeze", "--epochs", "3"]):
        assert cli.main(["train", *argv]) == 0
    assert [(v[0].freeze, v[0].epochs) for v in seen] == [(True, 12), (True, 12), (False, 12), (True, 3)]
    code, _, err = run(capsys, "train", "--freeze", "maybe")
    assert code == 2 and "--freeze: expected a valid boolean, got 'maybe'" in err


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path, monkeypatch):
    path = tmp_path / "c.yaml"
    path.write_text("epochs: 5\nbatch_size: 7\n")
    seen = []
    monkeypatch.setattr("fmtl.commands.train.train_variants", lambda variants, since: seen.append(variants))
    assert cli.main(["train", "--config", str(path), "--epochs", "9"]) == 0
    assert (seen[0][0].epochs, seen[0][0].batch_size, seen[0][0].accumulate) == (9, 7, 1)


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["prepare"], 2, "table: required"),
        (["train", "--config", "none.yaml"], 2, "none.yaml"),
        (["prepare", "--table", "none.csv"], 3, "none.csv: no such table"),
        (["train", "--data", "nowhere"], 3, "nowhere: no prepared dataset"),
        (["train", "--device", "cuda:99", "--data", "nowhere"], 4, "device: 'cuda:99'"),
        (["predict", "--model", "models:/none@champion", "--images", "x"], 3, "models:/none@champion"),
        (["register"], 3, "no train run can be registered"),
        (["register", "--alias", "latest"], 2, "--alias: expected a name that MLflow does not reserve"),
        (["compare", "--register", "a/b"], 2, "--register: expected"),
        (["compare", "--data", "data/prepard"], 3, "data/prepard: no prepared dataset"),
        (["compare", "--out", "mlflow.db"], 4, "can't be written"),
        (["prepare", "--table", "sample", "--label-cols", "a,a"], 2, "label_cols: a column is named twice"),
        (["compare", "--experiment", "none"], 3, "experiment 'none' does not exist"),
    ],
)
def test_what_a_user_can_mend_is_one_message_and_its_exit_code(store, capsys, argv, code, message):
    got, _, err = run(capsys, *argv)
    assert got == code, err
    assert message in err
    assert "Traceback" not in err


def test_memory_that_ran_out_is_an_environment_fault(capsys, monkeypatch):
    import torch

    monkeypatch.setattr("fmtl.commands.train.train_variants", lambda variants, since: torch.empty(10**15))
    code, _, err = run(capsys, "train")
    assert (
        code == 4
        and "out of memory; lower batch_size (with accumulate the steps stay as large) or px" in err
        and "Traceback" not in err
    )


def test_debug_shows_the_traceback(store, capsys):
    code, _, err = run(capsys, "train", "--data", "nowhere", "--debug")
    assert code == 3 and "Traceback" in err


def test_help_names_every_command_and_setting(capsys):
    _, out, _ = run(capsys, "--help")
    for name in cli.cli.commands:
        assert name in out
        _, text, _ = run(capsys, name, "--help")
        for option in cli.cli.commands[name].params:
            assert option.opts[0] in text and option.help


@pytest.mark.parametrize(("sig", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_have_their_exit_codes(sig, code, tmp_path):
    script = (
        "import signal, sys, time; from fmtl import cli; import fmtl.commands.train as t\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background starts with it ignored
        "t.train_variants = lambda v, since: (print('up', flush=True), time.sleep(60))\n"
        "sys.exit(cli.main(['train']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    assert process.stdout.readline() == "train: convnext_tiny, tuned, on data/prepared\n"
    assert process.stdout.readline() == "up\n"
    time.sleep(0.2)
    process.send_signal(sig)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in err


@pytest.fixture
def says(monkeypatch):
    """A command that says something at every level, and prints what came of it."""

    def talk(settings):
        log = logging.getLogger("fmtl.commands.compare")
        for level, text in ((logging.DEBUG, "in detail"), (logging.INFO, "progress"), (logging.WARNING, "mind this")):
            log.log(level, text)
        print("the result")

    monkeypatch.setattr("fmtl.commands.compare.compare", talk)


@pytest.mark.parametrize(
    ("options", "out"),
    [
        ([], "progress\nthe result\n"),
        (["--quiet"], "the result\n"),
        (["--quiet", "true"], "the result\n"),
        (["--quiet=false"], "progress\nthe result\n"),
        (["--verbose"], "fmtl.commands.compare: in detail\nprogress\nthe result\n"),
    ],
)
def test_quiet_and_verbose_choose_what_is_said_but_not_the_result_nor_warnings(says, capsys, options, out):
    for _ in range(2):  # a second command in the same process says nothing twice
        assert run(capsys, "compare", *options) == (0, out, "mind this\n")


def test_quiet_and_verbose_together_are_refused(says, capsys):
    code, out, err = run(capsys, "compare", "--quiet", "--verbose")
    assert (code, out) == (2, "") and "give one of them, not both" in err


@pytest.mark.parametrize("command", sorted(cli.cli.commands))
def test_every_command_can_be_quiet_or_verbose(command):
    assert {"quiet", "verbose", "debug"} <= {option.name for option in cli.cli.commands[command].params}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["train", "--data", "nowhere"], "train: convnext_tiny, tuned, on nowhere"),
        (["train", "--resume", "abc"], "train: on from abc"),
        (["predict", "--model", "m", "--images", "photos"], "predict: photos with m"),
    ],
)
def test_a_command_says_what_it_begins_before_torch_is_loaded(command, said, tmp_path):
    code = f"""
import sys
from fmtl import cli

class Torch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.exit(0)

sys.meta_path.insert(0, Torch())
sys.exit(cli.main({command!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines() == [said], done.stderr
