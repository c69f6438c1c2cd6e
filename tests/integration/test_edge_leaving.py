"""What becomes of a request whose readers leave, and of one that nobody takes or ends in time."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator

import pytest

from edge import answers, ends, service
from infra.broker import Broker
from infra.settings import load_settings
from schemas import subjects
from schemas.dispatch import EdgeBeat, Reader
from schemas.ids import ANONYMOUS, RequestId
from schemas.output import End, Lease, Usage
from schemas.streams import REQUESTS
from tests.contract.protocol import paused
from tests.integration.edge_under_test import (
    Attempt,
    Backend,
    World,
    backend_on,
    edge_at,
    edge_on,
    leave,
    post,
    read,
    readers_at,
    until,
)

POLICY = "x-penstock-on-disconnect"
NUMBERS = itertools.count()


@pytest.fixture
async def worlds(broker: Broker) -> AsyncIterator[tuple[World, World]]:
    settings = load_settings({"nats_url": broker.url, "edge_interval_s": 0.1})
    async with (
        backend_on(settings) as backend,
        edge_at(settings, backend, "edge-a") as first,
        edge_at(settings, backend, "edge-b") as second,
    ):
        yield first, second


async def runs_on(attempt: Attempt, backend: Backend) -> None:
    """No END was written, and the attempt can finish."""
    last = await backend.log.last_ctl(attempt.tenant, attempt.rid)
    assert last is not None
    assert isinstance(last.record, Lease)
    assert attempt.rid not in backend.hints
    await attempt.end(End(status="ok", n=attempt.n))


async def told(world: World) -> EdgeBeat:
    """The next full beat of an edge. What it said before now, and has not been heard yet, is none."""
    backend, edge = world.backend, world.edge.name
    last_word = RequestId(f"heard{next(NUMBERS):015}")
    world.edge.bus.publish(subjects.cancel(ANONYMOUS, last_word))
    await until(lambda: last_word in backend.hints)
    backend.beats.clear()
    await until(lambda: [beat for beat in backend.beats if beat.edge == edge and beat.full])
    return next(beat for beat in backend.beats if beat.edge == edge and beat.full)


@pytest.mark.parametrize(("policy", "grace_s"), [("detach", None), ("grace=7.5", 7.5)])
async def test_a_request_that_may_outlive_its_reader_does(
    worlds: tuple[World, World], policy: str, grace_s: float | None
) -> None:
    world, backend = worlds[0], worlds[0].backend
    client = post(world, {POLICY: policy})
    attempt = await backend.attempt()
    assert attempt.meta.grace_s == grace_s
    assert (await told(world)).readers == [Reader(attempt.tenant, attempt.rid, grace_s)]
    await leave(world, client)
    assert (await told(world)).readers == [], "the leader counts from here"
    await runs_on(attempt, backend)
    assert (await read(worlds[1], attempt.rid)).text.endswith("data: [DONE]\n\n")


async def test_the_policy_cancel_holds_for_one_reader_alone(worlds: tuple[World, World]) -> None:
    world, backend = worlds[0], worlds[0].backend
    client = post(world, {POLICY: "cancel"})
    attempt = await backend.attempt()
    await leave(world, client)
    assert await backend.end_of(attempt) == End(
        status="cancelled", reason="cancelled", message="the client went away", usage=Usage(0, 0)
    )
    await until(lambda: attempt.rid in backend.hints)


@pytest.mark.parametrize("first_leaves_first", [True, False])
async def test_two_readers_at_two_edges_leave_it_to_the_leader(
    worlds: tuple[World, World], first_leaves_first: bool
) -> None:
    one, two = worlds
    backend = one.backend
    poster = post(one)
    attempt = await backend.attempt()
    await attempt.tok("a")
    reader = read(two, attempt.rid)
    await readers_at(two, 1)
    # Told at once, not at the next full beat.
    await until(
        lambda: EdgeBeat("edge-b", [Reader(attempt.tenant, attempt.rid, 0.0)], full=False) in backend.beats
    )
    clients = [(one, poster), (two, reader)]
    for world, client in clients if first_leaves_first else reversed(clients):
        await leave(world, client)
    assert (await told(one)).readers == (await told(two)).readers == []
    await runs_on(attempt, backend)


async def test_two_readers_at_one_edge_leave_it_to_the_leader(worlds: tuple[World, World]) -> None:
    world, backend = worlds[0], worlds[0].backend
    poster = post(world)
    attempt = await backend.attempt()
    reader = read(world, attempt.rid)
    await readers_at(world, 2)
    await leave(world, poster)
    assert [listed.rid for listed in (await told(world)).readers] == [attempt.rid]
    await attempt.tok("still read")
    await leave(world, reader)
    await runs_on(attempt, backend)


@pytest.mark.parametrize(
    ("posted", "said", "grace_s"),
    [
        ("cancel", None, 0.0),
        ("detach", None, None),
        ("grace=3", None, 3.0),
        ("cancel", "detach", None),
        ("detach", "cancel", 0.0),
        ("cancel", "grace=4", 4.0),
    ],
)
async def test_a_reader_that_says_nothing_has_the_policy_of_the_request(
    worlds: tuple[World, World], posted: str, said: str | None, grace_s: float | None
) -> None:
    one, two = worlds
    poster = post(one, {POLICY: posted})
    attempt = await one.backend.attempt()
    reader = read(two, attempt.rid, {POLICY: said} if said else None)
    await readers_at(two, 1)
    assert (await told(two)).readers == [Reader(attempt.tenant, attempt.rid, grace_s)]
    await attempt.end(End(status="ok", n=0))
    await asyncio.gather(poster, reader)


async def test_a_policy_that_is_none_is_refused(worlds: tuple[World, World]) -> None:
    poster = post(worlds[0])
    attempt = await worlds[0].backend.attempt()
    refused = await read(worlds[1], attempt.rid, {POLICY: "perhaps"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, POLICY)
    await attempt.end(End(status="ok", n=0))
    await poster


async def test_retries_with_one_key_share_one_run(
    worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what they are shown: the clock of the edge whose publish came first."""

    class Clock:
        ticks = itertools.count(1_700_000_000, 10)

        def time(self) -> int:
            return next(self.ticks)

    monkeypatch.setattr(service, "time", Clock())
    backend = worlds[0].backend
    key = {"idempotency-key": f"race-{os.getpid()}-{time.time()}"}
    queued = await backend.js.queue_depth(REQUESTS)
    clients = [post(world, key) for world in worlds * 4]
    attempt = await backend.attempt(lease=False)
    for world in worlds:
        await readers_at(world, 4)
    # What was seen on its way need not be the message that was stored.
    stored = await backend.js.last(REQUESTS, subjects.request_of_any_model(attempt.tenant, attempt.rid))
    assert stored is not None
    attempt.headers = stored.headers
    assert attempt.meta.grace_s == 30.0
    await attempt.lease()
    await attempt.tok("a")
    leaver = clients.pop()
    await leave(worlds[1], leaver)
    await attempt.tok("b")
    await attempt.end(End(status="ok", n=2))
    texts = {(await client).text for client in clients}
    assert len(texts) == 1, "\n\n".join(texts)
    assert await backend.js.queue_depth(REQUESTS) == queued + 1


