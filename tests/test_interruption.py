"""Signals in a process of its own: what is raised where, and when."""

import subprocess
import sys

import pytest

START = (  # a shell that starts tests in the background has SIGINT ignored
    "import os, signal, sys, time; from fmtl import interruption; from fmtl.errors import Terminated\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
)


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("name", "error"), [("SIGTERM", "Terminated"), ("SIGUSR1", "Terminated"), ("SIGINT", "KeyboardInterrupt")]
)
def test_a_signal_is_raised_where_the_process_stands_and_waits_for_a_check_where_it_is_deferred(name, error):
    done = run(f"""
with interruption.heard():
    try:
        os.kill(os.getpid(), signal.{name})
        print("not here")
    except BaseException as found:
        print(type(found).__name__)
with interruption.heard():
    with interruption.deferred():
        os.kill(os.getpid(), signal.{name})
        print("deferred", interruption.is_asked())
        try:
            interruption.check()
        except BaseException as found:
            print(type(found).__name__)
interruption.check()
print("over", interruption.is_asked())
""")
    assert done.stdout.split("\n") == [error, "deferred True", error, "over False", ""], done.stderr


def test_what_a_callback_swallowed_is_raised_again():
    done = run("""
class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
with interruption.heard():
    Swallows()
    print("swallowed")
    try:
        list(interruption.checked([1]))
    except Terminated:
        print("raised again")
""")
    assert done.stdout.split() == ["swallowed", "raised", "again"], done.stderr


@pytest.mark.parametrize(
    ("second", "pause", "code"),
    [("SIGTERM", 0.7, 143), ("SIGINT", 3.2, 130), ("SIGTERM", 0, 0), ("SIGINT", 1.2, 0)],  # 0: one wish, heard twice
)
def test_a_second_signal_ends_the_process_at_once(second, pause, code):
    done = run(f"""
with interruption.heard(), interruption.deferred():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep({pause})
    os.kill(os.getpid(), signal.{second})
    print("still there", flush=True)
""")
    assert done.returncode == code
    assert ("still there" in done.stdout) == (code == 0)
    assert ("a second signal: ended at once" in done.stderr) == (code != 0)


def test_what_was_to_be_ignored_stays_ignored_and_handlers_come_back():
    done = run("""
signal.signal(signal.SIGINT, signal.SIG_IGN)
before = [signal.getsignal(s) for s in interruption.SIGNALS]
with interruption.heard():
    os.kill(os.getpid(), signal.SIGINT)
    print("ignored")
print([signal.getsignal(s) for s in interruption.SIGNALS] == before)
import threading
def other():
    with interruption.heard():
        print("in a thread")
thread = threading.Thread(target=other); thread.start(); thread.join()
""")
    assert done.stdout.split("\n") == ["ignored", "True", "in a thread", ""], done.stderr
