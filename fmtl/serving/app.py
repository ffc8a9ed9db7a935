"""The server's application: paths, limits, and what it answers."""

import asyncio
import base64
import hmac
import io
import json
import math
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import resources
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fmtl import __version__, machine
from fmtl.model.labeller import rows_of
from fmtl.serving import schemas
from fmtl.serving.batching import Batcher, Full, Room
from fmtl.serving.bodies import Asked, Bodies, Refused
from fmtl.serving.limits import MOST_LABELS, Limits
from fmtl.serving.measures import CONTENT_TYPE, Measures
from fmtl.serving.served import Served

OPEN = {"/", "/health", "/ready", "/docs", "/openapi.json"}  # without a token
MULTIPART_SCHEMA = {
    "type": "object",
    "properties": {
        "images": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "Photos.",
        },
        "top_k": {"type": "integer", "minimum": 1, "maximum": MOST_LABELS},
    },
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": schemas.PredictRequest.model_json_schema()},
            "multipart/form-data": {"schema": MULTIPART_SCHEMA},
        },
    }
}
FAILURES: dict[int | str, dict[str, Any]] = {
    code: {"model": schemas.Failure, "description": told}
    for code, told in {
        400: "The body can't be read.", 401: "No or another token.", 408: "The body came too slowly.",
        413: "More bytes or photos than a request may have.", 415: "Neither JSON nor a form.",
        422: "Something in it is not as expected.", 429: "Too many photos wait; see Retry-After.",
        503: "Not ready, or too much is being sent.",
    }.items()
}  # fmt: skip


class Server:
    """State of the application: the model in use, its queue, and what is counted.

    Args:
        token: That requests must carry; None for none.
    """

    current: tuple[Served, Batcher]

    def __init__(self, limits: Limits, *, batch_size: int, token: str | None = None):
        # More could never be taken, however idle the server.
        limits = replace(limits, photos=min(limits.photos, limits.waiting))
        self.limits, self.batch_size, self.token = limits, batch_size, token
        self.measures, self.room, self.bodies = Measures(), Room(limits.waiting), Bodies(limits)
        self._decoders = ThreadPoolExecutor(machine.num_cpus(), thread_name_prefix="decode")
        self._computing = ThreadPoolExecutor(1, thread_name_prefix="model")
        self.is_ending = False

    async def take(self, served: Served) -> None:
        """Answer with this model from the next request on; those that have begun end with the one they began with."""
        batcher = Batcher(served.labeller, self.batch_size, self._computing, self.measures.batches.observe)
        await batcher.warm()
        self.current = (served, batcher)
        self.measures.model.clear()
        self.measures.model.labels(served.name, served.version or "", served.digest).set(1)

    async def predict(self, asked: Asked) -> dict[str, Any]:
        served, batcher = self.current
        began = time.perf_counter()
        try:
            with self.room.of(len(asked.photos)):
                self.measures.waiting.set(self.room.taken)
                decoded = await self._decoded(served, asked)
                status = [told for told, _ in decoded]
                squares = [square for _, square in decoded if square is not None]
                probs = await batcher.probs(squares) if squares else {}
        except Full:
            rate = batcher.photos_per_second
            wait = math.ceil(self.room.taken / rate) if rate else 1
            raise Refused(
                429, f"{self.room.taken} photos wait, and {self.room.most} may", retry_after=min(max(wait, 1), 60)
            ) from None
        finally:
            self.measures.waiting.set(self.room.taken)
        seconds = time.perf_counter() - began
        self.measures.seconds.observe(seconds)
        for told in status:
            self.measures.photos.labels(told).inc()
        rows = rows_of(served.labeller.columns(status, probs, asked.top_k))
        return {
            "predictions": [{"image": name, **row} for name, row in zip(asked.names, rows, strict=True)],
            "model": model_of(served),
        }

    async def look(self, asked: Asked) -> dict[str, Any]:
        """Of one photo the square that the network sees and where it looks for each attribute: PNGs as data URIs."""
        served, batcher = self.current
        look = served.look
        if look is None:
            raise Refused(404, "this model can't tell where it looks")
        if len(asked.photos) != 1:
            raise Refused(422, "expected one photo")
        with self.room.of(1):
            ((status, square),) = await self._decoded(served, asked)
            if square is None:
                raise Refused(422, f"the photo can't be read: {status}")
            maps = await batcher.alone(lambda: look(square))
        return {"square": _png(square), "maps": {slug: _png(_overlay(places)) for slug, places in maps.items()}}

    async def _decoded(self, served: Served, asked: Asked) -> list[tuple[str, np.ndarray | None]]:
        loop, most = asyncio.get_running_loop(), self.limits.pixels
        return await asyncio.gather(
            *(loop.run_in_executor(self._decoders, served.decode, photo, most) for photo in asked.photos)
        )


def model_of(served: Served) -> dict[str, Any]:
    return {"name": served.name, "version": served.version, "digest": served.digest}


