"""The journal: whole lines in their order, whatever a kill leaves of the last one."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fmtl.tracking.record.journal import Journal, last_metrics, tags_of


def ops(journal, start=0):
    return [line["op"] for line, _ in journal.lines(start)]


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_torn_last_line_is_no_line_and_does_not_spoil_the_next(tmp_path, cut):
    journal = Journal(tmp_path / "journal.jsonl")
    for n in range(3):
        journal.append("metrics", values={"x": n / 2}, step=n, at=n)
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-cut])
    assert ops(journal) == ["metrics"] * 2
    again = Journal(journal.path)
    again.mend()
    again.append("end", status="FINISHED", outcome="completed", at=9)
    assert ops(again) == ["metrics", "metrics", "end"]


def test_lines_can_be_read_from_where_the_last_reader_stopped(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("begin", at=1)
    journal.append("tags", values={"a": "ä\n"})
    after = [end for _, end in journal.lines()]
    assert after[-1] == journal.path.stat().st_size
    assert ops(journal, after[0]) == ["tags"]
    assert ops(journal, after[1]) == []


def test_several_threads_write_whole_lines(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")

    def write(n):
        for k in range(50):
            journal.append("metrics", values={f"m{n}": k}, step=k, at=k)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ops(journal)) == 200
    assert last_metrics(journal.lines()) == {f"m{n}": 49 for n in range(4)}


def test_who_reads_while_another_writes_takes_nothing_away(tmp_path):
    """A reader comes between any two moments of a writer."""
    journal, over = Journal(tmp_path / "journal.jsonl"), threading.Event()

    def read():
        while not over.is_set():
            list(Journal(journal.path).lines())

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for n in range(300):
        journal.append("metrics", values={"x": n}, step=n, at=n)
    over.set()
    for reader in readers:
        reader.join()
    assert [line["step"] for line, _ in journal.lines()] == list(range(300))


def test_what_was_appended_outlives_a_kill(tmp_path):
    code = (
        "import sys, pathlib; from fmtl.tracking.record.journal import Journal\n"
        "j = Journal(pathlib.Path(sys.argv[1])); n = 0\n"
        "while True:\n"
        "    j.append('metrics', values={'x': n}, step=n, at=n); print(n, flush=True); n += 1"
    )
    path = tmp_path / "journal.jsonl"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    while not path.exists() or path.stat().st_size < 2000:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    told = [int(line) for line in process.communicate()[0].splitlines() if line.isdigit()]
    steps = [line["step"] for line, _ in Journal(path).lines()]
    assert steps == list(range(len(steps)))
    assert len(steps) >= len(told) > 0


def test_the_last_word_on_a_tag_counts_and_none_takes_it_away(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("tags", values={"a": "1", "b": "2"})
    journal.append("tags", values={"a": None, "b": "3"})
    journal.append("end", status="KILLED", outcome="interrupted", at=1)
    assert tags_of(journal.lines()) == {"b": "3", "fmtl.outcome": "interrupted"}


def test_what_is_no_json_is_refused_before_it_is_written(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(ValueError, match="JSON compliant"):
        journal.append("metrics", values={"x": float("nan")}, step=0, at=0)
    journal.append("begin", at=1)
    assert [json.loads(line) for line in journal.path.read_text().splitlines()] == [{"op": "begin", "at": 1}]


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"op": "grow"}', b'{"op": "metrics", "values": {"x": "much"}, "step": 1, "at": 2}',
             b'{"op": "metrics", "values": [], "step": 1, "at": 2}', b'{"op": "tags"}', b"\xff",
             b'{"op": "metrics", "values": {"x": NaN}, "step": 1, "at": 2}', b'{"op": "begin", "at": %d}' % 2**64,
             b"[" * 100_000],
)  # fmt: skip
def test_a_line_that_is_none_of_a_journal_is_passed_over_with_a_word(tmp_path, caplog, line):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("begin", at=1)
    with journal.path.open("ab") as file:
        file.write(line + b"\n")
    journal.append("metrics", values={"x": 0.5}, step=1, at=2)
    again = Journal(journal.path)
    assert ops(again) == ops(again) == ["begin", "damaged", "metrics"]
    assert len(caplog.records) == 1 and "a line at byte 25 is damaged" in caplog.text
    again.mend()
    assert ops(Journal(journal.path)) == ["begin", "damaged", "metrics"]
