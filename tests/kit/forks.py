"""Commands by a process that has imported everything and forks: one starts in a tenth of a second.

with Zygote() as zygote:
    pid = zygote.start(["train", ...], folder, log, env={...}, fault={"fault": "kill", "at": 17})
    zygote.code(pid, 300)
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SERVE = """
import json, os, select, sys, time
sys.path.insert(0, sys.argv[1])
import fmtl.cli, fmtl.commands.train, fmtl.commands.upkeep.sync, fmtl.commands.prepare, torch
from kit import operations
torch.set_num_threads(1)
running = set()
print("{}", flush=True)

def become(asked):
    os.setsid(); os.chdir(asked["cwd"]); os.environ.update(asked["env"])
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1); os.dup2(log, 2)
    if asked["sockets"]:
        import threading
        def hook(event, args):
            if event.startswith("socket.connect") and threading.current_thread() is threading.main_thread():
                open(asked["sockets"], "a").write(event + "\\n")
        sys.addaudithook(hook)
    if asked["fault"]:
        operations.install(operations.Operations(root=asked["cwd"], **asked["fault"]))
    code = fmtl.cli.main(asked["argv"])
    sys.stdout.flush(); sys.stderr.flush()
    os._exit(code)

while True:
    if select.select([sys.stdin], [], [], 0.02)[0]:
        line = sys.stdin.readline()
        if not line:
            break
        asked = json.loads(line)
        pid = os.fork()
        if not pid:
            try:
                become(asked)
            finally:
                os._exit(99)
        running.add(pid)
        print(json.dumps({"pid": pid}), flush=True)
    for pid in list(running):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            running.discard(pid)
            said = {"ended": pid, "code": os.waitstatus_to_exitcode(status), "at": time.time()}
            print(json.dumps(said), flush=True)
"""


class Zygote:
    """The process that forks."""

    def __init__(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(Path(__file__).parent.parent)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment,
        )  # fmt: skip  # unbuffered, or select would not see a line that was read ahead
        self._ended: dict[int, tuple[int, float]] = {}
        self._read()

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(self, *of_error: object) -> None:
        self.process.kill()
        self.process.wait()

    def start(
        self,
        argv: list[str],
        folder: Path,
        log: Path,
        *,
        env: dict[str, str],
        sockets: Path | None = None,
        fault: dict[str, Any] | None = None,
    ) -> int:
        """Returns the process id.

        Args:
            folder: To run in.
            sockets: Gets a line for each connection that the main thread makes.
            fault: See ``operations.Operations``.
        """
        asked = {"argv": argv, "cwd": str(folder), "log": str(log), "env": env, "sockets": str(sockets or ""),
                 "fault": fault}  # fmt: skip
        assert self.process.stdin
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        while True:
            said = self._read()
            if "pid" in said:
                return said["pid"]

    def code(self, pid: int, seconds: float) -> int | None:
        """Exit code; None if it still runs after so long."""
        end = time.monotonic() + seconds
        while pid not in self._ended and time.monotonic() < end:
            assert self.process.stdout
            if select.select([self.process.stdout], [], [], 0.02)[0]:
                self._read()
        return self._ended[pid][0] if pid in self._ended else None

    def ended_at(self, pid: int) -> float:
        """In seconds since 1970."""
        return self._ended[pid][1]

    def run(
        self, argv: list[str], folder: Path, log: Path, *, env: dict[str, str], fault: dict[str, Any] | None = None
    ) -> int:
        """Exit code. Raises RuntimeError where it hangs."""
        pid = self.start(argv, folder, log, env=env, fault=fault)
        code = self.code(pid, 300)
        if code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            raise RuntimeError(f"{argv} hangs: {log.read_text(encoding='utf-8')[-2000:]}")
        return code

    def _read(self) -> dict:
        assert self.process.stdout
        said = json.loads(self.process.stdout.readline())
        if "ended" in said:
            self._ended[said["ended"]] = said["code"], said["at"]
        return said
