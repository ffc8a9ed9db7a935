"""A real MLflow server behind a proxy that can be away, hang, refuse and break off: what networks do to trainings."""

import contextlib
import http.client
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HEALTHY = "healthy"
NOT_PASSED_ON = ("host", "connection", "expect", "transfer-encoding")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Server:
    """``mlflow server`` with a database and artifacts of its own."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        options = [
            "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *options], env=environment, stdout=log, stderr=log,
                start_new_session=True, cwd=self.folder,
            )  # fmt: skip
        for _ in range(600):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            with contextlib.suppress(OSError), contextlib.closing(connection):
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.2)
        raise RuntimeError((self.folder / "server.log").read_text()[-2000:])

    def kill(self) -> None:
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, 9)
            self.process.wait()


class Proxy:
    """Stands in front of a server.

    Attributes:
        mode: ``healthy``, ``hang``, ``reset``, ``flaky`` (a quarter of all requests is answered by 503), a status that
            answers everything (``401``), ``413`` (uploads above ``most_bytes``), ``slow`` (a tenth of a second for each
            upload), or ``version 2``.
    """

    def __init__(self, upstream: int, seed: int = 0):
        self.upstream, self.port, self.mode, self.most_bytes = upstream, free_port(), HEALTHY, 0
        self.random = random.Random(seed)
        self.requests: list[str] = []
        self.connections: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True, kwargs={"poll_interval": 0.05}).start()

    def close(self) -> None:
        """Nothing listens any more, and what was connected is cut."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def refuses(self, handler: BaseHTTPRequestHandler) -> bool:
        size = int(handler.headers.get("Content-Length") or 0)
        return self.mode == "413" and handler.command == "PUT" and size > self.most_bytes


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.proxy.connections.add(self.connection)

    def finish(self) -> None:
        self.proxy.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, *args: object) -> None:
        pass

    def handle_expect_100(self) -> bool:
        if self.proxy.refuses(self):
            self._answer(413, b"too large")
            return False
        return super().handle_expect_100()

    def __getattr__(self, name: str):
        if name.startswith("do_"):
            return self._any
        raise AttributeError(name)

    def _any(self) -> None:
        self.proxy.requests.append(f"{self.command} {self.path}")
        mode = self.proxy.mode
        if mode == "hang":
            while self.proxy.mode == "hang":
                time.sleep(0.1)
            self.close_connection = True
            return
        if mode == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        body = self._body()
        if mode == "slow" and self.command == "PUT":
            time.sleep(0.1)
        if self.proxy.refuses(self):
            self._answer(413, b"<html>413 Request Entity Too Large</html>")
        elif mode == "flaky" and self.proxy.random.random() < 0.25:
            self._answer(503, b"busy")
        elif mode == "401":
            self._answer(401, b"who are you?")
        elif mode == "version 2" and self.path == "/version":
            self._answer(200, b"2.22.0")
        else:
            self._forward(body)

    def _body(self) -> bytes:
        """Of an empty file, a client sends chunks, since it does not say how many."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _forward(self, body: bytes) -> None:
        try:
            upstream = http.client.HTTPConnection("127.0.0.1", self.proxy.upstream, timeout=60)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in NOT_PASSED_ON}
            with contextlib.closing(upstream) as to:
                to.request(self.command, self.path, body=body, headers=headers)
                answer = to.getresponse()
                self._answer(answer.status, answer.read(), answer.getheader("Content-Type"))
        except OSError:
            self._answer(502, b"bad gateway")

    def _answer(self, status: int, content: bytes, kind: str | None = None) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", kind or "text/html")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)


@contextlib.contextmanager
def behind_proxy(folder: Path) -> Iterator[tuple[Server, Proxy]]:
    server = Server(folder)
    server.start()
    proxy = Proxy(server.port)
    proxy.open()
    try:
        yield server, proxy
    finally:
        proxy.close()
        server.kill()
