"""The broker's own word of a traced request's message: a span of it below the one that published, and only if asked
for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from edge import metrics
from infra import trace_names as names
from infra import wire
from infra.broker import Broker
from infra.bus import Bus, Reply
from infra.settings import load_settings
from infra.tracing import Span
from schemas import subjects
from schemas.output import End
from schemas.requests import TRACE_DEST, TRACEPARENT
from schemas.streams import REQUESTS
from tests.integration.edge_under_test import Attempt, Backend, World, backend_on, edge_at, post, until
from tests.unit.infra.spans import Kept

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = GIVEN[:-2] + "00"
NAME = "edge-hops"
HOPS = subjects.hops(NAME)
ANSWER_S = 10.0
CONSUMER = "hops-test"


class Recorder(Kept):
    """Tells the broker's spans from the others."""

    @property
    def of_broker(self) -> list[Span]:
        return [span for span in self.spans if span.name.startswith("broker ")]


class Traced:
    """An edge that traces, and what the broker says to it."""

    def __init__(self, world: World, backend: Backend, tracer: Recorder) -> None:
        self.world = world
        self.backend = backend
        self.tracer = tracer

    async def ask(self, traceparent: str) -> Attempt:
        """One request, answered to its end; its message is still in the queue."""
        client = post(self.world, {TRACEPARENT: traceparent})
        attempt = await self.backend.attempt()
        await attempt.tok("a")
        await attempt.end(End(status="ok", n=1, finish_reasons=["stop"]))
        assert (await client).status_code == 200
        return attempt

    async def queued(self, attempt: Attempt) -> dict[str, str]:
        """The headers of its message."""
        subject = subjects.request_of_any_model(attempt.tenant, attempt.rid)
        stored = await self.backend.js.last(REQUESTS, subject)
        assert stored is not None
        return wire.parse_headers(stored.headers)


Start = Callable[[bool], AbstractAsyncContextManager[Traced]]


@pytest.fixture
def start(own_broker: Broker) -> Start:
    @asynccontextmanager
    async def started(trace_broker: bool) -> AsyncIterator[Traced]:
        settings = load_settings({"nats_url": own_broker.url, "trace_broker": trace_broker})
        tracer = Recorder()
        async with backend_on(settings) as backend, edge_at(settings, backend, NAME, tracer=tracer) as world:
            yield Traced(world, backend, tracer)

    return started


async def test_the_broker_has_a_span_below_the_one_that_published(start: Start) -> None:
    async with start(True) as traced:
        attempt = await traced.ask(GIVEN)
        await until(lambda: len(traced.tracer.spans) == 4)
        (span,) = traced.tracer.of_broker
        (publish,) = [span for span in traced.tracer.spans if span.kind == "producer"]
        assert span.context.trace_id == publish.context.trace_id
        assert span.parent_id == publish.context.span_id
        assert span.attributes[names.REQUEST_ID] == attempt.rid
        told = {event.name: dict(event.attributes) for event in span.events}
        assert told["in"] == {names.BROKER_KIND: "client"}
        assert told["stored"] == {names.BROKER_STREAM: REQUESTS}
        # One machine, one wall clock; the readings that make it ours differ by less than a millisecond.
        assert publish.start - 0.001 <= span.start <= span.end <= publish.end + 0.001


async def test_deliveries_and_live_copies_are_not_told_of(start: Start) -> None:
    async with start(True) as traced:
        bus = traced.backend.bus
        told: list[bytes] = []
        bus.subscribe(subjects.HOPS_ALL, lambda _s, _r, _h, payload: told.append(payload))
        attempt = await traced.ask(GIVEN)
        assert (await traced.queued(attempt))[TRACE_DEST] == "trace disabled", (
            "the server takes the address out of what it stores"
        )
        config = {"durable_name": CONSUMER, "ack_policy": "explicit"}
        create = {"stream_name": REQUESTS, "config": config, "action": "create"}
        await traced.backend.js._api(subjects.js_consumer("CREATE", REQUESTS, CONSUMER), create)
        for _ in range(3):
            ack_subject, reply = await pulled(bus)
            assert wire.header_value(reply.headers, TRACE_DEST.encode()) == b"trace disabled"
            bus.publish(ack_subject, b"-NAK")
        await traced.ask(GIVEN)
        # Heard over two connections, neither of which is the first by right.
        await until(lambda: len(traced.tracer.of_broker) >= 2 and len(told) >= 2)
        assert (len(traced.tracer.of_broker), len(told)) == (2, 2), (
            "one for each request, whatever becomes of its message"
        )


async def pulled(bus: Bus) -> tuple[str, Reply]:
    """The next delivery and its ack subject."""
    inbox = bus.inbox()
    delivered: asyncio.Future[tuple[str, Reply]] = bus.answer()
    subscription = bus.subscribe(
        inbox, lambda _s, reply, headers, payload: delivered.set_result((reply, Reply(headers, payload)))
    )
    bus.publish(subjects.js_consumer("MSG.NEXT", REQUESTS, CONSUMER), b'{"batch":1}', reply=inbox)
    try:
        async with asyncio.timeout(ANSWER_S):
            return await delivered
    finally:
        subscription.close()


async def test_nobody_asks_and_nobody_listens_unless_it_is_on(start: Start) -> None:
    async with start(False) as traced:
        attempt = await traced.ask(GIVEN)
        assert TRACEPARENT in await traced.queued(attempt)
        assert TRACE_DEST not in await traced.queued(attempt)
        answer = await traced.backend.bus.request(HOPS, timeout_s=ANSWER_S)
        assert wire.status_of(answer.headers) == 503, "there is no subscription"


async def test_of_a_request_that_is_not_traced_the_broker_is_not_asked(start: Start) -> None:
    async with start(True) as traced:
        attempt = await traced.ask(UNSAMPLED)
        assert TRACE_DEST not in await traced.queued(attempt)
        await traced.ask(GIVEN)
        await until(lambda: traced.tracer.of_broker)
        assert len(traced.tracer.of_broker) == 1


async def test_what_cannot_be_read_is_counted(start: Start) -> None:
    async with start(True) as traced:
        before = metrics.HOPS_UNREADABLE._value.get()
        for garbage in (b"", b"\xff", b'{"events":[]}'):
            traced.backend.bus.publish(HOPS, garbage)
        await until(lambda: metrics.HOPS_UNREADABLE._value.get() == before + 3)
        await traced.ask(GIVEN)
        await until(lambda: traced.tracer.of_broker)
