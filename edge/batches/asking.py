"""Asks the edge for the answer to one line, as a client would over HTTP, and exactly that is what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import Message

from edge import answers
from edge.admission import CLASS_HEADER
from edge.batches.records import Url
from edge.batches.tries import Answer
from edge.call import Call, Caller
from edge.desk import refuse
from edge.dialect import Asked, Dialect
from edge.dialects import CHAT, COMPLETION, EMBEDDING
from edge.errors import UNEXPECTED, Problem
from edge.tracing import Tracing
from edge.wishes import KEY_HEADER, ON_DISCONNECT_HEADER
from infra.logs import get_logger
from schemas.errors import PenstockError
from schemas.ids import RequestId
from schemas.requests import Klass

Generate = Callable[[Dialect, Call, Asked | None], Awaitable[Response]]
CLASS: Klass = "batch"

_DIALECTS: dict[Url, Dialect] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETION,
    "/v1/embeddings": EMBEDDING,
}
_STREAM = Problem("bad_request", "stream must not be true in a batch", "stream")

_log = get_logger("batches")


async def ask(
    generate: Generate,
    url: Url,
    caller: Caller,
    key: str,
    body: bytes,
    on_rid: Callable[[RequestId], None],
    tracing: Tracing,
) -> Answer:
    """`on_rid` is told which request it is, if it becomes one. When this is cancelled the request runs on.

    A mistake of ours is the answer, as it is over HTTP: a line that an edge died of would be delivered to the next one,
    until all of them had. Raises BrokerAway and BrokerRefused: that line may be asked for again.
    """
    try:
        return await _ask(generate, url, caller, key, body, on_rid, tracing)
    except PenstockError:
        raise
    except Exception:  # noqa: BLE001  # of one request, as in an HTTP server: it is logged and answered
        _log.error("a line could not be asked for", key=key, exc_info=True)
        return await _answer(refuse(UNEXPECTED))


async def _ask(
    generate: Generate,
    url: Url,
    caller: Caller,
    key: str,
    body: bytes,
    on_rid: Callable[[RequestId], None],
    tracing: Tracing,
) -> Answer:
    dialect = _DIALECTS[url]
    headers = {KEY_HEADER: key, CLASS_HEADER: CLASS, ON_DISCONNECT_HEADER: "detach"}
    trace = tracing.line(url)
    call = Call(caller, headers, body, errors=dialect.errors, trace=trace)
    asked = dialect.read(body)
    if isinstance(asked, Asked) and asked.body.streams:
        response = refuse(_STREAM, errors=dialect.errors)
    else:
        response = await generate(dialect, call, asked if isinstance(asked, Asked) else None)
    if isinstance(response, answers.Answer):
        on_rid(response.ticket.rid)
    try:
        return await _answer(response)
    finally:
        if trace is not None:
            trace.answered(response)


async def _answer(response: Response) -> Answer:
    """What a client would get."""
    request = response if isinstance(response, answers.Answer) else None
    sent = _Sent()
    await response({"type": "http"}, _stays, sent.take)
    return Answer(
        sent.status,
        bytes(sent.body),
        sent.headers.get("x-request-id", ""),
        float(sent.headers.get("retry-after", 0)),
        request.ticket.rid if request is not None and request.settled.how == "ended" else None,
        sent.headers.get("x-should-retry") == "false",
    )


class _Sent:
    """What a response sends. One that is cut off before it says anything is as good as none."""

    def __init__(self) -> None:
        self.status = 503
        self.headers: dict[str, str] = {}
        self.body = bytearray()

    async def take(self, message: Message) -> None:
        """`send` of ASGI."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")


async def _stays() -> Message:
    """`receive` of a client that never leaves."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody sets it")
