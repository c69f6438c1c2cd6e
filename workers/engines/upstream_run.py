"""One request on its way through an OpenAI-compatible server: what is asked, what came back, what is done next. Pure.

Until the model has said something a server that is away or takes nothing is asked again, for as long as the worker
lets the request live: "not now" is no failure of a request. After that its stream cannot be joined again, and a break
is an `engine_error`: the next attempt has it made once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from workers.engines.base import EngineEvent, EngineFailed, EngineRequest
from workers.engines.upstream_answers import NotNow, Refusal, Without, judge, wait_s
from workers.engines.upstream_call import Call
from workers.engines.upstream_reader import Inexact, ProbeReader, StreamReader, WholeReader

BREAKS_MAX = 1
"""How often a connection may break after the request was sent and before the answer began. Once happens to a connection
that its server closed for its age, or with a server that is started again; more may be what the request does to it."""

SILENT_S = 20.0
"""A server of which nothing was heard for so long, neither words nor an answer to a knock, is gone."""


class Wait(NamedTuple):
    """Ask again after this many seconds, because of this."""

    delay_s: float
    why: str


Move = Wait | EngineFailed


class Run:
    """`refused` is what the server is known not to take of our fields; all runs share it."""

    def __init__(
        self, request: EngineRequest, call: Call, context_tokens_max: int, refused: dict[str, None]
    ) -> None:
        self.key = request.key
        self.path = call.path
        self.traceparent = request.meta.traceparent
        self.asked_at: float | None = None
        """Since when the server owes an answer; None: it does not."""
        self.asks_again = False
        """Whether what was read is not the answer: the connection is of no more use, and the next try is due."""
        self._request = request
        self._call = call
        self._context_tokens_max = context_tokens_max
        self._refused = refused
        self._dropped: dict[str, None] = {}
        self._tries = 0
        self._breaks = 0
        self._final = call.final_message()
        self._reader = self._new_reader()

    def cannot(self) -> EngineFailed | None:
        """Why it need not be asked at all, by what is known of the server."""
        if self._request.prefix is None or self._call.is_repeatable(self._refused | self._dropped):
            return None
        error = (
            "the answer was cut off, and the upstream cannot make it again: it samples and takes no seed; "
            "with temperature 0 it could"
        )
        return EngineFailed(self.key, self._request.run, error, "not_continuable")

    def ask(self, now: float) -> bytes:
        """The body of the next try."""
        self.asked_at = now
        self._tries += 1
        self.asks_again = False
        self._reader = self._new_reader()
        refused = self._refused | self._dropped
        if self._final is None:
            return self._call.content(refused)
        fields = self._call.fields(refused)
        return self._final.probe(fields) if self._final.prompt_ids is None else self._final.content(fields)

    def desert(self, heard_at: float, now: float) -> bool:
        """Whether the connection is to be given up: the server owes an answer, and for too long nothing was heard of
        it, by this request or by others."""
        is_gone = self.asked_at is not None and now - max(self.asked_at, heard_at) >= SILENT_S
        if is_gone:
            self.asked_at = None
        return is_gone

    def accepted(self) -> None:
        """The server answered 200: the fields that were left out for it were the reason of its refusals."""
        self._refused.update(self._dropped)

    def read(self, data: bytes) -> list[EngineEvent]:
        """Some bytes of the answer."""
        try:
            return self._reader.read(data)
        except Inexact:
            return self._from_the_start()

    def end(self) -> list[EngineEvent]:
        """The answer is over."""
        try:
            events = self._reader.end()
        except Inexact:
            return self._from_the_start()
        self.asks_again = isinstance(self._reader, ProbeReader)
        return events

    def refused(self, status: int, headers: Mapping[str, str], body: bytes, chance: float) -> Move:
        """The server answered with another status than 200."""
        self.asked_at = None
        added = tuple(field for field in self._call.added if field not in self._dropped)
        match judge(status, headers, body, path=self.path, added=added):
            case NotNow(why, retry_after_s):
                return Wait(wait_s(self._tries - 1, retry_after_s, chance), why)
            case Without(field):
                self._dropped[field] = None
                return self.cannot() or Wait(0.0, f"the upstream does not know {field}")
            case Refusal() if self._final is not None:
                self._from_the_start()
                return Wait(0.0, "the upstream continues no final message")
            case Refusal(reason, error):
                return EngineFailed(self.key, self._request.run, error, reason)

    def unreachable(self, why: str, chance: float) -> Move:
        """There is no connection, or nobody behind it."""
        self.asked_at = None
        if self._reader.has_begun:
            return self._failed(f"the upstream was lost in the middle of its answer: {why}")
        return Wait(wait_s(self._tries - 1, None, chance), f"the upstream is away: {why}")

    def broke(self, why: str, chance: float) -> Move:
        """The connection was lost after the request was sent."""
        self._breaks += 1
        if self._breaks > BREAKS_MAX and not self._reader.has_begun:
            return self._failed(f"the upstream broke off before its answer: {why}")
        return self.unreachable(why, chance)

    def _from_the_start(self) -> list[EngineEvent]:
        """What cannot be continued exactly is made again."""
        self._final = None
        self.asks_again = True
        return []

    def _failed(self, error: str) -> EngineFailed:
        return EngineFailed(self.key, self._request.run, error)

    def _new_reader(self) -> StreamReader | WholeReader | ProbeReader:
        if not self._call.streams:
            return WholeReader(self._request)
        if self._final is not None and self._final.prompt_ids is None:
            return ProbeReader(self._final)
        return StreamReader(self._request, self._call.choices, self._context_tokens_max, self._final)
