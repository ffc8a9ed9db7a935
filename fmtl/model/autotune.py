"""Precision, memory layout and batch size chosen by timing a few steps on this machine, not by belief."""

import copy
import hashlib
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from fmtl import hardware
from fmtl.errors import EnvironmentFault
from fmtl.model.execution import Execution
from fmtl.model.network import MultiTaskNet
from fmtl.storage import durable
from fmtl.storage.cache import cache_dir, recall
from fmtl.together import collectives

log = logging.getLogger(__name__)

FIRST_IMAGES = 2  # BatchNorm can't train on one
STEP_SECONDS, ROUNDS = 0.25, 1  # aimed at for a timed step, and how many, to see who is far off
LAST_STEP_SECONDS, LAST_ROUNDS = 1.0, 2  # the same, to decide
FAR_OFF, HOPELESS = 2.5, 1.25  # times as long as the fastest: out of the race after the first look, after a race
FIRST_BATCH, LARGEST_BATCH = 8, 512
WORTHWHILE = 1.05  # gain in images per second for which a batch is doubled
MEMORY_SHARE = 0.5  # of the free memory that a step may take


def candidates(precision: str, channels_last: bool | None, compile: bool) -> tuple[Execution, ...]:
    """The ways to run that settings leave open.

    Args:
        precision: One of ``Execution``, or ``auto`` for any.
        channels_last: None for either layout.
        compile: Taken as it is.
    """
    precisions = ("fp32", "bf16") if precision == "auto" else (precision,)
    layouts = (True, False) if channels_last is None else (channels_last,)
    return tuple(Execution(p, layout, compile) for p, layout in itertools.product(precisions, layouts))


def choose_execution(
    net: MultiTaskNet,
    device: torch.device,
    ways: Sequence[Execution],
    *,
    backbone: str,
    px: int,
    batch_size: int,
) -> Execution:
    """The fastest of several ways to train this network here.

    Takes seconds, and is remembered per machine, versions, backbone, size and batch. The network is not changed.

    Args:
        backbone: Its name, for the memory.
    """
    if len(ways) == 1:
        return ways[0]
    facts = [hardware.describe(device), backbone, str(px), str(batch_size), str(net.frozen)]
    remembered = _Memory(json.dumps([facts, [way.to_json() for way in ways]]))
    if (found := collectives.hand_out(remembered.value)) is None:
        log.debug("trying %d ways to run %s at %d px", len(ways), backbone, px)
        eager = [replace(way, compile=False) for way in ways]  # compiling each would take minutes
        # Of processes that train together all try at once, as they will train, and the first one decides.
        found = collectives.hand_out(fastest(net, device, eager, px=px, batch_size=batch_size))
        if collectives.place().is_first:
            remembered.value = found
    return ways[found]


class _Memory:
    """What an earlier trial found, in the cache folder."""

    def __init__(self, key: str):
        digest = hashlib.sha256(key.encode()).hexdigest()[:32]
        self._file, self._key = cache_dir() / "probe" / f"{digest}.json", key

    @property
    def value(self) -> int | None:
        return recall(lambda: int(json.loads(self._file.read_text(encoding="utf-8"))["fastest"]))

    @value.setter
    def value(self, fastest: int) -> None:
        try:
            durable.write_json(self._file, {"fastest": fastest, "of": json.loads(self._key)})
        except (EnvironmentFault, OSError) as error:  # nothing depends on remembering
            log.info("the trial is not remembered: %s", error)


def fastest(net: MultiTaskNet, device: torch.device, ways: Sequence[Execution], *, px: int, batch_size: int) -> int:
    """Index of the fastest way: forward and backward passes, interleaved, the hopeless dropped early.

    A few images tell who is far off, each at its second step: the first one pays for what is made once, and who comes
    first for what is made once for all. Between those that are close, the layouts above all, only a batch of the real
    size decides. Where no way has the memory for that, the largest number of images that was tried does.

    Raises:
        EnvironmentFault: The memory does not suffice for two images.
    """
    with torch.random.fork_rng(devices=[]):
        steps = [_step(copy.deepcopy(net).run_on(device, way), device, px) for way in ways]
        times = _race(steps, range(len(steps)), FIRST_IMAGES, 1)
        best = min(times.values())
        if math.isinf(best):
            raise EnvironmentFault(
                f"{device}: the memory does not suffice for a step on {FIRST_IMAGES} images of {px} px; "
                "lower px, or choose a smaller backbone"
            )
        left = [i for i, seconds in times.items() if seconds < FAR_OFF * best]
        per_image = best / FIRST_IMAGES
        for step_seconds, rounds in ((STEP_SECONDS, ROUNDS), (LAST_STEP_SECONDS, LAST_ROUNDS)):
            size = min(max(int(step_seconds / per_image), FIRST_IMAGES), batch_size)
            found = _race(steps, left, size, rounds)
            if math.isinf(best := min(found.values())):
                break
            times = found
            left = [i for i in left if times[i] < HOPELESS * best]
            per_image = best / size
            if len(left) == 1 or size == batch_size:
                break
    return min(left, key=times.__getitem__)


def _race(steps: Sequence[Callable[[int], float]], left: Sequence[int], size: int, rounds: int) -> dict[int, float]:
    """Least seconds of each step that is left, over some rounds after one that does not count."""
    times: dict[int, list[float]] = {i: [] for i in left}
    for _ in range(rounds + 1):
        for i in left:
            times[i].append(steps[i](size))
    return {i: min(found[1:]) for i, found in times.items()}


def _step(net: MultiTaskNet, device: torch.device, px: int) -> Callable[[int], float]:
    """A function of a number of images: seconds of their forward and backward pass; inf if memory does not suffice."""
    net.train()

    def run(num_images: int) -> float:
        images = torch.rand(num_images, 3, px, px).to(device)
        _wait(device)
        started = time.perf_counter()
        try:
            net.logits(images).square().mean().backward()
            _wait(device)
            return time.perf_counter() - started
        except torch.OutOfMemoryError:
            return math.inf
        finally:
            net.zero_grad(set_to_none=True)

    return run


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def choose_batch_size(
    net: MultiTaskNet, device: torch.device, execution: Execution, *, px: int, num_images: int
) -> int:
    """The smallest power of two from 8 on whose double is hardly faster or too large; less if 8 do not fit into memory.

    Args:
        num_images: In the training split; a batch is at most an eighth of it.
    """
    # What training keeps besides a step's own memory: AdamW's two moments and the moving average.
    kept = [torch.empty_like(p, device=device) for p in net.parameters() if p.requires_grad for _ in range(3)]
    with torch.random.fork_rng(devices=[]):
        step = _step(copy.deepcopy(net).run_on(device, execution), device, px)
        size = _doubled(step, device, limit=min(LARGEST_BATCH, max(num_images // 8, FIRST_BATCH)))
    del kept
    return size


def _doubled(step: Callable[[int], float], device: torch.device, *, limit: int) -> int:
    size = FIRST_BATCH
    while not (rate := _rate(step, size, device)) and size > FIRST_IMAGES:
        size //= 2
    while size * 2 <= limit:
        doubled = _rate(step, size * 2, device)
        if doubled < rate * WORTHWHILE:
            break
        size, rate = size * 2, doubled
    return size


def _rate(step: Callable[[int], float], size: int, device: torch.device) -> float:
    """Images per second; 0 where the memory does not suffice."""
    free = hardware.free_bytes(device)
    step(size)
    if device.type == "cpu" and free - hardware.free_bytes(device) >= MEMORY_SHARE * free:
        return 0.0
    return size / min(step(size), step(size))
