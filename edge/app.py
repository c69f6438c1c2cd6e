"""The HTTP surface: routes, and nothing else. Bodies stay bytes until the edge's own decoders see them."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from edge.desk import refuse
from edge.dialects import CHAT, COMPLETION, EMBEDDING, Dialect
from edge.errors import Problem
from edge.paths import stream_of
from edge.problem_response import ProblemResponse
from edge.registry import name_asked
from edge.service import Edge
from infra import telemetry
from schemas.dispatch import ModelCard
from schemas.ids import ANONYMOUS

JSON = "application/json"
UNEXPECTED = Problem("internal", "something went wrong on our side")

GENERATION: dict[str, Dialect] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETION,
    "/v1/embeddings": EMBEDDING,
}
"""The endpoints that answer with a model's output, by path."""


class EdgeApp:
    """The ASGI application of one edge.

    What streams is answered here and everything else by FastAPI, because each of a framework's layers wraps `send`, and
    a stream goes through all of them for every token: measured at 256 streams, 13 % of the edge's CPU time.
    """

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._pages = _pages(edge)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        dialect, rid = GENERATION.get(path), stream_of(path)
        if dialect is None and rid is None:
            await self._pages(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            if dialect is not None:
                response = await self._generate(dialect, request)
            else:
                assert rid is not None
                response = await self._resume(rid, request)
        except ClientDisconnect:
            return
        except Exception:
            # Nothing has been sent yet. The server logs what is raised.
            await ProblemResponse(UNEXPECTED)(scope, receive, send)
            raise
        await response(scope, receive, send)

    async def _generate(self, dialect: Dialect, request: Request) -> Response:
        if request.method != "POST":
            return ProblemResponse(_not_allowed(request))
        raw = await read_body(request, self._edge.body_bytes_max)
        if isinstance(raw, Problem):
            return refuse(raw)
        return await self._edge.generate(dialect, raw, request.headers)

    async def _resume(self, rid: str, request: Request) -> Response:
        if request.method != "GET":
            return ProblemResponse(_not_allowed(request))
        return await self._edge.requests.stream(ANONYMOUS, rid, request.headers, request.query_params)


async def read_body(request: Request, bytes_max: int) -> bytes | Problem:
    """The body, refused as soon as it is known to be too large, whether it says its length or not.

    The server reads and drops the rest of a refused one: closing on unread bytes would take the answer away, too.
    """
    too_large = Problem("too_large", f"the request body may have at most {bytes_max} bytes")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > bytes_max:
        return too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bytes_max:
            return too_large
    return bytes(body)


def _pages(edge: Edge) -> FastAPI:
    app = FastAPI(title="Penstock", docs_url=None, redoc_url=None)
    _add_models(app, edge)
    _add_requests(app, edge)
    _add_probes(app, edge)
    _add_errors(app)
    return app


def _add_models(app: FastAPI, edge: Edge) -> None:
    def describe(card: ModelCard, name: str) -> dict[str, Any]:
        described = {
            "id": name,
            "object": "model",
            "created": edge.started,
            "owned_by": "penstock",
            "max_model_len": card.context_tokens_max,
        }
        return described if name == card.name else described | {"parent": card.name}

    @app.get("/v1/models", response_class=Response)
    async def list_models() -> Response:
        cards = edge.registry.offered(edge.now())
        listed = [describe(card, name) for card in cards for name in (card.name, *card.adapters)]
        return _json({"object": "list", "data": listed})

    # Names have slashes in them: `Qwen/Qwen2.5-1.5B`.
    @app.get("/v1/models/{name:path}", response_class=Response)
    async def retrieve_model(name: str) -> Response:
        card = edge.registry.find(name, edge.now())
        if isinstance(card, Problem):
            return ProblemResponse(card)
        return _json(describe(card, name_asked(card, name)))


def _add_requests(app: FastAPI, edge: Edge) -> None:
    @app.get("/v1/requests/{rid}", response_class=Response)
    async def show_request(rid: str) -> Response:
        return await edge.requests.show(ANONYMOUS, rid)

    @app.delete("/v1/requests/{rid}", response_class=Response)
    async def cancel_request(rid: str) -> Response:
        return await edge.requests.cancel(ANONYMOUS, rid)


def _add_probes(app: FastAPI, edge: Edge) -> None:
    @app.get("/livez", response_class=Response)
    async def livez() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz", response_class=Response)
    async def readyz() -> Response:
        ready = edge.ready
        return _json({"ready": ready}, 200 if ready else 503)

    @app.get("/health", response_class=Response)
    async def health() -> Response:
        state = edge.registry.health(edge.now(), connected=edge.bus.connected)
        return _json(state, 200 if state.status in ("ok", "degraded") else 503)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        page, content_type = telemetry.exposition()
        return Response(page, media_type=content_type)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            return ProblemResponse(_not_allowed(request))
        return ProblemResponse(Problem("not_found", f"there is nothing at {request.url.path}"))

    # Starlette answers with this and raises the error again, for the server to log.
    @app.exception_handler(Exception)
    async def unexpected(_request: Request, _error: Exception) -> Response:
        return ProblemResponse(UNEXPECTED)


def _not_allowed(request: Request) -> Problem:
    return Problem("method_not_allowed", f"{request.method} is not allowed on {request.url.path}")


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type=JSON)
