"""The edge: admits requests, answers them, and knows which answers are open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from starlette.responses import Response

from edge.accounts import Account, refused
from edge.admission import Admitted, Arrival, admit
from edge.answers import Answer, AnswerLimits, Outcome, Shape, Ticket
from edge.canceller import Canceller
from edge.errors import Problem
from edge.event_stream import EventStream
from edge.lookup import Lookup
from edge.openai_bodies import Body, decode_chat, decode_completion
from edge.openai_chat import ChatShape
from edge.openai_completions import CompletionShape
from edge.problem_response import ProblemResponse
from edge.publisher import Publisher
from edge.reader import LogSources
from edge.registry import Registry
from edge.waiting_room import WaitingRoom
from edge.whole_answer import WholeAnswer
from edge.wishes import WishDefaults, wishes_of
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.logs import get_logger
from infra.output_log import OutputLog
from infra.settings import Settings
from schemas import subjects
from schemas.dispatch import WORK_OVERHEAD_BYTES, decode_leader
from schemas.ids import ANONYMOUS, RequestId, fingerprint, request_id

GIVE_UP_MARGIN_S = 30.0
"""Past a request's own time-out, which the leader enforces with END(expired), the edge stops waiting for that END."""

CLIENT_ID_CHARS_MAX = 128

_log = get_logger("edge")


class _MakeShape(Protocol):
    def __call__(self, rid: str, model: str, created: int, *, include_usage: bool) -> Shape: ...


@dataclass(frozen=True)
class Dialect:
    """How one endpoint reads bodies and writes answers."""

    name: str
    decode: Callable[[bytes], Body | Problem]
    shape: _MakeShape


CHAT = Dialect("chat", decode_chat, ChatShape)
COMPLETION = Dialect("completion", decode_completion, CompletionShape)


def refuse(problem: Problem, rid: RequestId | None = None) -> Response:
    """The answer to a request that is turned away, counted."""
    refused(problem)
    return ProblemResponse(problem, rid)


class Edge:
    """`name` is this process's id; `fail` ends the process."""

    def __init__(self, settings: Settings, bus: Bus, *, name: str, fail: Callable[[Exception], None]) -> None:
        js = JetStream(bus, timeout_s=settings.publish_timeout_s)
        log = OutputLog(js)
        self.bus = bus
        self.name = name
        self.registry = Registry(model_seen_s=settings.model_seen_s, cold_start=settings.cold_start)
        self.draining = False
        self._on_ready: Callable[[], None] = lambda: None
        self._heard = asyncio.Event()
        self.started = int(time.time())
        self._request_bytes_max = int(settings.request_bytes_max)
        self._limits = AnswerLimits(
            head_wait_s=settings.head_wait_s,
            keep_alive_s=settings.keep_alive_s,
            give_up_s=settings.request_timeout_s + GIVE_UP_MARGIN_S,
            client_buffer_bytes_max=int(settings.client_buffer_bytes_max),
        )
        self._sources = LogSources(bus, log, fail)
        self._queue_timeout_s = settings.queue_timeout_s
        self._wish_defaults = WishDefaults(
            settings.on_disconnect, settings.idempotency_grace_s, settings.request_timeout_max_s
        )
        room = WaitingRoom(bus, places=settings.edge_pending_max)
        self._publisher = Publisher(js, Lookup(js, log), room, timeout_s=settings.publish_timeout_s)
        self._canceller = Canceller(bus, log)
        self._answers: dict[RequestId, Answer] = {}
        self.now = asyncio.get_running_loop().time

    def start(self) -> None:
        """Begins to listen to the leader and to the state of the connection."""
        self.bus.subscribe(subjects.LEADER, self._on_leader)
        self.bus.on_state(self._on_state)

    @property
    def body_bytes_max(self) -> int:
        """Largest body taken: the setting, or what the connected broker can carry to a worker."""
        return min(self._request_bytes_max, self.bus.max_payload - WORK_OVERHEAD_BYTES)

    @property
    def ready(self) -> bool:
        """Whether a request that came now could be run."""
        return self.bus.connected and self.registry.has_live_worker() and not self.draining

    def generate(self, dialect: Dialect, raw: bytes, headers: Mapping[str, str]) -> Response:
        """The response to a generation: it publishes the request when it is served."""
        arrival = Arrival(
            request_id(os.urandom(16)),
            ANONYMOUS,
            raw,
            fingerprint(raw),
            headers,
            dialect.name,
            int(time.time()),
        )
        body = dialect.decode(raw)
        if isinstance(body, Problem):
            return refuse(body, arrival.rid)
        wishes = wishes_of(headers, self._wish_defaults)
        if isinstance(wishes, Problem):
            return refuse(wishes, arrival.rid)
        admitted = admit(
            arrival,
            body,
            wishes,
            self.registry,
            edge=self.name,
            queue_timeout_s=self._queue_timeout_s,
            now=self.now(),
        )
        if isinstance(admitted, Problem):
            return refuse(admitted, arrival.rid)
        ticket = Ticket(
            tenant=arrival.tenant,
            rid=arrival.rid,
            attach=partial(self._attach, admitted.card.name),
            detach=partial(self._detach, admitted.card.name, headers.get("x-request-id", "")),
            abandon=partial(self._canceller.cancel, arrival.tenant, arrival.rid),
        )
        shape = dialect.shape(arrival.rid, admitted.card.name, arrival.at, include_usage=body.include_usage)
        submit = partial(self._submit, arrival, admitted)
        make = EventStream if body.streams else WholeAnswer
        return make(ticket, submit, self._sources, shape, self._limits)

    async def first_word(self, timeout_s: float) -> None:
        """Returns once the leader was heard and models are known, or after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._heard.wait()

    def when_ready(self, tell: Callable[[], None]) -> None:
        """Calls `tell` as soon as a request could be run, and again at any such moment later."""
        self._on_ready = tell
        if self.ready:
            tell()

    def cut_off(self) -> None:
        """Ends every open answer with an error: this process has no time left."""
        for answer in list(self._answers.values()):
            answer.cut_off(Problem("draining", "this server went away before the request ended"))

    async def close(self, timeout_s: float) -> None:
        """Waits for the cancels that still run in the background."""
        await self._canceller.drain(timeout_s)

    async def _submit(self, arrival: Arrival, admitted: Admitted) -> Problem | None:
        problem = await self._publisher.publish(arrival, admitted)
        if problem is not None and problem.reason == "outcome_unknown":
            self._canceller.cancel(arrival.tenant, arrival.rid)
        return problem

    def _attach(self, model: str, answer: Answer) -> Account:
        self._answers[answer.ticket.rid] = answer
        return Account(model, self.now())

    def _detach(
        self, model: str, client_id: str, answer: Answer, outcome: Outcome, problem: Problem | None
    ) -> None:
        rid = answer.ticket.rid
        del self._answers[rid]
        fields: dict[str, str] = {"rid": rid, "model": model, "outcome": outcome}
        if problem is not None:
            fields |= {"reason": problem.reason, "message": problem.message}
        if client_id:
            fields["client_request_id"] = client_id[:CLIENT_ID_CHARS_MAX]
        _log.info("request", **fields)

    def _on_leader(self, _subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        try:
            leader = decode_leader(payload)
        except ValueError as error:
            _log.warning("not a leader's heartbeat", error=str(error))
        else:
            self.registry.heard(leader, self.now())
            self._heard.set()
            if self.ready:
                self._on_ready()

    def _on_state(self, connected: bool) -> None:
        if connected:
            for answer in list(self._answers.values()):
                answer.reconnected()
