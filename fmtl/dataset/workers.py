"""Worker processes that make shards. One that dies costs the image it was at, and is replaced.

A worker is ``python -m fmtl.dataset.workers``: a job as a line of JSON in, a line per image and one at the end out.
Plain processes rather than ``multiprocessing``: they import neither the caller's ``__main__`` nor torch, work from
threads and notebooks alike, and tell which image they died of.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from fmtl.dataset import shards
from fmtl.dataset.shards import Job
from fmtl.errors import EnvironmentFault

COMMAND = (sys.executable, "-P", "-m", "fmtl.dataset.workers")
# By default glibc gives memory of a decoded photo back to the system after each, and pays a page fault per 4 KB for
# the next.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "268435456", "MALLOC_TRIM_THRESHOLD_": "268435456"}
DONE, FAULT, BUG = b"done", b"fault", b"bug"


def make_shards(jobs: Iterable[Job], *, num_workers: int, progress: Callable[[], object] = lambda: None) -> None:
    """Make every shard; ``progress`` is called once per image, from threads.

    Raises:
        EnvironmentFault: The disk is full or not writable.
    """
    jobs = list(jobs)
    num_workers = min(num_workers, len(jobs))
    one_at_a_time = threading.Lock()

    def count() -> None:
        with one_at_a_time:
            progress()

    with _workers(num_workers) as idle, ThreadPoolExecutor(max(1, num_workers)) as threads:

        def run(job: Job) -> None:
            worker = idle.get()
            try:
                worker.make(job, count)
            finally:
                idle.put(worker)

        futures = [threads.submit(run, job) for job in jobs]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:  # an interrupt too: nothing is started any more, and what runs is cut off
            threads.shutdown(wait=False, cancel_futures=True)
            for worker in idle.all:
                worker.close()
            raise


class _Worker:
    """One process, started when it is needed and again after it died."""

    def __init__(self):
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def make(self, job: Job, progress: Callable[[], object]) -> None:
        seen = -1
        while not self._closed:
            process = self._process = self._process or _start()
            assert process.stdin and process.stdout  # pipes: _start asks for them
            at = None
            try:
                process.stdin.write(job.to_json().encode() + b"\n")
                process.stdin.flush()
                for line in process.stdout:
                    if line.startswith(DONE):
                        return
                    if line.startswith(FAULT):
                        raise EnvironmentFault(json.loads(line.removeprefix(FAULT)))
                    if line.startswith(BUG):
                        raise RuntimeError(json.loads(line.removeprefix(BUG)))
                    at = int(line)
                    if at > seen:
                        seen = at
                        progress()
            except BrokenPipeError:
                pass
            self._process = None
            _end(process)
            if not self._closed:
                died = f"the decoder died: {_how(process.returncode)}"
                if at is None or at in job.crashed:
                    raise RuntimeError(f"worker process can't work: {died}")
                job.crashed[at] = died

    def close(self) -> None:
        self._closed = True
        process = self._process  # its own thread may forget it at any moment
        if process:
            process.kill()
            _end(process)


class _Idle(queue.SimpleQueue):
    def __init__(self, num_workers: int):
        super().__init__()
        self.all = [_Worker() for _ in range(num_workers)]
        for worker in self.all:
            self.put(worker)


@contextlib.contextmanager
def _workers(num_workers: int) -> Iterator[_Idle]:
    idle = _Idle(num_workers)
    try:
        yield idle
    finally:
        for worker in idle.all:
            worker.close()


def _start() -> subprocess.Popen[bytes]:
    here = str(Path(__file__).parents[2])
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | KEEP_MEMORY | {"PYTHONPATH": path}
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError, ValueError):  # broken, or closed by the other side
            if pipe:
                pipe.close()
    process.wait()


def _how(code: int) -> str:
    if code < 0:
        return f"{signal.Signals(-code).name}{', perhaps out of memory' if -code == signal.SIGKILL else ''}"
    return f"exit code {code}"


def main() -> None:
    """What a worker process does: jobs from standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    for line in sys.stdin.buffer:
        try:
            shards.make(Job.from_json(line), lambda i: os.write(answers, b"%d\n" % i))
            answer = DONE
        except EnvironmentFault as error:
            answer = FAULT + json.dumps(str(error)).encode()
        except MemoryError:
            raise  # dies of this image, which is then left out
        except Exception:
            answer = BUG + json.dumps(traceback.format_exc()).encode()
        os.write(answers, answer + b"\n")


if __name__ == "__main__":
    main()
