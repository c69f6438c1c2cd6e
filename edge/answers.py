"""Responses that wait for a request's output: as an event stream, or whole.

Each is an ASGI application of its own, because nothing that wraps streams belongs between a token and its client. Two
tasks per request: the one that writes and the one that waits for the client to leave. Records wake the first; there is
no task, future or queue for a single one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edge import ends
from edge.accounts import Account
from edge.dialect import Elapsed, Shape
from edge.dialects import shape_of
from edge.errors import AWAY, OPENAI_ERRORS, REFUSED, UNEXPECTED, ErrorStyle, Header, Problem, error_headers
from edge.forecast.doorkeeper import Prospect
from edge.gate import Settled
from edge.measures import measured
from edge.reader import LogReader, LogSources
from edge.readers import Leaving
from edge.relay import Broken, Ended, Tokens
from edge.tracing import CallTrace
from infra.logs import get_logger
from schemas.errors import BrokerAway, BrokerRefused
from schemas.ids import RequestId, TenantKey
from schemas.output import End
from schemas.requests import View

HTTP_OK = 200

CUT_AFTER_S = 1.0
"""A client that takes longer than this to take the last words of a failed answer does not read at all."""

END_MARGIN_S = 2.0
"""Past a request's whole time-out, which its worker and the leader enforce, before the edge ends it itself: clocks and
round trips differ by less."""

LAST_WAIT_S = 3.0
"""After that, how long its answer waits for END to be stored and read back; then the broker is away."""

Submit = Callable[[], Awaitable[Problem | View | None]]
"""Gets a new request stored. A View: it was there already, published elsewhere, and is shown like that. A Problem ends
the answer: `outcome_unknown` if the request may be stored all the same. Raises BrokerAway and BrokerRefused where it
is not."""


@dataclass(frozen=True)
class AnswerLimits:
    """Seconds and bytes an answer may take."""

    head_wait_s: float
    keep_alive_s: float
    slow_client_s: float
    """For a client that still reads when its request is out of time: as long as a result is kept."""
    client_buffer_bytes_max: int


_log = get_logger("edge")

Outcome = Literal["answered", "failed", "left"]
"""How an answer ended: with a good END, with an error, or because the client was not there any more."""


@dataclass(frozen=True)
class Ticket:
    """One reading of one request, and what its answer asks of the service. The time-outs are the request's; they count
    from the answer's begin, which is not before the request's."""

    tenant: TenantKey
    rid: RequestId
    queue_timeout_s: float
    request_timeout_s: float
    attach: Callable[[Answer], Account | None]
    """Called once at the begin; what the request counts as, if it is counted here."""
    share: Callable[[Answer], None]
    """The request turned out not to be new."""
    detach: Callable[[Answer, Leaving, Outcome, Problem | None], None]
    """Called once at the end."""
    close: Callable[[End, int | None], None]
    """Ends the request, in the background; see `Closer.close`."""
    errors: ErrorStyle = OPENAI_ERRORS
    headers: Sequence[Header] = ()
    """Of the answer, besides its own."""
    prospect: Prospect | None = None
    """Of a request that is new."""
    shape: Callable[[View, str], Shape] = shape_of
    """For a request that turns out to be one that is there, by its view and its rid."""
    trace: CallTrace | None = None


class Answer(Response):
    """The life of one reading: from before its request is published, if it is new, until its client has everything."""

    def __init__(
        self,
        ticket: Ticket,
        submit: Submit | None,
        sources: LogSources,
        shape: Shape,
        limits: AnswerLimits,
        *,
        whole: bool,
    ) -> None:
        # Not Response.__init__: there is no body yet, and FastAPI only looks for this one attribute.
        self.background = None
        # Until a head is sent.
        self.status_code = 0
        self.ticket = ticket
        self._submit = submit
        self._shape = shape
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._reader = LogReader(sources, ticket.tenant, ticket.rid, self._on_output, whole=whole)
        self._problem: Problem | None = None
        self._is_new = submit is not None
        self._exists = submit is None
        self._settled = False
        self._sent_away = False
        self._gone = False
        self._waiter: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[object] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._cut_off = False
        self._account: Account | None = None
        self._offset = 0
        self._begun_at = self._loop.time()
        self._first_token_at: float | None = None
        self._end: End | None = None
        rid = ticket.rid.encode()
        self._id_headers: list[Header] = [(b"x-request-id", rid), (b"request-id", rid)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._writer = asyncio.current_task()
        watcher = asyncio.create_task(self._watch(receive))
        self._later(self.ticket.request_timeout_s + END_MARGIN_S, self._on_request_timeout)
        self._account = account = self.ticket.attach(self)
        self._reader.open()
        try:
            await self._store()
            if self._problem is None:
                waited_s = self._loop.time() - self._begun_at
                self._later(max(0.0, self.ticket.queue_timeout_s - waited_s), self._on_queue_timeout)
            await self._write(send)
        except asyncio.CancelledError:
            if not self._cut_off:
                raise
        except Exception:
            # A mistake of ours. The server logs what is raised, and would answer in words that no client reads.
            self._problem = self._problem or UNEXPECTED
            if not self.status_code:
                await self._send_problem(send, self._problem)
            raise
        finally:
            watcher.cancel()
            for timer in self._timers:
                timer.cancel()
            self._reader.close()
            if account is not None:
                self._count(account)
            over = self._settled or self._reader.over
            why: Leaving = "over" if over else "sent_away" if self._sent_away else "left"
            outcome: Outcome = "left" if self._gone else "failed" if self._problem else "answered"
            self.ticket.detach(self, why, outcome, self._problem)

    async def _store(self) -> None:
        """Gets a new request stored, or begins to read the log of one that is there."""
        if self._submit is None:
            self._reader.catch_up()
            return
        # Once: it holds the request's body, which may be large, while the answer may take long.
        submit, self._submit = self._submit, None
        # If it is not new, it may have output already, and how to show that is not known yet. The log keeps it.
        self._reader.pause()
        # Whoever is cut off meanwhile, as a line of a batch may be, has perhaps stored it.
        self._exists = True
        try:
            said = await submit()
        except BrokerAway:
            said = AWAY
        except BrokerRefused as error:
            _log.warning(
                "the broker refuses", tenant=self.ticket.tenant, rid=self.ticket.rid, error=str(error)
            )
            said = REFUSED
        self._exists = not isinstance(said, Problem) or said.reason == "outcome_unknown"
        if isinstance(said, Problem):
            self._settled = True
            self.fail(said)
            return
        if said is not None:
            self._is_new = False
            self._shape = self.ticket.shape(said, self.ticket.rid)
            self.ticket.share(self)
            self._reader.catch_up()
        self._reader.resume()

    @property
    def settled(self) -> Settled:
        """What became of the request, as far as was read."""
        if self._end is not None:
            return Settled("ended", self._end)
        return Settled("left" if self._exists else "refused")

    def fail(self, problem: Problem) -> None:
        """Ends the answer with an error, unless it has ended already."""
        raise NotImplementedError

    def send_away(self) -> None:
        """Ends the answer because this process stops; its request runs on, and can be read at another edge."""
        self._sent_away = True
        path = self._resume_path()
        self._cut_after(Problem("draining", f"this server stops; the answer goes on at {path}", resume=path))

    def reconnected(self) -> None:
        """The bus was away for a moment."""
        self._reader.catch_up()

    async def _write(self, send: Send) -> None:
        """Sends the whole response; returns early when the client has gone."""
        raise NotImplementedError

    def _on_output(self, output: Tokens | Ended | Broken) -> None:
        raise NotImplementedError

    def _resume_path(self) -> str:
        """Where the rest of the answer is."""
        raise NotImplementedError

    async def _send_problem(self, send: Send, problem: Problem) -> None:
        errors, prospect = self.ticket.errors, self.ticket.prospect
        if prospect is not None:
            problem = prospect.advise(problem)
        body = errors.body(problem, self.ticket.rid if self._exists else None)
        await self._start(send, errors.status(problem), error_headers(problem), body)
        await send({"type": "http.response.body", "body": body})

    async def _start(self, send: Send, status: int, headers: list[Header], body: bytes | None) -> None:
        length = [] if body is None else [(b"content-length", b"%d" % len(body))]
        took_ms = round((self._loop.time() - self._begun_at) * 1e3)
        took = (b"openai-processing-ms", b"%d" % took_ms)
        place = self._place_header() if status == HTTP_OK else []
        everything = [*headers, *length, *self._id_headers, took, *place, *self.ticket.headers]
        self.status_code = status
        await send({"type": "http.response.start", "status": status, "headers": everything})
        self._mark("head sent")

    def _mark(self, name: str) -> None:
        if self.ticket.trace is not None:
            self.ticket.trace.mark(name)

    def _place_header(self) -> list[Header]:
        """How many requests are before this one now; 0: it runs. Of one that is not new and waits nobody knows."""
        if self._reader.begun or self._reader.over:
            return [(b"x-queue-position", b"0")]
        prospect = self.ticket.prospect
        return [] if prospect is None else [(b"x-queue-position", b"%d" % prospect.outlook().ahead)]

    @property
    def _elapsed(self) -> Elapsed | None:
        """None: the request is older than this reading of it."""
        if not self._is_new:
            return None
        first_at = self._first_token_at
        first_s = None if first_at is None else first_at - self._begun_at
        return Elapsed(first_s, self._loop.time() - self._begun_at)

    def _count(self, account: Account) -> None:
        problem, end = self._problem, self._end
        tokens = self._offset if end is None or end.n is None else end.n
        took = None if end is None else measured(end, tokens, self._elapsed)
        first_ms = None if took is None else took.first_token_ms
        account.ended(
            problem,
            200 if problem is None else self.ticket.errors.status(problem),
            tokens,
            self._loop.time(),
            first_token_s=None if first_ms is None else first_ms / 1e3,
            left=self._gone,
        )

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

    def _later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """A timer of this answer: one of a few in its whole life."""
        self._timers.append(self._loop.call_later(delay_s, callback))

    def _on_queue_timeout(self) -> None:
        """Whoever has leased it meanwhile goes on: END is written only as the first ctl record."""
        if not self._reader.begun:
            self.ticket.close(ends.QUEUE_TIMEOUT, 0)

    def _on_request_timeout(self) -> None:
        self.ticket.close(ends.REQUEST_TIMEOUT, None)
        self._settled = True
        self._later(LAST_WAIT_S, self._give_up)

    def _give_up(self) -> None:
        if self._reader.over or self._reader.paused:
            # The request is not what is slow.
            self._later(self._limits.slow_client_s, self._cut)
            return
        self._cut_after(Problem("request_timeout", "the request did not end in time"))

    def _cut_after(self, problem: Problem) -> None:
        """Fails, and does not wait for a client that has stopped reading."""
        self.fail(problem)
        self._later(CUT_AFTER_S, self._cut)

    def _cut(self) -> None:
        assert self._writer is not None
        self._cut_off = True
        self._writer.cancel()
