"""Servers in processes of their own, what is asked of them, and how their answers are read."""

import base64
import contextlib
import http.client
import json
import math
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
RUN = "import sys; from fmtl.serving.command import main; sys.exit(main(sys.argv[1:]))"


@dataclass
class Live:
    """A server that runs."""

    process: subprocess.Popen
    port: int
    file: Path

    def request(self, method, path, body=None, headers=None, timeout=30):
        """Status, headers and content; JSON where it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            content = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
            return answer.status, answer.headers, strict(content) if is_json and content else content
        finally:
            connection.close()

    def post(self, content, **headers):
        body = json.dumps(content).encode()
        return self.request("POST", "/predict", body, {"Content-Type": "application/json", **headers})

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def strict(content: bytes):
    """As a strict parser reads it: NaN is no JSON."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(content.decode("utf-8"), parse_constant=refuse)


@contextlib.contextmanager
def started(command, environment=None):
    """A server process that says on which port it listens."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | (environment or {}),
    )  # fmt: skip
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"http://\S+:(\d+)/", line):
                break
        else:
            raise AssertionError("".join(said))
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def coded(photo):
    return base64.b64encode(photo).decode()


def form(photos, **fields):
    """A multipart body and its header."""
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (k.encode(), str(v).encode())
        for k, v in fields.items()
    ] + [
        b'--b\r\nContent-Disposition: form-data; name="images"; filename="%s"\r\nContent-Type: image/png\r\n\r\n%s\r\n'
        % (name.encode(), photo)
        for name, photo in photos
    ]
    return b"".join(parts) + b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}


def agree(row, expected, n):
    assert row["status"] == "ok"
    for column in expected:
        wanted = expected[column][n]
        if column.endswith("confidence"):
            assert math.isclose(row[column], wanted, abs_tol=2e-6), column
        else:
            assert row[column] == wanted, column
