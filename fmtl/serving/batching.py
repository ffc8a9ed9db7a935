"""Photos of many requests labelled together, as they come: while a batch is computed the next one gathers.

N images, K classes.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fmtl.model.labeller import Labeller

Probs = dict[str, np.ndarray]


class Room:
    """How many photos may wait, in all requests and for all models together."""

    def __init__(self, most: int):
        self.most, self.taken = most, 0

    @contextlib.contextmanager
    def of(self, num: int) -> Any:
        """Within it they wait or are computed.

        Raises:
            Full: There is no room for them.
        """
        if self.taken + num > self.most:
            raise Full
        self.taken += num
        try:
            yield
        finally:
            self.taken -= num


class Full(Exception):
    """As many photos wait as may."""


class Batcher:
    """One model's queue. All but ``_compute`` runs on the event loop.

    Args:
        thread: Where it is computed, one for all models: each thread that computes with OpenMP has threads of its own
            for that, and where these are more than there are processors, GNU's hardly wait for each other, which makes
            a single photo take three times as long.
        seen: Told how many photos each batch had.
    """

    def __init__(self, labeller: Labeller, batch_size: int, thread: ThreadPoolExecutor, seen: Callable[[int], object]):
        self._labeller, self._batch_size, self._thread, self._seen = labeller, batch_size, thread, seen
        self._waiting: deque[tuple[np.ndarray, asyncio.Future[Probs]]] = deque()
        self._working: asyncio.Task[None] | None = None
        self.photos_per_second = 0.0  # of late

    async def probs(self, squares: Sequence[np.ndarray]) -> Probs:
        """``(N, K)`` by task name, of ``(S, S, 3)`` uint8 each; a photo may be computed with those of others."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Probs]] = [loop.create_future() for _ in squares]
        self._waiting.extend(zip(squares, futures, strict=True))
        if self._working is None:
            self._working = loop.create_task(self._work())
        found = await asyncio.gather(*futures)
        return {name: np.stack([part[name] for part in found]) for name in found[0]}

    async def warm(self) -> None:
        """The first computation takes longer than others; and whether it works at all is known before anybody asks."""
        px = self._labeller.preprocess.stored_px
        await self.alone(lambda: self._labeller.probs(np.zeros((1, px, px, 3), np.uint8)))

    async def alone(self, call: Callable[[], Any]) -> Any:
        """Something else with the model, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(self._batch_size, len(self._waiting)))]
                batch = [item for item in batch if not item[1].done()]  # of a request that was given up
                if not batch:
                    continue
                self._seen(len(batch))
                began = time.perf_counter()
                try:
                    probs = await loop.run_in_executor(self._thread, self._compute, [square for square, _ in batch])
                except Exception as error:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    continue
                rate = len(batch) / max(time.perf_counter() - began, 1e-6)
                self.photos_per_second = 0.8 * self.photos_per_second + 0.2 * rate if self.photos_per_second else rate
                for n, (_, future) in enumerate(batch):
                    if not future.done():
                        future.set_result({name: part[n] for name, part in probs.items()})
        finally:
            self._working = None

    def _compute(self, squares: Sequence[np.ndarray]) -> Probs:
        return self._labeller.probs(np.stack(squares))