async def test_nobody_took_it_in_time(broker: Broker) -> None:
    settings = load_settings({"nats_url": broker.url, "queue_timeout_s": 1.5})
    async with edge_on(settings) as world:
        took_s: list[float] = []
        while not took_s or (took_s[-1] >= 3 and len(took_s) < 3):  # the machine may have stood still
            begun = time.monotonic()
            client = post(world)
            attempt = await world.backend.attempt(lease=False)
            response = await client
            took_s.append(time.monotonic() - begun)
        assert min(took_s) >= 1.5
        assert took_s[-1] < 3, took_s
        assert (response.status_code, response.json()["error"]["code"]) == (503, "queue_timeout")
        assert response.json()["error"]["request_id"] == attempt.rid
        assert response.headers["retry-after"] == "1"
        end = await world.backend.end_of(attempt)
        assert (end.status, end.reason) == ("expired", "queue_timeout")
        await until(lambda: attempt.rid in world.backend.hints)
        with pytest.raises(AssertionError, match="wrong last sequence"):
            await attempt.lease()


async def test_somebody_has_it_so_it_goes_on(broker: Broker) -> None:
    settings = load_settings({"nats_url": broker.url, "queue_timeout_s": 3})
    async with edge_on(settings) as world:
        begun = time.monotonic()
        client = post(world)
        attempt = await world.backend.attempt()
        # As at the time-out of an edge that saw nothing of the lease: END must not be written over it.
        last = await world.edge._closer.close(attempt.tenant, attempt.rid, ends.QUEUE_TIMEOUT, expect=0)
        assert isinstance(last.record, Lease)
        await until(lambda: time.monotonic() > begun + 3.2)
        await attempt.tok("late, but there")
        await attempt.end(End(status="ok", n=1))
        assert "late, but there" in (await client).text


