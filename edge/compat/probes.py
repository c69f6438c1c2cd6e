"""What is asked by whoever watches an edge, without a key: `/health`, `/healthz` and `/metrics`."""

from __future__ import annotations

import msgspec
from fastapi import FastAPI, Request, Response

from edge.accounts import RECENT
from edge.compat.numbers import numbers_of
from edge.compat.styles import EVENT_ERRORS
from edge.errors import AWAY
from edge.problem_response import ProblemResponse
from edge.service import Edge

JSON = "application/json"


def add(app: FastAPI, edge: Edge) -> None:
    """Adds them."""

    @app.get("/health", response_class=Response)
    async def health() -> Response:
        state = edge.registry.health(edge.now(), connected=edge.bus.connected)
        return _json(state, 200 if state.serves else 503)

    @app.get("/healthz", response_class=Response)
    async def healthz() -> Response:
        if edge.bus.connected:
            return _json({"status": "ok"})
        return ProblemResponse(AWAY, errors=EVENT_ERRORS)

    @app.get("/metrics", response_class=Response)
    async def metrics(request: Request) -> Response:
        if JSON in request.headers.get("accept", ""):
            return _json(numbers_of(RECENT, edge.registry.queue_stats().pending_requests))
        page, content_type = await edge.scrape.render(request.headers.get("accept", ""))
        return Response(page, media_type=content_type)


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type=JSON)