def app_of(server: Server) -> ASGIApp:
    """The ASGI application."""
    app = FastAPI(
        title="fmtl", version=__version__, docs_url=None, redoc_url=None, responses=FAILURES,
        description="Attributes of products from their photos.",
    )  # fmt: skip

    _add_photos(app, server)
    _add_facts(app, server)
    _add_failures(app)
    for path, file in {"/": "page.html", "/docs": "docs.html"}.items():
        app.get(path, include_in_schema=False)(_page(file))
    return _Gate(app, server)


def _add_photos(app: FastAPI, server: Server) -> None:
    @app.post("/predict", response_model=schemas.PredictAnswer, openapi_extra=BODY, summary="Label photos")
    async def predict(request: Request) -> Response:
        async with server.bodies.asked(request) as asked:
            return _json(await server.predict(asked))

    @app.post("/look", openapi_extra=BODY, summary="Where the network looks, of one photo")
    async def look(request: Request) -> Response:
        async with server.bodies.asked(request) as asked:
            return _json(await server.look(asked))


def _add_facts(app: FastAPI, server: Server) -> None:
    @app.get("/info", response_model=schemas.Info, summary="What is served")
    async def info() -> Response:
        served, _ = server.current
        limits = server.limits
        labeller = served.labeller
        limited = {name: task.slug for name, task in labeller.tasks.applicability.items()}
        thresholds = {name: values.tolist() for name, values in labeller.thresholds.items()}
        tasks = [
            {"name": t.name, "slug": t.slug, "kind": t.kind, "classes": list(t.classes), "applies_to": t.applies_to,
             "applies": limited.get(t.name, ""), "thresholds": thresholds.get(t.name),
             "accepted_from": labeller.confidence.accepted_from.get(t.name)} for t in labeller.tasks
        ]  # fmt: skip
        return _json(
            {"model": model_of(served), "data": served.data, "tasks": tasks, "fmtl": __version__,
             "limits": {"photos": limits.photos, "bytes": limits.bytes, "pixels": limits.pixels},
             "can_look": served.look is not None}
        )  # fmt: skip

    @app.head("/health", include_in_schema=False)
    @app.get("/health", summary="Whether the process answers")
    async def health() -> Response:
        return _json({"status": "ok"})

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready", summary="Whether it takes requests")
    async def ready() -> Response:
        return _json({"status": "ending"}, 503) if server.is_ending else _json({"status": "ready"})

    @app.get("/metrics", summary="For Prometheus")
    async def metrics() -> Response:
        return Response(server.measures.text(), media_type=CONTENT_TYPE)


def _add_failures(app: FastAPI) -> None:
    """Every answer is JSON, also one that says no."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
        return _json({"error": error.reason}, error.status, headers)

    @app.exception_handler(Full)
    async def full(_: Request, error: Full) -> Response:
        return _json({"error": "too many photos wait"}, 429, {"Retry-After": "1"})

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        return _json({"error": "the client went away"}, 400)

    @app.exception_handler(HTTPException)
    async def not_found(_: Request, error: HTTPException) -> Response:
        return _json({"error": str(error.detail)}, error.status_code, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return _json({"error": "the server failed; its log says why"}, 500)


class _Gate:
    """Who may come in, and what is counted of all that go out."""

    def __init__(self, app: FastAPI, server: Server):
        self._app, self._server = app, server
        self._paths = {str(getattr(route, "path", "")) for route in app.routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "elsewhere"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._server.measures.requests.labels(path, str(message["status"])).inc()
            await send(message)

        if path not in OPEN and not self._has_token(scope):
            answer = _json({"error": "no token, or another one"}, 401, {"WWW-Authenticate": "Bearer"})
            await answer(scope, receive, counted)
            return
        await self._app(scope, receive, counted)

    def _has_token(self, scope: Scope) -> bool:
        if self._server.token is None:
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, b"Bearer " + self._server.token.encode())


def _page(file: str) -> Callable[[], Awaitable[Response]]:
    content = resources.files("fmtl.serving").joinpath(file).read_bytes()
    policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
    headers = {
        "Content-Security-Policy": policy + "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'",
        "X-Content-Type-Options": "nosniff",
    }

    async def page() -> Response:
        return Response(content, media_type="text/html; charset=utf-8", headers=headers)

    return page


def _json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    body = text.encode("utf-8", "replace")  # a name may have half of a surrogate pair
    return Response(body, status, headers, "application/json")


def _png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _overlay(places: np.ndarray) -> np.ndarray:
    """``(h, w)`` in [0, 1] to ``(h, w, 4)`` uint8: orange, the more opaque the more a place speaks for the label."""
    out = np.empty((*places.shape, 4), np.uint8)
    out[..., :3] = (255, 110, 0)
    out[..., 3] = np.round(places**1.5 * 180)  # so that the photo is seen where little speaks for it
    return out
