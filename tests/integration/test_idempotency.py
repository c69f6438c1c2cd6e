"""One key, one lineage of runs: several edges' writing sides against a real broker that also dies."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from edge.admission import Admitted, Arrival
from edge.errors import Problem
from edge.idempotency import GENERATIONS_MAX
from edge.lineages import Lineages, Resolved
from edge.lookup import Lookup
from edge.publisher import Publisher
from edge.waiting_room import WaitingRoom
from infra.broker import Broker
from infra.bus import Bus
from infra.jetstream import JetStream, expect_headers
from infra.output_log import OutputLog
from schemas import subjects
from schemas.dispatch import ModelCard
from schemas.ids import ANONYMOUS, RequestId, fingerprint, request_id
from schemas.output import CtlRecord, End, Lease, encode
from schemas.requests import MSG_ID, RequestMeta, View, meta_headers
from schemas.streams import (
    CONFIG_BUCKET,
    NS_PER_S,
    OUTPUT,
    REQUESTS,
    StreamSpec,
    bucket_stream,
    output_stream,
    requests_stream,
)
from tests.contract.protocol import paused
from tests.integration.edge_under_test import until

CARD = ModelCard("m", "m", "simulator", 4096, 256)
VIEW = View(model="m")
PLACES, QUEUE_MAX = 2, 100
HASTY_S, PATIENT_S = 2.0, 30.0
"""How long an edge waits for the broker: a time-out that a test waits for, and one that it does not come near to."""

LONG_WINDOW_S, SHORT_WINDOW_S = 120.0, 0.5
"""The usual duplicate window, and one that a test can outlive. Without that the broker itself would find most
repeats."""

outlives_the_window = pytest.mark.parametrize("world", [SHORT_WINDOW_S], indirect=True)

OK = End(status="ok", n=0)
FAILED = End(status="error", reason="engine_error", message="boom")


def arrival(rid: RequestId, body: bytes) -> Arrival:
    return Arrival(rid, ANONYMOUS, body, fingerprint(body), {}, "chat", 0)


def admitted(rid: RequestId, body: bytes, klass: str) -> Admitted:
    meta = RequestMeta(fingerprint=fingerprint(body), view=VIEW)
    subject = subjects.request(klass, CARD.key, ANONYMOUS, rid)
    return Admitted(CARD, subject, {MSG_ID: f"{ANONYMOUS}.{rid}", **meta_headers(meta)}, meta)


@dataclass
class Answer:
    """How a request with a key was taken. `rid` is None where it was refused before it got one."""

    rid: RequestId | None
    attached: bool
    problem: Problem | None

    @property
    def reason(self) -> str | None:
        return None if self.problem is None else self.problem.reason


class WritingEdge:
    """The writing side of one edge, on a connection of its own."""

    def __init__(self, bus: Bus, timeout_s: float) -> None:
        self.js = JetStream(bus, timeout_s=timeout_s)
        self.log = OutputLog(self.js)
        self.room = WaitingRoom(bus, places=PLACES)
        self.lookup = Lookup(self.js, self.log)
        self.lineages = Lineages(self.js, self.lookup, self.room, timeout_s=timeout_s)
        self.publisher = Publisher(self.js, self.lookup, self.room, timeout_s=timeout_s)

    async def ask(self, key: str, body: bytes = b"{}", klass: str = "standard") -> Answer:
        """What the edge does with a request that has a key."""
        resolved = await self.lineages.resolve(ANONYMOUS, key, fingerprint(body))
        if isinstance(resolved, Problem):
            return Answer(None, False, resolved)
        if resolved.exists:
            return Answer(resolved.rid, True, None)
        return Answer(resolved.rid, False, await self.publish(resolved.rid, body, klass))

    async def publish(self, rid: RequestId, body: bytes = b"{}", klass: str = "standard") -> Problem | None:
        said = await self.publisher.publish(arrival(rid, body), admitted(rid, body, klass))
        return said if isinstance(said, Problem) else None

    async def run(self, rid: RequestId | None, *records: CtlRecord, settle: bool = True) -> None:
        """A worker's part: the records in the log, and the message gone."""
        assert rid is not None
        ctl = subjects.output_ctl(ANONYMOUS, rid)
        for record in records:
            last = await self.log.last_ctl(ANONYMOUS, rid)
            headers = expect_headers(0 if last is None else last.seq)
            assert (await self.js.publish(ctl, encode(record), headers=headers)).stored
        if settle:
            message = await self.js.last(REQUESTS, subjects.request_of_any_model(ANONYMOUS, rid))
            assert message is not None
            assert await self.js.delete(REQUESTS, message.seq)

    async def queued(self) -> int:
        return await self.js.queue_depth(REQUESTS)


