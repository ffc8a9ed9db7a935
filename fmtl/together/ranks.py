"""Which of several processes that train together this one is, as ``torchrun`` tells them."""

import os
import socket
from dataclasses import dataclass

from fmtl import machine

NO_ID = "none"  # what torchrun calls a launch that nobody named


@dataclass(frozen=True)
class Place:
    """One of several processes.

    Attributes:
        rank: From 0; the first speaks for all.
        size: How many there are.
        local_rank: Among those of this machine.
        attempt: How often torchrun has started them again.
        launch: What all attempts of one launch have in common; empty where torchrun did not start this process.
        since: When torchrun was started on this machine, in seconds since 1970; 0 where the system does not tell.
        is_named: The launch has a name (``--rdzv-id``) that whoever starts it again gives again.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    attempt: int = 0
    launch: str = ""
    is_named: bool = False
    since: float = 0.0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, start: int, stop: int) -> slice:
        """Those of the rows [start, stop) that are this process's: of all of them together each is one's."""
        num = stop - start
        return slice(start + num * self.rank // self.size, start + num * (self.rank + 1) // self.size)

    def least(self, *, is_training: bool) -> int:
        """Images that a batch needs, so that each process has enough: BatchNorm can't train on one."""
        return self.size * (2 if is_training else 1)


ALONE = Place()


def here() -> Place:
    """This process's, from its environment."""
    launched_as = os.environ.get("TORCHELASTIC_RUN_ID")
    if launched_as is None:
        return ALONE
    numbers = (os.environ.get(name, "0") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT"))
    rank, size, local_rank, attempt = map(int, numbers)
    is_named = launched_as != NO_ID
    # An agent starts all attempts, and is their parent.
    agent = os.getppid()
    started = machine.process_started(agent) or ""
    launch = launched_as if is_named else f"{socket.gethostname()} {agent} {started}"
    return Place(rank, max(size, 1), local_rank, attempt, launch, is_named, machine.since_1970(started))
