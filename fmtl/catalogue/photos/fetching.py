"""Downloading photos that a table names by their addresses: from public servers only, within limits, resumable."""

import csv
import hashlib
import http.client
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from fmtl.catalogue.names import IMAGE_SUFFIXES
from fmtl.catalogue.photos.finding import FETCHED, read_fetched
from fmtl.storage import durable

AT_ONCE = 8
MAX_BYTES = 100 << 20  # of a photo
MAX_SECONDS = 60  # for a photo, redirects included
MAX_REDIRECTS = 5
OK = "ok"
COLUMNS = ("url", "path", "status")
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # IPv4 addresses for who has IPv6 alone
_CHUNK = 1 << 16
_TYPES = {
    "image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp", "image/gif": ".gif", "image/bmp": ".bmp",
    "image/tiff": ".tif",
}  # fmt: skip


class Fetched(NamedTuple):
    """What became of an address: the file below the folder, empty where there is none, and ``ok`` or a reason."""

    url: str
    path: str
    status: str


class NotFetched(Exception):
    """Why an address gave no photo."""


def fetch(urls: Sequence[str], folder: Path, *, allow_private: bool) -> Iterator[Fetched]:
    """Download what is not there yet, a few at once; each result as soon as it is known.

    ``fetched.csv`` in the folder grows with every photo, so that what was done outlives an interrupt; what failed is
    tried again.

    Args:
        allow_private: Whether addresses of this machine and of private networks may be asked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = read_fetched(folder).items()
    known = {url: Fetched(url, path, OK) for url, path in there if (folder / path).is_file()}
    wanted = list(dict.fromkeys(urls))
    yield from (known[url] for url in wanted if url in known)
    todo = [url for url in wanted if url not in known]
    _write(folder, known.values())
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        with (folder / FETCHED).open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            for done in as_completed([pool.submit(_one, url, folder, allow_private) for url in todo]):
                row = done.result()
                writer.writerow(row)
                file.flush()
                yield row
    finally:
        pool.shutdown(cancel_futures=True)


def _write(folder: Path, rows: Iterable[Fetched]) -> None:
    with durable.replacing(folder / FETCHED) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def _one(url: str, folder: Path, allow_private: bool) -> Fetched:
    try:
        content, kind = _download(url, allow_private)
    except NotFetched as error:
        return Fetched(url, "", str(error))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Fetched(url, "", f"{type(error).__name__}: {error}"[:200])
    if not content:
        return Fetched(url, "", "0 bytes")
    digest = hashlib.sha256(url.encode()).hexdigest()
    path = f"{digest[:2]}/{digest[2:18]}{_suffix(url, kind)}"
    with durable.replacing(folder / path, sync=False) as temporary:
        temporary.write_bytes(content)
    return Fetched(url, path, OK)


def _download(url: str, allow_private: bool) -> tuple[bytes, str]:
    """Content and its type."""
    deadline = time.monotonic() + MAX_SECONDS
    for _ in range(MAX_REDIRECTS + 1):
        connection = _connection(url, allow_private, deadline)
        try:
            parts = urlsplit(url)
            target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers={"User-Agent": "fmtl", "Accept": "image/*"})
            answer = connection.getresponse()
            location = answer.getheader("Location")
            if answer.status in (301, 302, 303, 307, 308) and location:
                url = urljoin(url, location)
                continue
            if answer.status != http.HTTPStatus.OK:
                raise NotFetched(f"HTTP {answer.status} {answer.reason}")
            return _body(answer, deadline), (answer.getheader("Content-Type") or "").partition(";")[0].strip().lower()
        finally:
            connection.close()
    raise NotFetched(f"more than {MAX_REDIRECTS} redirects")


def _body(answer: http.client.HTTPResponse, deadline: float) -> bytes:
    if (answer.length or 0) > MAX_BYTES:
        raise NotFetched(f"{answer.length} bytes, more than {MAX_BYTES}")
    content = bytearray()
    while part := answer.read1(_CHUNK):
        content += part
        if len(content) > MAX_BYTES:
            raise NotFetched(f"more than {MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise NotFetched(f"took more than {MAX_SECONDS} s")
    if answer.length:  # what the server had promised beyond what came
        raise NotFetched(f"cut short by {answer.length} bytes")
    return bytes(content)


def _connection(url: str, allow_private: bool, deadline: float) -> http.client.HTTPConnection:
    """A connection to the very address that was checked: a name may lead elsewhere when it is asked again."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NotFetched("not an http or https address")
    if parts.username or parts.password:
        raise NotFetched("an address with a password is not asked")
    host, is_safe = parts.hostname, parts.scheme == "https"
    port = parts.port or (443 if is_safe else 80)
    address = _checked_address(host, port, allow_private)
    left = max(deadline - time.monotonic(), 0.1)
    made: http.client.HTTPConnection = http.client.HTTPConnection(host, port, timeout=left)
    plain = socket.create_connection((address, port), timeout=left)
    made.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host) if is_safe else plain
    return made


def _checked_address(host: str, port: int, allow_private: bool) -> str:
    found = [str(item[4][0]) for item in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not allow_private and not all(_is_public(ipaddress.ip_address(a.partition("%")[0])) for a in found):
        raise NotFetched(f"{host} is an address of this machine or a private network; --allow-private true asks it")
    return found[0]


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether it is one of the open internet, an IPv4 address within an IPv6 one included."""
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return True
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _TRANSLATED or int(address) < 1 << 32:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return not address.is_site_local and all(_is_public(ipv4) for ipv4 in inner if ipv4 is not None)


def _suffix(url: str, kind: str) -> str:
    if kind in _TYPES:
        return _TYPES[kind]
    suffix = re.search(r"\.\w+$", urlsplit(url).path)
    return suffix[0].lower() if suffix and suffix[0].lower() in IMAGE_SUFFIXES else ""