@pytest.mark.parametrize("tokens", [0, 2])
async def test_it_did_not_end_in_time(
    worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    monkeypatch.setattr(answers, "END_MARGIN_S", 0.3)
    one, two = worlds
    begun = time.monotonic()
    client = post(one, {"x-penstock-deadline": "3"})
    attempt = await one.backend.attempt()
    assert attempt.meta.request_timeout_s == 3
    for _ in range(tokens):
        await attempt.tok("x")
    reader = read(two, attempt.rid)
    response = await client
    assert 3.3 <= time.monotonic() - begun < 6
    end = await one.backend.end_of(attempt)
    assert (end.status, end.reason) == ("expired", "request_timeout")
    assert end.usage == Usage(0, tokens)
    await until(lambda: attempt.rid in one.backend.hints)
    if tokens:
        assert response.text.endswith("data: [DONE]\n\n")
        assert '"code":"request_timeout"' in response.text
    else:
        assert (response.status_code, response.json()["error"]["code"]) == (504, "request_timeout")
    assert (await reader).text == response.text


async def test_a_client_is_answered_in_time_without_a_broker(
    own_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "END_MARGIN_S", 0.2)
    monkeypatch.setattr(answers, "LAST_WAIT_S", 0.3)
    settings = load_settings({"nats_url": own_broker.url, "publish_timeout_s": 2})
    async with edge_on(settings) as world:
        client = post(world, {"x-penstock-deadline": "2.5"})
        attempt = await world.backend.attempt()
        await attempt.tok("x")
        with paused(own_broker):
            begun = time.monotonic()
            response = await client
            assert time.monotonic() - begun < 5.5
        assert '"code":"request_timeout"' in response.text
        assert (await world.backend.end_of(attempt)).status == "expired", "once the broker is back"


async def test_nothing_is_left_of_readers_that_came_and_went(worlds: tuple[World, World]) -> None:
    world = worlds[0]
    before = len(world.edge.bus._client._subs)
    for number in range(6):
        client = post(world, {POLICY: "detach"})
        attempt = await world.backend.attempt()
        readers = [read(world, attempt.rid) for _ in range(3)]
        await readers_at(world, 4)
        if number % 2:
            await leave(world, readers.pop())
        await attempt.end(End(status="ok", n=0))
        await asyncio.gather(client, *readers)
    await readers_at(world, 0)
    await until(lambda: not world.edge._closer._tasks)
    assert len(world.edge.bus._client._subs) == before
    assert not world.edge._desk.audience._readers._requests
