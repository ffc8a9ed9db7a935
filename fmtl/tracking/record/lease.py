"""Who is working on a run: so that no second process does, and so that what died is told from what lives."""

import json
import os
import platform
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from fmtl import machine
from fmtl.tracking.record.journal import now

TAG = "fmtl.lease"
BEAT_SECONDS = 60  # how often a living process says so to a store
SILENT_SECONDS = 15 * 60  # after which a process of another machine, whose death can't be seen, is taken for dead


@dataclass(frozen=True)
class Lease:
    """A process that works on a run.

    Attributes:
        host: Name of its machine, for people.
        place: The machine, its boot and the space in which process ids are counted: only there ``pid`` means anything.
        boot: Of ``place`` the boot.
        pid: Of the process.
        started: When it began, in the system's own count: another process may get the same pid.
        since: Milliseconds since 1970.
        beat: When it last said that it lives.
        killed: Processes that the kernel had killed for memory when it began.
    """

    host: str
    place: str
    boot: str
    pid: int
    started: str
    since: int
    beat: int
    killed: int | None = None

    @classmethod
    def mine(cls) -> "Lease":
        pid, at = os.getpid(), now()
        return cls(socket.gethostname(), machine.place(), _boot(), pid, machine.process_started(pid) or "", at, at,
                   machine.num_killed_for_memory())  # fmt: skip

    @classmethod
    def read(cls, text: str | None) -> "Lease | None":
        """What ``json`` wrote; None of anything else."""
        try:
            return cls(**json.loads(text or ""))
        except (ValueError, TypeError, RecursionError):
            return None

    def json(self, *, beat: int | None = None) -> str:
        return json.dumps(asdict(self) | ({"beat": beat} if beat else {}))

    @property
    def is_here(self) -> bool:
        """Whether its process would be seen from here."""
        return self.place == machine.place()

    @property
    def died(self) -> bool:
        """Whether its process is gone for sure; of another machine's, nothing is known for sure."""
        if not self.is_here:
            return False
        started = machine.process_started(self.pid)
        return self.boot != _boot() or started is None or bool(started and self.started and started != self.started)

    @property
    def memory_ran_out(self) -> bool:
        """Whether the kernel has killed processes of its machine for memory since it began."""
        now = machine.num_killed_for_memory() if self.is_here and self.boot == _boot() else None
        return now is not None and self.killed is not None and now > self.killed

    @property
    def is_mine(self) -> bool:
        """Whether its process is this one."""
        return self.is_here and not self.died and self.pid == os.getpid()

    @property
    def is_silent(self) -> bool:
        """Whether it is another machine's and has not been heard of for long."""
        return not self.is_here and now() - self.beat > SILENT_SECONDS * 1000

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:  # not Linux
        return platform.node()
