"""The server as a process: where it listens, how it ends, and how another model takes the place of the one it has."""

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import uvicorn

from fmtl.dataset.pixels import images
from fmtl.errors import DataError, EnvironmentFault, FmtlError, UsageError
from fmtl.serving.app import Server, app_of
from fmtl.serving.limits import Limits
from fmtl.serving.served import Served

log = logging.getLogger(__name__)

T = TypeVar("T")
TOKEN = "FMTL_SERVE_TOKEN"
LEAST_TOKEN = 8  # characters
DRAIN_SECONDS = 1.0  # in which it still takes requests, and /ready says no more
ENDING_SECONDS = 90  # for the requests that have begun: more than a body may take to arrive
BACKLOG = 2048  # connections


@dataclass(frozen=True)
class Place:
    """Where to listen: an address and a port, 0 for a free one."""

    host: str
    port: int


@dataclass(frozen=True)
class Following:
    """How a model is followed.

    Attributes:
        changed: The model in place of this one where there is another now, else None; in a thread of its own.
        seconds: Between two looks.
    """

    changed: Callable[[Served], Served | None]
    seconds: float


def token_of(file: Path | None) -> str | None:
    """The token that requests must carry: from a file, else from the environment; None where there is none.

    Raises:
        DataError: The file can't be read.
        UsageError: It is too short to be one, or has characters that a header can't.
    """
    if file is None:
        token, where = os.environ.get(TOKEN, ""), TOKEN
        if not token:
            return None
    else:
        where = f"token_file {file}"
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"can't be read ({error})", where=where) from error
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(f"{where}: expected at least {LEAST_TOKEN} visible ASCII characters")
    return token


def apart(call: Callable[[], T]) -> T:
    """In a thread that ends with it, and with it those of OpenMP that it began; see ``Batcher``."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def serve(
    served: Served,
    place: Place,
    limits: Limits,
    *,
    batch_size: int,
    token: str | None = None,
    following: Following | None = None,
) -> None:
    """Answer until SIGTERM or Ctrl-C; requests that have begun are answered before it ends.

    Raises:
        EnvironmentFault: The address can't be listened on.
    """
    with contextlib.closing(_bound(place)) as listening:
        host, port = listening.getsockname()[:2]
        if not _is_loopback(host) and token is None:
            log.warning("everybody who can reach %s may ask: no token is set (%s, or --token-file)", host, TOKEN)
        shown = f"[{host}]" if ":" in host else host
        server = Server(limits, batch_size=batch_size, token=token)
        with images.quiet():
            asyncio.run(_serve(server, served, listening, f"http://{shown}:{port}/", following))
    log.info("ended")


async def _serve(
    server: Server, served: Served, listening: socket.socket, address: str, following: Following | None
) -> None:
    await server.take(served)
    config = uvicorn.Config(
        app_of(server), log_level="warning", access_log=False, lifespan="off", server_header=False, backlog=BACKLOG,
        timeout_graceful_shutdown=ENDING_SECONDS,
    )  # fmt: skip
    http = _Http(config, server, f"serving {served.name} on {address} (Ctrl-C ends it)")
    looking = asyncio.create_task(_follow(server, following)) if following else None
    try:
        await http.serve(sockets=[listening])
    finally:
        if looking:
            looking.cancel()


class _Http(uvicorn.Server):
    """Ends on SIGTERM and SIGINT as uvicorn does, with exit code 0: it is how a server ends."""

    def __init__(self, config: uvicorn.Config, server: Server, told: str):
        super().__init__(config)
        self._server, self._told = server, told

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        log.info("%s", self._told)  # from here on requests are taken, and signals heard

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._server.is_ending:  # asked a second time
            super().handle_exit(sig, frame)
            return
        self._server.is_ending = True
        later = partial(asyncio.get_running_loop().call_later, DRAIN_SECONDS, super().handle_exit, sig, frame)
        asyncio.get_running_loop().call_soon_threadsafe(later)


async def _follow(server: Server, following: Following) -> None:
    while True:
        await asyncio.sleep(following.seconds)
        served, _ = server.current
        try:
            found = await _apart(partial(following.changed, served))
            if found is not None:
                await server.take(found)
                server.measures.swaps.inc()
                log.info("now serving %s, version %s", found.name, found.version or found.digest[:12])
        except FmtlError as error:
            log.warning("still serving %s: what came after it can't be used: %s", served.name, error)
        except Exception:  # it is no reason to stop answering
            log.exception("still serving %s: looking for another model failed", served.name)


async def _apart(call: Callable[[], T]) -> T:
    """``apart``, by a thread that nobody waits for at the end: a store that hangs must not keep the server."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[T] = loop.create_future()

    def tell(done: Callable[[T], None] | Callable[[BaseException], None], what: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(lambda: None if found.done() else done(what))

    def run() -> None:
        try:
            tell(found.set_result, call())
        except BaseException as error:
            tell(found.set_exception, error)

    threading.Thread(target=run, name="following", daemon=True).start()
    return await found


def _bound(place: Place) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0]
        # By name TCP: asyncio lets no small packet wait (TCP_NODELAY) only where the socket says so.
        listening = socket.socket(family, kind, protocol or socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)  # now: who reads that it serves may ask at once
    except (OSError, UnicodeError) as error:
        raise EnvironmentFault(f"host, port: can't listen on {place.host}:{place.port} ({error})") from error
    listening.set_inheritable(True)
    return listening


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback
