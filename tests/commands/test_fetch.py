"""Photos at addresses, from a server on this machine."""

import csv
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from fmtl.catalogue.photos import fetching
from fmtl.commands.fetch import fetch
from fmtl.commands.prepare import build_dataset
from fmtl.errors import DataError
from fmtl.settings.schema import FetchSettings, PrepareSettings


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Shop(BaseHTTPRequestHandler):
    """``/p/3`` is a photo; other paths are the faults that servers have."""

    asked: ClassVar[list[str]] = []

    def do_GET(self):
        type(self).asked.append(self.path)
        _, what, *more = self.path.partition("?")[0].split("/")
        if what == "p":
            self.answer(200, png(int(more[0])))
        elif what == "moved":
            self.answer(302, b"", Location=f"/p/{more[0]}")
        elif what == "loop":
            self.answer(302, b"", Location="/loop")
        elif what == "file":
            self.answer(302, b"", Location="file:///etc/passwd")
        elif what == "large":
            self.answer(200, b"", **{"Content-Length": str(fetching.MAX_BYTES + 1)})
        elif what == "short":
            self.answer(200, b"abc", **{"Content-Length": "10"})
        else:
            self.answer(404, b"no")

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in ({"Content-Type": "image/png", "Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def address():
    Shop.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def table_of(folder, urls):
    path = folder / "t.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("photo", "colour"), *((url, "red" if i % 2 else "blue") for i, url in enumerate(urls))]
        )
    return str(path)


def test_photos_are_fetched_and_prepare_finds_them(address, tmp_path):
    urls = [f"{address}/p/{i}?size=large" for i in range(20)] + [f"{address}/moved/20"]
    table, out = table_of(tmp_path, urls), tmp_path / "photos"
    rows = fetch(FetchSettings(table=table, column="photo", out=str(out), allow_private=True))
    assert sorted(row.url for row in rows) == sorted(urls) and {row.status for row in rows} == {"ok"}
    assert all((out / row.path).read_bytes() == png(int(row.url.split("/")[4].split("?")[0])) for row in rows)
    dataset, _ = build_dataset(PrepareSettings(table=table, images=str(out), out=str(tmp_path / "out"), px=16))
    assert len(dataset.table) == 21
    assert any("21 photos were downloaded from their address" in note for note in dataset.manifest["notes"])


def test_what_was_fetched_is_not_fetched_again_and_what_failed_is_tried_again(address, tmp_path):
    urls = [f"{address}/p/{i}" for i in range(3)] + [f"{address}/gone"]
    settings = FetchSettings(
        table=table_of(tmp_path, urls), column="photo", out=str(tmp_path / "p"), allow_private=True
    )
    fetch(settings)
    listed = tmp_path / "p" / "fetched.csv"
    whole = listed.read_text()
    listed.write_text(whole[: whole.rindex("ok") - 9])  # cut in its last line that is whole, as a kill leaves it
    Shop.asked.clear()
    fetch(settings)
    assert "/gone" in Shop.asked and len(Shop.asked) <= 3
    with listed.open(newline="") as file:
        found = {row["url"]: row["status"] for row in csv.DictReader(file)}
    assert found == dict.fromkeys(urls[:3], "ok") | {urls[3]: "HTTP 404 Not Found"}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/gone", "HTTP 404"),
        ("/loop", "more than 5 redirects"),
        ("/file", "not an http or https address"),
        ("/large", "bytes, more than"),
        ("/short", "cut short by 7 bytes"),
    ],
)
def test_each_fault_of_a_server_is_the_status_of_its_photo(address, tmp_path, path, status):
    (row,) = fetching.fetch([address + path], tmp_path, allow_private=True)
    assert status in row.status and row.path == ""
    assert [p.name for p in tmp_path.iterdir()] == ["fetched.csv"]


def test_this_machine_and_private_networks_are_not_asked(address, tmp_path):
    urls = [f"{address}/p/1", "http://localhost/p/1", "http://10.0.0.1/x", "http://169.254.169.254/latest", "http://[::1]/",
            "http://0.0.0.0/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://[::127.0.0.1]/", "http://[fec0::1]/",
            "http://224.0.0.1/", "http://[::ffff:127.0.0.1]/"]  # fmt: skip
    rows = list(fetching.fetch(urls, tmp_path, allow_private=False))
    assert len(rows) == len(urls) and all("--allow-private true asks it" in row.status for row in rows)
    others = list(
        fetching.fetch(["ftp://x/y", "file:///etc/passwd", "nonsense", "http://a:b@c/"], tmp_path, allow_private=True)
    )
    assert all("address" in row.status for row in others)
    assert Shop.asked == []
    with pytest.raises(DataError, match="no photo could be fetched"):
        fetch(FetchSettings(table=table_of(tmp_path, urls), column="photo", out=str(tmp_path / "o")))
