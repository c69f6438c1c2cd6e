"""A request's output as server-sent events."""

from __future__ import annotations

import asyncio
from math import ceil

from starlette.types import Receive, Scope, Send

from edge.answers import Answer, AnswerLimits, Submit, Ticket
from edge.dialect import Shape
from edge.errors import Header, Problem, problem_of
from edge.pacer import Pacer
from edge.paths import stream_path
from edge.position import Position, unseen
from edge.reader import LogSources
from edge.relay import Broken, Ended, Tokens

PLACE_INTERVAL_S = 1.0
"""How often a client that waits is told of its place, if it has changed."""

_HEADERS: list[Header] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStream(Answer):
    """Everything that is pending goes out in one write. Past `client_buffer_bytes_max` the reader pauses, and goes on
    from the log when the client has taken what is there: a slow client blocks nobody and misses nothing.

    `seen`: the client has had a part already and gets only what follows it. It has been answered with a 200 before, so
    the head goes out at once, and whatever goes wrong comes as the frame that the first stream would have ended with.
    `at_once`: so it does for a client that has not, as soon as the request is stored.
    """

    def __init__(
        self,
        ticket: Ticket,
        submit: Submit | None,
        sources: LogSources,
        shape: Shape,
        limits: AnswerLimits,
        seen: Position | None = None,
        *,
        at_once: bool = False,
    ) -> None:
        super().__init__(ticket, submit, sources, shape, limits, whole=False)
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._came_with = self._seen = seen
        self._begun = seen is not None
        self._at_once = at_once
        self._head_sent = False
        self._complete = False
        self._pacer = Pacer(
            self._loop.time(), head_wait_s=limits.head_wait_s, keep_alive_s=limits.keep_alive_s
        )
        self._pacer_timer: asyncio.TimerHandle | None = None
        self._place_timer: asyncio.TimerHandle | None = None
        self._told_place = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._arm()
        try:
            await super().__call__(scope, receive, send)
        finally:
            for timer in (self._pacer_timer, self._place_timer):
                if timer is not None:
                    timer.cancel()

    def fail(self, problem: Problem) -> None:
        if self._complete or self._problem is not None:
            return
        self._problem = problem
        if self._begun:
            self._push(self._shape.failing(problem, self.ticket.rid))
            self._complete = True
        self._wake()

    async def _write(self, send: Send) -> None:
        self._begun = self._begun or (self._at_once and self._problem is None)
        while not self._gone:
            if self._problem is not None and not self._begun:
                await self._send_problem(send, self._problem)
                return
            if self._begun and not self._head_sent:
                self._head_sent = True
                opening = self._shape.opening()
                seen = self._came_with
                self._pending.insert(0, opening if seen is None else unseen(opening, seen))
                self._tell_place()
                await self._start(send, 200, _HEADERS, None)
            if self._pending or self._complete:
                last = self._complete
                body = b"".join(self._pending)
                self._pending.clear()
                self._pending_bytes = 0
                await send({"type": "http.response.body", "body": body, "more_body": not last})
                if last:
                    return
                self._pacer.wrote(self._loop.time())
                # Whatever happened during the write is looked at before sleeping: nobody wakes a writer that writes.
                continue
            self._reader.resume()
            await self._sleep()

    def _on_output(self, output: Tokens | Ended | Broken) -> None:
        if self._complete or self._problem is not None:
            return
        if isinstance(output, Tokens):
            if self._first_token_at is None:
                self._first_token_at = self._loop.time()
                self._mark("first token")
                if self._account is not None:
                    self._account.first_token(self._first_token_at)
            elif self._account is not None:
                self._account.record(self._loop.time())
            self._offset = output.offset
            self._begun = True
            self._push(self._unseen(self._shape.tokens(output)))
        elif isinstance(output, Broken):
            self.fail(Problem("log_lost", output.message))
        elif (problem := problem_of(output.end)) is not None:
            self._end = output.end
            self._mark("end")
            self.fail(problem)
        else:
            self._end = output.end
            self._mark("end")
            self._begun = True
            self._push(self._unseen(self._shape.ending(output.end, output.offset, self._elapsed)))
            self._complete = True
        self._wake()

    def _resume_path(self) -> str:
        return stream_path(self.ticket.rid)

    def _unseen(self, events: bytes) -> bytes:
        """What the client has not had of some events; ids only grow, so past its position that is all of them."""
        if self._seen is None:
            return events
        rest = unseen(events, self._seen)
        if rest:
            self._seen = None
        return rest

    def _push(self, data: bytes) -> None:
        if data:
            self._pending.append(data)
            self._pending_bytes += len(data)
        if self._pending_bytes > self._limits.client_buffer_bytes_max:
            self._reader.pause()

    def _on_pacer(self) -> None:
        due = self._pacer.due(self._loop.time())
        if due == "head" and self._problem is None:
            self._begun = True
            self._wake()
        elif due == "keep_alive" and not self._pending:
            self._push(self._shape.keep_alive)
            self._wake()
        if due is not None:
            # Counts as written: the writer does it at once, or is stuck in an earlier write.
            self._pacer.wrote(self._loop.time())
        self._arm()

    def _tell_place(self) -> None:
        """A comment, where the dialect keeps streams open by such, and like those without an empty line."""
        prospect = self.ticket.prospect
        if prospect is None or not self._shape.keep_alive.startswith(b":"):
            return
        if self._reader.begun or self._complete or self._problem is not None:
            return
        outlook = prospect.outlook()
        eta = b"" if outlook.eta_s is None else b" eta=%d" % ceil(outlook.eta_s)
        place = b": queued position=%d%b\n" % (outlook.ahead, eta)
        # A client that does not read is not told either.
        if place != self._told_place and not (self._told_place and self._pending):
            self._told_place = place
            self._push(place)
            self._wake()
        self._place_timer = self._loop.call_later(PLACE_INTERVAL_S, self._tell_place)

    def _arm(self) -> None:
        self._pacer_timer = self._loop.call_at(self._pacer.next_deadline(), self._on_pacer)
