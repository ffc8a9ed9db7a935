"""From the body of a request to photos, within limits, or to the reason why not."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import python_multipart  # noqa: F401  # which Starlette asks for at the first form only
from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from fmtl.catalogue.photos import encoding
from fmtl.catalogue.photos.folder import ImageError
from fmtl.catalogue.reasons import Reason
from fmtl.serving.limits import MOST_LABELS, Limits
from fmtl.serving.schemas import PredictRequest, reasons

JSON, MULTIPART = "application/json", "multipart/form-data"
BODY_SECONDS = 60.0  # for the whole of it to arrive
MOST_FIELDS = 8  # of a form, besides its photos
FIELDS = {"top_k"}  # of a form, besides its photos
SMALL = 1 << 20  # bytes of JSON that keep others waiting for milliseconds only
MOST_KEYS = 8  # of the JSON; it knows fewer


class Refused(Exception):
    """A request that gets no answer.

    Args:
        status: Of HTTP.
        retry_after: Seconds.
    """

    def __init__(self, status: int, reason: str, retry_after: int | None = None):
        super().__init__(reason)
        self.status, self.reason, self.retry_after = status, reason, retry_after


@dataclass(frozen=True)
class Asked:
    """What a request asks.

    Attributes:
        names: Of the photos: their number, or the name of the file that was sent.
    """

    names: list[str]
    photos: list[bytes | ImageError]
    top_k: int


class Bodies:
    """Reads bodies, and knows how much of them is in memory."""

    def __init__(self, limits: Limits):
        self.limits, self.held = limits, 0

    @contextlib.asynccontextmanager
    async def asked(self, request: Request) -> AsyncIterator[Asked]:
        """Within it the photos are in memory.

        Raises:
            Refused: With the reason.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (JSON, MULTIPART):
            _refuse(415, f"expected content-type {JSON} or {MULTIPART}, got '{kind[:80]}'")
        with self._counted() as count:
            body = await self._read(request, count)
            if kind == MULTIPART:
                asked = await _of_form(request, body, self.limits)
            elif len(body) > SMALL:
                asked = await asyncio.to_thread(_of_json, body, self.limits)
            else:
                asked = _of_json(body, self.limits)
            yield asked

    @contextlib.contextmanager
    def _counted(self) -> Iterator[list[int]]:
        count = [0]
        try:
            yield count
        finally:
            self.held -= count[0]

    async def _read(self, request: Request, count: list[int]) -> bytes:
        most = self.limits.bytes
        told = request.headers.get("content-length", "0")
        if told.isdecimal() and int(told) > most:
            _refuse(413, f"a body of {int(told):,} bytes, more than {most:,}")
        parts = []
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    count[0] += len(part)
                    self.held += len(part)
                    if count[0] > most:
                        _refuse(413, f"a body of more than {most:,} bytes")
                    if self.held > self.limits.held:
                        raise Refused(503, "too much is being sent at once", retry_after=1)
                    parts.append(part)
        except TimeoutError:
            _refuse(408, f"the body did not arrive within {BODY_SECONDS:g} seconds")
        return b"".join(parts)


def _of_json(body: bytes, limits: Limits) -> Asked:
    try:
        content = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        _refuse(400, f"the body is no JSON: {str(error)[:200]}")
    # Before each part is looked at: what is wrong with a million parts would fill the memory.
    if isinstance(content, dict) and isinstance(images := content.get("images"), list):
        _check_number(len(images), limits)
    if isinstance(content, dict) and len(content) > MOST_KEYS:
        _refuse(422, f"the body: {len(content)} keys, where images and top_k are all that there are")
    try:
        asked = PredictRequest.model_validate(content)
    except ValidationError as error:
        _refuse(422, reasons(error))
    photos: list[bytes | ImageError] = [
        encoding.decoded(text) or ImageError(*_blank_or_no_base64(text)) for text in asked.images
    ]
    return Asked([str(n) for n in range(len(photos))], photos, asked.top_k)


def _check_number(num: int, limits: Limits) -> None:
    if num > limits.photos:
        _refuse(413, f"{num} photos in one request, more than the {limits.photos} it may have")


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _blank_or_no_base64(text: str) -> tuple[Reason, str]:
    return (Reason.NOT_AN_IMAGE, "not base64") if text.strip() else (Reason.MISSING, "the text is blank")


async def _of_form(request: Request, body: bytes, limits: Limits) -> Asked:
    async def parts() -> AsyncGenerator[bytes, None]:
        yield body
        yield b""

    try:
        parser = MultiPartParser(request.headers, parts(), max_files=limits.photos, max_fields=MOST_FIELDS)
        parser.spool_max_size = limits.bytes  # in memory, where the body is already: photos are not kept
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        told = getattr(error, "message", None) or str(error)
        _refuse(413 if told.startswith("Too many files") else 400, f"the form can't be read: {told[:200]}")
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        values: dict[str, Any] = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        if unknown := sorted(set(values) - FIELDS):
            _refuse(422, f"{unknown[0][:80]}: no field of this form; photos are parts with a filename")
        if not files:
            _refuse(422, "no photo: each is a part with a filename")
        top_k = values.get("top_k", "1")
        if not (top_k.isdecimal() and len(top_k) < 9 and 1 <= int(top_k) <= MOST_LABELS):
            _refuse(422, f"top_k: expected a whole number from 1 to {MOST_LABELS}")
        photos: list[bytes | ImageError] = [await file.read() for file in files]
        return Asked([file.filename or str(n) for n, file in enumerate(files)], photos, int(top_k))
    finally:
        await form.close()


def _refuse(status: int, reason: str) -> NoReturn:
    raise Refused(status, reason)
