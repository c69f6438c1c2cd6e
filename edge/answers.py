"""Responses that wait for a request's output: as an event stream, or whole.

Each is an ASGI application of its own, because nothing that wraps streams belongs between a token and its client. Two
tasks per request: the one that writes and the one that waits for the client to leave. Records wake the first; there is
no task, future or queue for a single one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edge.accounts import Account
from edge.errors import Header, Problem, error_headers, error_json
from edge.reader import LogReader, LogSources
from edge.relay import Broken, Ended, Tokens
from schemas.ids import RequestId, TenantKey
from schemas.output import End

CUT_AFTER_S = 1.0
"""A client that takes longer than this to take the last words of a failed answer does not read at all."""


Submit = Callable[[], Awaitable[Problem | None]]
"""Gets the request stored; a Problem means that nobody needs to care for it any more."""


class Shape(Protocol):
    """A dialect's bytes for what a relay puts out."""

    def opening(self) -> bytes:
        """What a stream starts with."""

    def tokens(self, tokens: Tokens) -> bytes:
        """The events of one record."""

    def ending(self, end: End, offset: int) -> bytes:
        """The events of a good END, and the last line."""

    def whole(self, texts: list[str], end: End, offset: int) -> bytes:
        """The body of an answer that does not stream."""


@dataclass(frozen=True)
class AnswerLimits:
    """Seconds and bytes an answer may take; `give_up_s` bounds its whole life."""

    head_wait_s: float
    keep_alive_s: float
    give_up_s: float
    client_buffer_bytes_max: int


Outcome = Literal["answered", "failed", "left"]
"""How an answer ended: with a good END, with an error, or because the client was not there any more."""


@dataclass(frozen=True)
class Ticket:
    """One admitted request, and what its answer asks of the service."""

    tenant: TenantKey
    rid: RequestId
    attach: Callable[[Answer], Account]
    detach: Callable[[Answer, Outcome, Problem | None], None]
    """Called once at the end."""
    abandon: Callable[[], None]
    """The request may still run and nobody reads it any more."""


class Answer(Response):
    """The life of one request at this edge, from before it is published until its client has everything."""

    def __init__(
        self,
        ticket: Ticket,
        submit: Submit,
        sources: LogSources,
        shape: Shape,
        limits: AnswerLimits,
        *,
        whole: bool,
    ) -> None:
        # Not Response.__init__: there is no body yet, and FastAPI only looks for this one attribute.
        self.background = None
        self.ticket = ticket
        self._submit: Submit | None = submit
        self._shape = shape
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._reader = LogReader(sources, ticket.tenant, ticket.rid, self._on_output, whole=whole)
        self._problem: Problem | None = None
        self._gone = False
        self._waiter: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[object] | None = None
        self._cutter: asyncio.TimerHandle | None = None
        self._cut_off = False
        self._account: Account | None = None
        self._offset = 0
        rid = ticket.rid.encode()
        self._id_headers: list[Header] = [(b"x-request-id", rid), (b"request-id", rid)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._writer = asyncio.current_task()
        watcher = asyncio.create_task(self._watch(receive))
        timer = self._loop.call_later(self._limits.give_up_s, self._give_up)
        maybe_stored = True
        self._account = account = self.ticket.attach(self)
        self._reader.open()
        try:
            problem = await self._take_submit()()
            if problem is not None:
                maybe_stored = False
                self.fail(problem)
            await self._write(send)
        except asyncio.CancelledError:
            if not self._cut_off:
                raise
        finally:
            watcher.cancel()
            timer.cancel()
            if self._cutter is not None:
                self._cutter.cancel()
            self._reader.close()
            if maybe_stored and not self._reader.over:
                self.ticket.abandon()
            account.ended(self._problem, self._offset, self._loop.time(), left=self._gone)
            outcome: Outcome = "left" if self._gone else "failed" if self._problem else "answered"
            self.ticket.detach(self, outcome, self._problem)

    def _take_submit(self) -> Submit:
        """Once: it holds the request's body, which may be large, while the answer may take long."""
        submit, self._submit = self._submit, None
        assert submit is not None
        return submit

    def fail(self, problem: Problem) -> None:
        """Ends the answer with an error, unless it has ended already."""
        raise NotImplementedError

    def cut_off(self, problem: Problem) -> None:
        """Like `fail`, and does not wait for a client that has stopped reading."""
        self.fail(problem)
        if self._cutter is None:
            self._cutter = self._loop.call_later(CUT_AFTER_S, self._cut)

    def reconnected(self) -> None:
        """The bus was away for a moment."""
        self._reader.reconnected()

    async def _write(self, send: Send) -> None:
        """Sends the whole response; returns early when the client has gone."""
        raise NotImplementedError

    def _on_output(self, output: Tokens | Ended | Broken) -> None:
        raise NotImplementedError

    async def _send_problem(self, send: Send, problem: Problem) -> None:
        body = error_json(problem)
        await self._start(send, problem.row.status, error_headers(problem), body)
        await send({"type": "http.response.body", "body": body})

    async def _start(self, send: Send, status: int, headers: list[Header], body: bytes | None) -> None:
        length = [] if body is None else [(b"content-length", b"%d" % len(body))]
        everything = [*headers, *length, *self._id_headers]
        await send({"type": "http.response.start", "status": status, "headers": everything})

    async def _sleep(self) -> None:
        """Until the next `_wake`."""
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._wake()

    def _give_up(self) -> None:
        self.cut_off(Problem("request_timeout", "the request did not end in time"))

    def _cut(self) -> None:
        assert self._writer is not None
        self._cut_off = True
        self._writer.cancel()
