"""Clients of a simulated system, over HTTP and NATS, and what they must never see: I6, I9 and I11 of the design."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from chaos.http import Door, Event, Exchange
from chaos.ledger import Ledger, Reference, Violated
from chaos.loop import NOBODY, PROCESS
from chaos.network import Line
from chaos.processes import Machine, Process
from edge.admission import CLASS_HEADER
from edge.ends import CLIENT_GONE
from edge.forecast.door import RETRY_COUNT_HEADER
from edge.position import LAST_EVENT_ID
from edge.wishes import DEADLINE_HEADER, KEY_HEADER, ON_DISCONNECT_HEADER
from infra import wire
from infra.bus import Bus
from infra.jetstream import FULL, JetStream
from infra.lifecycle import RoleContext
from schemas.errors import ERRORS, BrokerAway
from schemas.requests import MSG_ID, Klass

MAY_RUN = ("outcome_unknown", "draining", "queue_timeout")
"""Of what a client is told with 429 or 503: nobody knows, it goes on elsewhere, and what only an END tells."""

NEVER_RUN = (
    *(reason for reason, row in ERRORS.items() if row.status in (429, 503) and reason not in MAY_RUN),
    *("model_not_found", "bad_request"),
)
"""A client that was told so sends its request again: it must not run now."""

PATIENCE_S = 10.0
"""Who is told to come again later than that does not."""

SAID_BY_END = ("poison", "engine_error", "queue_timeout", "cancelled")
"""What only an END can have told an edge."""

PUBLISH_TRIES_MAX = 12
PUBLISH_TIMEOUT_S = 0.5
PUBLISH_PAUSE_S = 0.3


class _ErrorBody(msgspec.Struct, frozen=True):
    code: str | None = None
    type: str = ""
    message: str = ""


class _Delta(msgspec.Struct, frozen=True):
    content: str = ""


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()
    text: str = ""
    message: _Delta = _Delta()
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    error: _ErrorBody | None = None


_chunk = msgspec.json.Decoder(_Chunk)


@dataclass(frozen=True)
class Wish:
    """What a client wants: the body it sends, whether it streams, and how it behaves."""

    number: int
    klass: Klass
    body: bytes
    dialect: Literal["chat", "completion"]
    streams: bool
    leave_after_s: float | None = None
    read_every_s: float = 0.0
    on_disconnect: str | None = None
    """What its going means for the request; None: it does not say."""
    key: str | None = None
    """Its idempotency key. Others may have the same one, with the same body."""
    deadline_s: float | None = None
    tries_again: int = 0
    """How often, when it is told to."""
    tried: int = 0
    comes_back: tuple[tuple[float, int], ...] = ()
    """After how long, and at which edge, it reads on each time that its stream is cut."""


@dataclass
class Reader:
    """One client: asks `edges[edge]` once, reads on at others, and checks everything it is told. `violated` gets what
    it must not see, `count` what was exercised."""

    wish: Wish
    edges: list[Machine]
    edge: int
    violated: Violated
    tell: Callable[[str, str], None]
    count: Counter[str]
    was_lost: Callable[[str], bool]
    """Whether the broker has lost the log of a rid: one begun anew has its records, and so its ids, elsewhere."""
    again: Callable[[], None]
    """Asks once more, as a new client."""
    text: str = ""
    error: _ErrorBody | None = None
    is_done: bool = False
    last_at: tuple[int, int] = (-1, -1)
    asked_at: float = 0.0
    took_s: float | None = None
    """From the question to the end of the answer, whichever it is."""
    told_rid: str | None = None
    is_away: bool = False
    """Whether it will come back."""
    gave_up: bool = False
    reference: Reference = field(init=False)
    exchange: Exchange = field(init=False)

    def __post_init__(self) -> None:
        self.reference = Reference(self.wish.body)
        self._visits = list(self.wish.comes_back)

    @property
    def who(self) -> str:
        """Its name in the story."""
        return f"client-{self.wish.number}"

    @property
    def rid(self) -> str | None:
        """The name its request got, as far as it was told."""
        return self.told_rid or self.exchange.answer_headers.get("x-request-id")

    @property
    def is_over(self) -> bool:
        """Whether it expects nothing more."""
        return self.exchange.ending is not None and not self.is_away

    @property
    def reason(self) -> str | None:
        """Why it did not get an answer, as a key of the table of errors."""
        if self.error is None:
            return None
        return next((reason for reason, row in ERRORS.items() if row.code == self.error.code), "bad_request")

    def ask(self, line: Line) -> None:
        """Sends the request."""
        headers = {"x-request-id": self.who, CLASS_HEADER: self.wish.klass}
        if self.wish.on_disconnect is not None:
            headers[ON_DISCONNECT_HEADER] = self.wish.on_disconnect
        if self.wish.key is not None:
            headers[KEY_HEADER] = self.wish.key
        if self.wish.deadline_s is not None:
            headers[DEADLINE_HEADER] = f"{self.wish.deadline_s:g}"
        if self.wish.tried:
            headers[RETRY_COUNT_HEADER] = f"{self.wish.tried}"
        self.exchange = Exchange(
            line,
            self.wish.dialect,
            self.wish.body,
            headers,
            read_every_s=self.wish.read_every_s,
            on_event=self._on_event,
            on_end=self._on_end,
        )
        self.asked_at = line.loop.time()
        self.tell(self.who, f"asks {self.edges[self.edge].name}: {self.wish.body.decode()}")
        self.exchange.ask(Door.of(self.edges[self.edge].process))
        if self.wish.leave_after_s is not None:
            line.loop.call_later(self.wish.leave_after_s, self._leave, context=NOBODY)

    def check(self, ledger: Ledger) -> None:
        """What its answer, now that it is over, must have to do with what is stored."""
        rid = self.rid
        log = None if rid is None else ledger.log_of(rid)
        if self.reason == "idempotency_mismatch":
            self.violated("I9", f"{self.who} was told that its key stands for another body")
        # What one was refused with a key, another may have got queued.
        is_refused = self.reason in NEVER_RUN and self.exchange.verb == "generate"
        if is_refused and log is not None and log.stored and self.wish.key is None:
            self.violated("I9", f"{self.who} was refused with {self.reason}, but {rid} was queued")
        was_lost = log is not None and log.was_lost
        # With its END lost, too, whoever comes again with the key begins it anew.
        if self.reason == "queue_timeout" and log is not None and log.leases and not was_lost:
            self.violated("I9", f"{self.who} was told that no worker took {rid}, but one did")
        if self.reason == "log_lost" and not was_lost:
            self.violated("I6", f"{self.who} was told that the log of {rid} is lost: {self.error}")
        said = None if log is None or log.end is None else log.end.reason
        if self.reason in SAID_BY_END and said != self.reason and not was_lost:
            self.violated("I6", f"{self.who} was told {self.reason}, the END of {rid} says {said}")
        why = "" if log is None or log.end is None else log.end.message
        if self.wish.on_disconnect == "detach" and why == CLIENT_GONE.message:
            self.violated("I1", f"{rid} was cancelled as {self.who} left, who had detached from it")
        if self.reason in ("internal", "not_continuable"):
            self.violated("I1", f"{self.who} got {self.error}")
        if self.is_done and self.error is None:
            if self.text != self.reference.text:
                self.violated("I6", f"{self.who} got {self.text!r} whole, it is {self.reference.text!r}")
            self.count["came again: ok"] += self.wish.tried > 0
            if not was_lost and (log is None or log.end is None or log.end.status != "ok"):
                self.violated("I6", f"{self.who} got a good end of {rid} that is not stored")

    def _come_back(self, edge: int) -> None:
        """Reads on after the last event it got."""
        rid = self.told_rid
        assert rid is not None, "who does not know the request's name cannot come back"
        self.is_away = False
        self.error, self.is_done = None, False
        at = f"{self.last_at[0]}-{self.last_at[1]}"
        has_read = self.last_at[0] >= 0
        self.exchange = Exchange(
            self.exchange.line,
            self.wish.dialect,
            b"",
            {LAST_EVENT_ID: at} if has_read else {},
            verb="stream",
            rid=rid,
            read_every_s=self.wish.read_every_s,
            on_event=self._on_event,
            on_end=self._on_end,
        )
        self.tell(self.who, f"comes back to {self.edges[edge].name} for {rid} after {at}")
        self.count["came back"] += 1
        self.exchange.ask(Door.of(self.edges[edge].process))

    def _goes_away(self) -> bool:
        """Whether its stream was cut: it will come back for the rest, or was turned away too often."""
        exchange = self.exchange
        is_turned_away = exchange.verb == "stream" and (
            exchange.status != 200 or exchange.ending == "refused"
        )
        is_sent_away = exchange.streams and self.reason == "draining"
        is_cut = exchange.ending in ("broken", "left") and not self.is_done and self.error is None
        self.told_rid = self.rid
        if not (is_cut or is_sent_away or is_turned_away) or self.rid is None or not self.wish.streams:
            return False
        if not self._visits:
            self.gave_up = is_turned_away
            return is_turned_away
        after_s, edge = self._visits.pop(0)
        self.is_away = True
        exchange.line.loop.call_later(after_s, self._come_back, edge, context=NOBODY)
        return True

    def _comes_again(self) -> None:
        """Does as it is told in a refusal, as the official clients do."""
        exchange = self.exchange
        wait_ms = exchange.answer_headers.get("retry-after-ms")
        if not (self.wish.tries_again and exchange.ending == "complete" and exchange.verb == "generate"):
            return
        if exchange.status in (429, 503) and wait_ms is not None and int(wait_ms) <= PATIENCE_S * 1000:
            self.count[f"came again after {self.reason}"] += 1
            self.is_away = True
            exchange.line.loop.call_later(int(wait_ms) / 1000, self._try_again, context=NOBODY)

    def _try_again(self) -> None:
        self.again()
        self.is_away = False

    def _leave(self) -> None:
        if self.exchange.ending is None:
            self.tell(self.who, "leaves")
            self.exchange.leave()

    def _on_event(self, event: Event) -> None:
        if self.gave_up:
            return
        if event.data == b"[DONE]":
            self.is_done = True
            return
        if self.is_done or self.error is not None:
            self.violated("I6", f"{self.who} got an event after the end: {event}")
        chunk = _chunk.decode(event.data)
        if chunk.error is not None:
            self.error = chunk.error
            return
        if event.at is None or event.at <= self.last_at:
            self.violated("I6", f"{self.who} got {event} after {self.last_at}")
        self.last_at = event.at or self.last_at
        for choice in chunk.choices:
            self.text += choice.delta.content + choice.text
        is_right = self.reference.text.startswith(self.text)
        if not is_right and self.exchange.verb == "stream" and self.was_lost(self.exchange.rid):
            self.count["came back to another log"] += 1
            self.gave_up = True
        elif not is_right:
            self.violated("I6", f"{self.who} has {self.text!r}, right is {self.reference.text!r}")

    def _on_end(self) -> None:
        exchange = self.exchange
        self.took_s = exchange.line.loop.time() - self.asked_at
        if self.gave_up or self._goes_away():
            self.tell(self.who, f"{exchange.ending} {exchange.status} {self.rid} {bytes(exchange.answer)!r}")
            return
        if exchange.verb == "stream" and exchange.ending == "complete":
            self.count[f"came back: {self.reason or 'ok'}"] += 1
        if exchange.ending == "complete" and not exchange.streams:
            whole = _chunk.decode(bytes(exchange.answer))
            self.error = whole.error
            self.is_done = whole.error is None
            self.text = "".join(choice.message.content + choice.text for choice in whole.choices)
        elif exchange.ending == "complete" and not self.is_done:
            self.violated("I6", f"{self.who}'s stream was closed without a last line: {self.text!r}")
        outcome = f"{self.reason}: {self.error.message}" if self.error is not None else repr(self.text)
        self.tell(self.who, f"{exchange.ending} {exchange.status} {self.rid} {outcome}")
        self._comes_again()


@dataclass(frozen=True)
class Letter:
    """A request that is published to the queue directly."""

    number: int
    subject: str
    tenant: str
    rid: str
    headers: dict[str, str]
    body: bytes


class NatsClient:
    """A program that publishes requests by itself. `confirmed`: rids whose PubAck it has seen."""

    def __init__(self, js: JetStream) -> None:
        self._js = js
        self.confirmed: dict[str, None] = {}
        self.refused: dict[str, None] = {}

    @staticmethod
    async def serve(context: RoleContext) -> None:
        """The life of such a program."""
        bus = await Bus.connect(context.settings.nats_url, name=context.id, fail=context.fail)
        process = PROCESS.get()
        assert isinstance(process, Process)
        process.parts["NatsClient"] = NatsClient(JetStream(bus))
        context.ready()
        await context.stop.wait()
        await bus.close()

    async def publish(self, letter: Letter, tell: Callable[[str, str], None]) -> None:
        """Publishes under one id until somebody says that it is stored, or that it is not."""
        headers = wire.encode_headers({MSG_ID: f"{letter.tenant}.{letter.rid}", **letter.headers})
        who = f"letter-{letter.number}"
        for number in range(PUBLISH_TRIES_MAX):
            tell(who, f"is published: {letter.rid}")
            try:
                ack = await self._js.publish(
                    letter.subject, letter.body, headers=headers, timeout_s=PUBLISH_TIMEOUT_S
                )
            except BrokerAway:
                await asyncio.sleep(PUBLISH_PAUSE_S)
                continue
            if ack.stored:
                tell(who, f"is confirmed{', as a duplicate' if ack.duplicate else ''}")
                self.confirmed[letter.rid] = None
                return
            if ack.err_code == FULL and not number:
                tell(who, "is refused")
                self.refused[letter.rid] = None
                return
            await asyncio.sleep(PUBLISH_PAUSE_S)
