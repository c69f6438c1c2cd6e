"""The HTTP surface: finds the endpoint of a request and who asks. Bodies stay bytes until the edge's own decoders see
them."""

from __future__ import annotations

import asyncio

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from edge.anthropic.endpoints import PATH as ANTHROPIC_PATH
from edge.anthropic.errors import ANTHROPIC_ERRORS
from edge.call import Call
from edge.compat import probes
from edge.desk import refuse
from edge.endpoint import Endpoint
from edge.endpoints import endpoints
from edge.errors import AWAY, OPENAI_ERRORS, REFUSED, UNEXPECTED, ErrorStyle, Problem
from edge.openapi.pages import add_document
from edge.problem_response import ProblemResponse
from edge.service import Edge
from edge.tracing import CallTrace
from infra.logs import get_logger
from schemas.errors import BrokerAway, BrokerRefused

JSON = "application/json"

_log = get_logger("edge")


class EdgeApp:
    """The ASGI application of one edge.

    The API is answered here, and what is left (probes, metrics, documentation) by FastAPI, because each of a
    framework's layers wraps `send`, and a stream goes through all of them for every token: measured at 256 streams,
    13 % of the edge's CPU time.
    """

    def __init__(self, edge: Edge) -> None:
        by_path: dict[str, dict[str, Endpoint]] = {}
        table = endpoints(edge)
        for endpoint in table:
            by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
        # An object as endpoint is called as it is: a function would be wrapped.
        self._router = Router(
            [Route(path, Resource(edge, by_method)) for path, by_method in by_path.items()],
            redirect_slashes=False,
            default=_pages(edge, table),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._router(scope, receive, send)


class Resource:
    """All endpoints of one path, by their methods. A broker that fails one of them fails nobody else: it is told in the
    path's style, here for all of them."""

    def __init__(self, edge: Edge, by_method: dict[str, Endpoint]) -> None:
        self._edge = edge
        self._tracing = edge.tracing
        self._by_method = by_method
        self._errors = next(iter(by_method.values())).errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        trace = self._trace(request) if self._tracing.is_on else None
        try:
            response = await self._answer(request, trace)
        except ClientDisconnect:
            return
        except BrokerAway:
            response = refuse(AWAY, errors=self._errors)
        except BrokerRefused as error:
            _log.warning("the broker refuses", path=scope["path"], error=str(error))
            response = refuse(REFUSED, errors=self._errors)
        except Exception:
            # Nothing has been sent yet. The server logs what is raised.
            response = ProblemResponse(UNEXPECTED, errors=self._errors)
            await response(scope, receive, send)
            if trace is not None:
                trace.answered(response)
            raise
        try:
            await response(scope, receive, send)
        finally:
            if trace is not None:
                trace.answered(response)

    def _trace(self, request: Request) -> CallTrace | None:
        """None: nothing of this endpoint is traced."""
        endpoint = self._by_method.get(request.method)
        if endpoint is None or not (endpoint.publishes or endpoint.streams):
            return None
        return self._tracing.call(
            endpoint.method, endpoint.path, request.headers, request.scope.get("server")
        )

    async def _answer(self, request: Request, trace: CallTrace | None) -> Response:
        endpoint = self._by_method.get(request.method)
        if endpoint is None:
            return _not_allowed(request, ", ".join(self._by_method), self._errors)
        address = request.client.host if request.client else ""
        caller = self._edge.access.identify(request.headers, address)
        if isinstance(caller, Problem):
            return refuse(caller, errors=self._errors)
        raw: bytes | Problem = b""
        if not endpoint.reads_body:
            patience_s = self._edge.bounds.body_timeout_s
            raw = await read_body(request, self._edge.body_bytes_max, timeout_s=patience_s)
        if isinstance(raw, Problem):
            return refuse(raw, errors=self._errors)
        own = request if endpoint.reads_body else None
        return await endpoint.handle(
            Call(
                caller,
                request.headers,
                raw,
                request.query_params,
                request.path_params,
                self._errors,
                own,
                trace,
            )
        )


async def read_body(request: Request, bytes_max: int, *, timeout_s: float) -> bytes | Problem:
    """The body, refused as soon as it is known to be too large, whether it says its length or not, or too slow.

    The server reads and drops the rest of a refused one: closing on unread bytes would take the answer away, too.
    """
    too_large = Problem("too_large", f"the request body may have at most {bytes_max} bytes")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > bytes_max:
        return too_large
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > bytes_max:
                    return too_large
    except TimeoutError:
        return Problem(
            "body_timeout",
            f"the body did not come within {timeout_s:g} s",
            headers=((b"connection", b"close"),),
        )
    return bytes(body)


def _pages(edge: Edge, table: list[Endpoint]) -> FastAPI:
    # FastAPI's own description would be of what is here, not of the table.
    app = FastAPI(openapi_url=None)
    add_document(app, table)
    _add_probes(app, edge)
    _add_errors(app)
    return app


def _add_probes(app: FastAPI, edge: Edge) -> None:
    @app.get("/livez", response_class=Response)
    async def livez() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz", response_class=Response)
    async def readyz() -> Response:
        ready = edge.ready
        return _json({"ready": ready}, 200 if ready else 503)

    probes.add(app, edge)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405:
            return _not_allowed(request, (error.headers or {}).get("Allow", ""))
        path = request.url.path
        errors = ANTHROPIC_ERRORS if path.startswith(f"{ANTHROPIC_PATH}/") else OPENAI_ERRORS
        return ProblemResponse(Problem("not_found", f"there is nothing at {path}"), errors=errors)

    # Starlette answers with this and raises the error again, for the server to log.
    @app.exception_handler(Exception)
    async def unexpected(_request: Request, _error: Exception) -> Response:
        return ProblemResponse(UNEXPECTED)


def _not_allowed(request: Request, allow: str, errors: ErrorStyle = OPENAI_ERRORS) -> Response:
    said = Problem("method_not_allowed", f"{request.method} is not allowed on {request.url.path}")
    response = ProblemResponse(said, errors=errors)
    response.headers["allow"] = allow
    return response


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type=JSON)
