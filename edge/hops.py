"""The way of a traced request's message through the broker, as its servers tell: a span for each of them.

Each server that the message passes publishes one JSON event about it, to where the message's own header says. All that
a span needs is in there, the request's headers too: nothing is remembered of a request.
https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-41.md
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from edge import metrics
from infra import trace_names as names
from infra.bus import Bus
from infra.settings import Settings
from infra.tracing import NoTracer, Span, SpanEvent, Tracer, Value, clock_time, new_span_id
from schemas import subjects
from schemas.requests import TRACE_DEST, TRACEPARENT, RequestMeta
from schemas.subjects import RequestSubject
from schemas.trace import parse_traceparent

EVENT_BYTES_MAX = 256 * 1024
"""Of one server's word: the message's headers (a server takes 64 KiB), and who got it."""

TEXT_CHARS_MAX = 64
"""Of a server's name and its errors in a span."""

EVENTS_MAX = 16
"""In a span; a message comes in once, is stored once, and goes out in as many ways as there are kinds."""

_KINDS = ("client", "router", "gateway", "system", "leafnode", "jetstream", "account")
"""What a server calls its connections, by its numbers for them."""


def hops_of(settings: Settings, bus: Bus, name: str, tracer: Tracer | None) -> Hops | None:
    """Of the edge `name`. None: the settings do not ask for them, or nothing is traced."""
    if not settings.trace_broker or tracer is None or isinstance(tracer, NoTracer):
        return None
    return Hops(bus, name, tracer)


class Hops:
    """Asks the servers to tell the edge `name`, and makes spans of what they say."""

    def __init__(self, bus: Bus, name: str, tracer: Tracer) -> None:
        self._subject = subjects.hops(name)
        self._bus = bus
        self._tracer = tracer

    def asked(self, meta: RequestMeta) -> dict[str, str]:
        """The headers by which the message of a request is told of; none if it is not traced."""
        context = parse_traceparent(meta.traceparent)
        return {TRACE_DEST: self._subject} if context is not None and context.is_sampled else {}

    def start(self) -> None:
        """Listens to the servers."""
        self._bus.subscribe(self._subject, self._on_event)

    def _on_event(self, _subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        span = hop_span(payload)
        if span is None:
            metrics.HOPS_UNREADABLE.inc()
        else:
            self._tracer.emit(span)


_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class _Event(msgspec.Struct, frozen=True):
    """Of the types that servers tell of, `in`, `js` and `eg` are looked into."""

    type: str
    ts: _Moment
    kind: int = -1
    subj: str = ""
    stream: str = ""
    error: str = ""


class _Server(msgspec.Struct, frozen=True):
    name: str


class _Request(msgspec.Struct, frozen=True):
    header: dict[str, list[str]]


class _Told(msgspec.Struct, frozen=True):
    server: _Server
    request: _Request
    events: list[_Event]


_told = msgspec.json.Decoder(_Told)


def hop_span(payload: bytes) -> Span | None:
    """What one server says of one message. None: it says nothing of a request that is traced."""
    if len(payload) > EVENT_BYTES_MAX:
        return None
    try:
        told = _told.decode(payload)
    except msgspec.DecodeError:
        return None
    context = parse_traceparent(next(iter(told.request.header.get(TRACEPARENT, ())), ""))
    request = next((subjects.parse_request(one.subj) for one in told.events if one.type == "in"), None)
    if context is None or not context.is_sampled or request is None:
        return None
    moments = [event.ts.timestamp() for event in told.events]
    first, last = min(moments), max(moments)
    if first < 0:
        # A time that was never set: no span starts there.
        return None
    # Once for all of them: readings of the clocks differ by microseconds, and so do these times.
    start = clock_time(first)
    return Span(
        name=f"broker {told.server.name[:TEXT_CHARS_MAX]}",
        context=context.at(new_span_id()),
        parent_id=context.span_id,
        start=start,
        end=start + (last - first),
        attributes=_about(request),
        events=_span_events(told.events, start - first),
    )


def _about(request: RequestSubject) -> dict[str, Value]:
    return {
        names.REQUEST_ID: request.rid,
        names.TENANT: request.tenant,
        names.MESSAGING_SYSTEM: names.NATS,
        names.MESSAGING_TEMPLATE: subjects.REQUEST_TEMPLATE,
    }


def _span_events(told: list[_Event], offset_s: float) -> list[SpanEvent]:
    """In the order of their times. Who got the message is told by kind: there may be any number of them. `offset_s`
    makes a time since 1970 one of `infra.clock`."""
    events = []
    outs: dict[str, list[float]] = {}
    for event in told:
        at = event.ts.timestamp() + offset_s
        error: dict[str, Value] = {names.BROKER_ERROR: event.error[:TEXT_CHARS_MAX]} if event.error else {}
        if event.type == "in":
            events.append(SpanEvent("in", at, {names.BROKER_KIND: _kind(event.kind), **error}))
        elif event.type == "js":
            stream: dict[str, Value] = {names.BROKER_STREAM: event.stream[:TEXT_CHARS_MAX]}
            events.append(SpanEvent("not stored" if error else "stored", at, {**stream, **error}))
        elif event.type == "eg" and not error:
            outs.setdefault(_kind(event.kind), []).append(at)
    for kind, times in outs.items():
        count: dict[str, Value] = {names.BROKER_KIND: kind, names.BROKER_COUNT: len(times)}
        events.append(SpanEvent("out", max(times), count))
    return sorted(events, key=lambda event: event.at)[:EVENTS_MAX]


def _kind(number: int) -> str:
    return _KINDS[number] if 0 <= number < len(_KINDS) else "unknown"