def lease(body: bytes = b"{}") -> Lease:
    return Lease(nonce="n", worker="w", attempt=1, cause="first", fingerprint=fingerprint(body), view=VIEW)


def with_window(spec: StreamSpec, window_s: float) -> StreamSpec:
    return StreamSpec(spec.name, {**spec.config, "duplicate_window": int(window_s * NS_PER_S)})


@dataclass
class World:
    """A broker with the streams, and two edges; the second one is patient."""

    broker: Broker
    one: WritingEdge
    two: WritingEdge

    async def restart(self) -> None:
        """kill -9 of the broker: it forgets the ids of all requests that are not queued any more."""
        self.broker.kill()
        await until(lambda: not self.one.js.bus.connected and not self.two.js.bus.connected)
        self.broker.start()
        await until(lambda: self.one.js.bus.connected and self.two.js.bus.connected)


@pytest.fixture
async def world(own_broker: Broker, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Its parameter is the duplicate window."""
    failures: list[Exception] = []
    edges = [
        WritingEdge(await Bus.connect(own_broker.url, name=name, fail=failures.append), timeout_s)
        for name, timeout_s in (("one", HASTY_S), ("two", PATIENT_S))
    ]
    js = edges[0].js
    requests = requests_stream(queue_max=QUEUE_MAX, queue_bytes_max=1 << 24)
    await js.ensure_stream(with_window(requests, getattr(request, "param", LONG_WINDOW_S)))
    first_seq = int(time.time() * 1000) * 1000
    await js.ensure_stream(output_stream(output_bytes_max=1 << 24, retention_s=600, first_seq=first_seq))
    await js.ensure_stream(bucket_stream(CONFIG_BUCKET))
    yield World(own_broker, *edges)
    for edge in edges:
        await edge.js.bus.close()
    assert not failures


async def test_two_edges_racing_with_one_key_make_one_request(world: World) -> None:
    attached = 0
    for race in range(50):
        answers = await asyncio.gather(
            *[edge.ask(f"key-{race}") for edge in (world.one, world.two) for _ in range(2)]
        )
        assert {answer.reason for answer in answers} == {None}
        assert len({answer.rid for answer in answers}) == 1
        attached += sum(answer.attached for answer in answers)
        assert await world.one.queued() == race + 1, "one message for each key"
    assert attached < 150, "some looked before another's publish, so they did race"


async def test_two_edges_racing_with_one_key_and_two_bodies_make_one_request(world: World) -> None:
    for race in range(50):
        answers = await asyncio.gather(
            world.one.ask(f"key-{race}", b'{"a":1}'), world.two.ask(f"key-{race}", b'{"a":2}')
        )
        assert sorted(str(answer.reason) for answer in answers) == ["None", "idempotency_mismatch"]
        assert await world.one.queued() == race + 1


async def test_edges_that_are_the_first_to_need_the_secret_agree_on_it(world: World) -> None:
    answers = await asyncio.gather(*[edge.ask("k") for edge in (world.one, world.two) for _ in range(4)])
    assert len({answer.rid for answer in answers}) == 1
    room = WaitingRoom(world.two.js.bus, places=1)
    late = Lineages(world.two.js, world.two.lookup, room, timeout_s=PATIENT_S)
    resolved = await late.resolve(ANONYMOUS, "k", fingerprint(b"{}"))
    assert isinstance(resolved, Resolved)
    assert (resolved.rid, resolved.exists) == (answers[0].rid, True)


async def test_without_the_bucket_a_key_is_refused_and_later_taken(world: World) -> None:
    await world.one.js.bus.request(
        subjects.js_stream("DELETE", bucket_stream(CONFIG_BUCKET).name), timeout_s=PATIENT_S
    )
    assert (await world.one.ask("k")).reason == "broker_away"
    waiting = asyncio.create_task(world.two.ask("k"))
    await world.one.js.ensure_stream(bucket_stream(CONFIG_BUCKET))
    assert (await waiting).reason is None
    assert await world.one.queued() == 1


@outlives_the_window
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("state", ["queued", "leased", "ended", "over"])
async def test_a_key_holds_past_the_duplicate_window_and_a_restart(
    world: World, state: str, restart: bool
) -> None:
    first = await world.one.ask("k")
    assert (first.reason, first.attached) == (None, False)
    if state != "queued":
        records: list[CtlRecord] = [lease()] if state == "leased" else [lease(), OK]
        await world.one.run(first.rid, *records, settle=state == "over")
    queued = await world.one.queued()
    if restart:
        await world.restart()
    await asyncio.sleep(2 * SHORT_WINDOW_S)
    for edge in (world.two, world.one):
        again = await edge.ask("k")
        assert (again.rid, again.attached, again.reason) == (first.rid, True, None)
    assert await world.one.queued() == queued, "nothing was published"


@outlives_the_window
async def test_a_repeat_of_another_class_is_the_same_request(world: World) -> None:
    first = await world.one.ask("k", klass="standard")
    await asyncio.sleep(2 * SHORT_WINDOW_S)
    again = await world.two.ask("k", klass="batch")
    assert (again.rid, again.attached) == (first.rid, True)
    assert await world.one.queued() == 1


@pytest.mark.parametrize("state", ["queued", "leased", "ok", "not ok"])
async def test_another_body_is_a_mismatch(world: World, state: str) -> None:
    first = await world.one.ask("k", b"one")
    if state != "queued":
        records: list[CtlRecord] = [lease(b"one")]
        records += [] if state == "leased" else [OK if state == "ok" else FAILED]
        await world.one.run(first.rid, *records, settle=state != "leased")
    queued = await world.one.queued()
    assert (await world.two.ask("k", b"two")).reason == "idempotency_mismatch"
    assert await world.one.queued() == queued


async def test_other_keys_and_tenants_are_other_requests(world: World) -> None:
    rids = {(await world.one.ask(key)).rid for key in ("a", "b", "A")}
    assert len(rids) == 3


async def test_each_failure_begins_a_new_generation_up_to_a_bound(world: World) -> None:
    rids: list[RequestId | None] = []
    for _ in range(GENERATIONS_MAX):
        answer = await world.one.ask("k")
        assert (answer.reason, answer.attached) == (None, False)
        rids.append(answer.rid)
        await world.one.run(answer.rid, lease(), FAILED)
    assert len(set(rids)) == GENERATIONS_MAX
    resolved = await world.two.lineages.resolve(ANONYMOUS, "k", fingerprint(b"{}"))
    assert isinstance(resolved, Resolved)
    assert resolved.rid == rids[-1]
    assert resolved.found is not None
    assert resolved.found.end == FAILED, "its error is the answer from now on"
    assert await world.one.queued() == 0


async def test_a_cancelled_request_can_be_asked_for_again(world: World) -> None:
    first = await world.one.ask("k")
    await world.one.run(first.rid, End(status="cancelled", reason="cancelled"))
    again = await world.two.ask("k")
    assert (again.reason, again.attached) == (None, False)
    assert again.rid != first.rid


async def test_a_queued_generation_is_found_when_the_log_of_the_failed_one_has_expired(world: World) -> None:
    first = await world.one.ask("k")
    await world.one.run(first.rid, FAILED)
    second = await world.one.ask("k")
    ctl = await world.one.log.last_ctl(ANONYMOUS, str(first.rid))
    assert ctl is not None
    assert await world.one.js.delete(OUTPUT, ctl.seq)
    again = await world.two.ask("k")
    assert (again.rid, again.attached) == (second.rid, True)


async def test_a_full_queue_refuses_a_key_and_stores_nothing(world: World) -> None:
    for _ in range(QUEUE_MAX):
        assert await world.one.publish(request_id(os.urandom(16))) is None
    refused = await world.one.ask("k")
    assert refused.reason == "queue_full"
    assert refused.problem is not None
    assert refused.problem.row.retry_after
    assert await world.one.queued() == QUEUE_MAX
    assert await world.one.lookup.find(ANONYMOUS, RequestId(str(refused.rid))) is None
    # There is room again: the same key is taken, under the same rid.
    message = await world.one.js.last(REQUESTS, subjects.REQUESTS_ALL)
    assert message is not None
    assert await world.one.js.delete(REQUESTS, message.seq)
    taken = await world.two.ask("k")
    assert (taken.rid, taken.reason) == (refused.rid, None)


@outlives_the_window
async def test_a_full_queue_does_not_hide_a_request_that_is_in_it(world: World) -> None:
    rid = request_id(os.urandom(16))
    assert await world.one.publish(rid) is None
    for _ in range(QUEUE_MAX - 1):
        assert await world.one.publish(request_id(os.urandom(16))) is None
    await asyncio.sleep(2 * SHORT_WINDOW_S)
    assert await world.two.publish(rid) is None
    problem = await world.two.publish(rid, b"another")
    assert problem is not None
    assert problem.reason == "idempotency_mismatch"


async def test_a_broker_that_does_not_answer_leaves_the_outcome_unknown(world: World) -> None:
    resolved = await world.one.lineages.resolve(ANONYMOUS, "k", fingerprint(b"{}"))
    assert isinstance(resolved, Resolved)
    with paused(world.broker):
        problem = await world.one.publish(resolved.rid)
        unresolved = await world.one.ask("k")
    assert problem is not None
    assert (problem.reason, problem.row.status, problem.row.retry_after) == ("outcome_unknown", 503, True)
    assert "outcome: unknown" in problem.message
    assert resolved.rid in problem.message
    assert unresolved.reason == "broker_away", "nothing of it was sent"
    async with asyncio.timeout(10):
        while (again := await world.two.ask("k")).reason is not None:
            await asyncio.sleep(0.05)
    assert again.rid == resolved.rid
    assert await world.two.queued() == 1, "the paused broker had got it, and a retry is the same request"


async def test_only_so_many_wait_for_a_broker_that_is_away(world: World) -> None:
    edge = world.two
    assert (await edge.ask("first")).reason is None
    world.broker.kill()
    await until(lambda: not edge.js.bus.connected)
    # One that is to be published and one with a key: both kinds take places.
    waiting = [
        asyncio.create_task(edge.publish(request_id(os.urandom(16)))),
        asyncio.create_task(edge.ask("k")),
    ]
    await until(lambda: edge.room.is_full)
    took_s = []
    for _ in range(5):
        began = time.monotonic()
        refused = await edge.publish(request_id(os.urandom(16)))
        refused_key = await edge.ask("other")
        took_s.append(time.monotonic() - began)
        assert refused is not None
        assert (refused.reason, refused.row.status, refused.row.retry_after) == ("broker_away", 503, True)
        assert refused_key.reason == "broker_away"
    assert min(took_s) < 0.5, "at once"
    # A client that leaves frees its place.
    waiting.pop(0).cancel()
    await until(lambda: not edge.room.is_full)
    waiting.insert(0, asyncio.create_task(edge.publish(request_id(os.urandom(16)))))
    world.broker.start()
    published, asked = await asyncio.gather(*waiting)
    assert published is None
    assert isinstance(asked, Answer)
    assert asked.reason is None
    assert await edge.queued() == 3
    # The places are free again.
    assert (await edge.ask("other")).reason is None


async def test_who_waits_too_long_for_a_broker_knows_that_nothing_was_stored(world: World) -> None:
    world.broker.kill()
    await until(lambda: not world.one.js.bus.connected)
    problem, asked = await asyncio.gather(world.one.publish(request_id(os.urandom(16))), world.one.ask("k"))
    assert problem is not None
    assert (problem.reason, asked.reason) == ("broker_away", "broker_away")
    world.broker.start()
    await until(lambda: world.one.js.bus.connected)
    assert await world.one.queued() == 0


async def test_a_run_that_ends_between_look_and_publish_is_the_run(world: World) -> None:
    slow = await world.one.lineages.resolve(ANONYMOUS, "k", fingerprint(b"{}"))
    assert isinstance(slow, Resolved)
    assert not slow.exists
    fast = await world.two.ask("k")
    assert fast.rid == slow.rid
    await world.two.run(fast.rid, lease(), OK)
    assert await world.one.publish(slow.rid) is None, "the broker remembers the id: found in the log"
    assert await world.one.queued() == 0
    await world.restart()
    assert await world.one.publish(slow.rid) is None
    assert await world.one.queued() == 1, "a second message, because nobody remembers"
    found = await world.one.lookup.find(ANONYMOUS, slow.rid)
    assert found is not None
    assert found.end == OK, "but the log says that it is over: the reader replays it, its delivery is acked"
    assert (await world.two.ask("k")).attached
