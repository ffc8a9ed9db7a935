"""Progress in a terminal and in a file."""

import os
import pty
import select
import termios
import time

import pytest
import torch

from fmtl.loading.pacing import Paced
from fmtl.training.progress import duration, watch


def go_through_batches():
    batches = Paced([(torch.zeros(4, 3, 8, 8), {}) for _ in range(5)])
    for _ in watch(batches, "epoch 2/12", "val loss 1.234 (best 1.200), 3 min left"):
        time.sleep(0.15)


def test_in_a_file_there_is_no_bar(capfd):
    go_through_batches()
    assert capfd.readouterr() == ("", "")


def test_in_a_terminal_the_bar_shows_pace_loss_and_what_is_left_and_goes_away(monkeypatch):
    terminal, inside = pty.openpty()
    termios.tcsetwinsize(inside, (40, 160))
    with os.fdopen(inside, "w") as stderr, monkeypatch.context() as patched:
        patched.setattr("sys.stderr", stderr)
        go_through_batches()
        stderr.flush()
        text = ""
        while select.select([terminal], [], [], 1.0)[0]:
            text += os.read(terminal, 65536).decode()
    os.close(terminal)
    assert "epoch 2/12" in text and "images/s" in text and "data " in text
    assert "val loss 1.234 (best 1.200), 3 min left" in text
    assert "5/5" in text or "4/5" in text
    after = text[text.rindex("]") + 1 :]
    assert after.strip() == "" and len(after) > 100  # the line is wiped


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (89, "89 s"), (150, "2 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_durations_are_said_as_people_say_them(seconds, text):
    assert duration(seconds) == text
