"""Bounds that edges share, with a real broker: two edges race for the same places."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from edge.admission import Admitted, Arrival
from edge.call import Call, Caller
from edge.dialects import CHAT as CHAT_DIALECT
from edge.errors import Problem
from edge.lookup import Found, Lookup
from infra import broker as embedded
from infra.jetstream import JetStream
from infra.kv import KeyValue
from infra.settings import Settings, load_settings
from schemas import subjects
from schemas.dispatch import ModelState
from schemas.errors import BrokerRefused
from schemas.ids import ModelKey, RequestId, TenantKey
from schemas.output import End
from schemas.streams import COUNTS_BUCKET, counts_stream
from tests.contract.protocol import paused
from tests.integration.edge_under_test import (
    CHAT,
    MESSAGES,
    MODEL,
    STREAMED,
    Attempt,
    Backend,
    World,
    backend_on,
    card,
    edge_at,
    leave,
    post,
    read,
    readers_at,
    until,
)

SLOTS = 4
LONG_NAME = f"Test/{'Long' * 20}"
"""Its key has all the characters that a token of a subject may have."""

OK = End(status="ok", finish_reasons=["stop"])
DETACH = {"X-Penstock-On-Disconnect": "detach"}
DETACHED = {name.lower(): value for name, value in DETACH.items()}


def settings_on(broker: embedded.Broker, **more: object) -> Settings:
    return load_settings({"nats_url": broker.url, **more})


@contextlib.asynccontextmanager
async def two_edges(broker: embedded.Broker, **more: object) -> AsyncIterator[tuple[Backend, list[World]]]:
    settings = settings_on(broker, **more)
    async with (
        backend_on(settings) as backend,
        edge_at(settings, backend, "edge-a") as one,
        edge_at(settings, backend, "edge-b") as other,
    ):
        yield backend, [one, other]


async def announce(backend: Backend, worlds: list[World], slots: int) -> None:
    """The leader tells of so many slots; returns when all edges have heard it."""
    told = ModelState(card(LONG_NAME), min(slots, 1), slots, slots, 0.0)
    backend.models = [told]
    key = ModelKey(told.card.key)
    await until(lambda: {world.edge.registry.slots(key) for world in worlds} == {slots})


async def all_told(worlds: list[World]) -> None:
    """Returns when the bucket has what the edges count. An edge writes it when an answer is over; a broker that has
    other things to do may hear a question of another edge first, on another connection."""
    await until(lambda: all(world.edge._entrance._counts._core.is_settled for world in worlds))


async def offer(worlds: list[World], count: int, **fields: Any) -> list[asyncio.Task[httpx.Response]]:
    """As many at once at each edge; returns when everybody who is refused knows it, with those who are not."""
    await all_told(worlds)
    clients = [post(world, **fields) for _ in range(count) for world in worlds]
    await until(lambda: sum(client.done() for client in clients) + open_answers(worlds) == len(clients))
    return clients


def open_answers(worlds: list[World]) -> int:
    return sum(len(world.edge._desk.audience.answers) for world in worlds)


async def finish(backend: Backend, count: int) -> list[Attempt]:
    attempts = [await backend.attempt() for _ in range(count)]
    for attempt in attempts:
        await attempt.tok("text")
        await attempt.end(OK)
        await attempt.settle()
    return attempts


def codes(clients: list[asyncio.Task[httpx.Response]]) -> Counter[str]:
    """Of those that were refused."""
    return Counter(client.result().json()["error"]["code"] for client in clients if client.done())


async def depth_of_counts(backend: Backend) -> int:
    return await backend.js.queue_depth(counts_stream().name)


async def counted(backend: Backend, key: str) -> bytes:
    stored = await backend.js.last(counts_stream().name, subjects.kv_key(COUNTS_BUCKET, key))
    return b"" if stored is None else stored.payload


async def test_without_a_bound_nothing_is_asked(own_broker: embedded.Broker) -> None:
    async with two_edges(own_broker) as (backend, worlds):
        clients = await offer(worlds, 3)
        await finish(backend, 6)
        assert [(await client).status_code for client in clients] == [200] * 6
        assert await depth_of_counts(backend) == 0


async def test_reject_mode_lets_in_exactly_the_slots_again_and_again(own_broker: embedded.Broker) -> None:
    async with two_edges(own_broker, queue_mode="reject") as (backend, worlds):
        for _ in range(5):
            begun = time.monotonic()
            clients = await offer(worlds, 10 * SLOTS // 2)
            took_s = time.monotonic() - begun
            assert codes(clients) == Counter({"no_slot": 9 * SLOTS}), f"after {took_s:.3f} s"
            await finish(backend, SLOTS)
            answers = [await client for client in clients]
            assert Counter(answer.status_code for answer in answers) == {200: SLOTS, 429: 9 * SLOTS}
            refused = next(answer for answer in answers if answer.status_code == 429)
            assert refused.headers["retry-after"]


async def test_reject_mode_follows_the_workers_that_come_and_go(own_broker: embedded.Broker) -> None:
    async with two_edges(own_broker, queue_mode="reject") as (backend, worlds):
        for slots in (4, 7, 2, 0):
            await announce(backend, worlds, slots)
            clients = await offer(worlds, 10, model=LONG_NAME)
            assert codes(clients) == Counter({"no_slot": 20 - slots})
            await finish(backend, slots)
            await asyncio.gather(*clients)


async def test_a_slot_that_is_freed_is_there_at_once(own_broker: embedded.Broker) -> None:
    """Whoever sees the end of a request may ask again, at any edge."""
    async with two_edges(own_broker, queue_mode="reject") as (backend, worlds):
        clients = await offer(worlds, SLOTS)
        assert codes(clients) == {"no_slot": SLOTS}
        waiting = [client for client in clients if not client.done()]
        took_s: list[float] = []
        for number in range(20):
            await finish(backend, 1)
            await until(lambda: any(client.done() for client in waiting))
            done = next(client for client in waiting if client.done())
            assert done.result().status_code == 200
            waiting.remove(done)
            begun = time.monotonic()
            await all_told(worlds)
            took_s.append(time.monotonic() - begun)
            again = post(worlds[number % 2])
            await until(lambda again=again: again.done() or open_answers(worlds) == SLOTS)  # type: ignore[misc]
            assert not again.done(), again.result().text
            waiting.append(again)
        assert sorted(took_s)[10] < 0.05, took_s
        await finish(backend, SLOTS)
        await asyncio.gather(*waiting)


async def test_a_refusal_does_not_keep_a_client_waiting(own_broker: embedded.Broker) -> None:
    async with two_edges(own_broker, queue_mode="reject") as (backend, worlds):
        clients = await offer(worlds, SLOTS)
        took: list[float] = []
        async with worlds[0].http as http:
            for _ in range(20):
                begun = time.monotonic()
                assert (await http.post(CHAT, json=STREAMED)).status_code == 429
                took.append(time.monotonic() - begun)
        print(f"refused in {sorted(took)[10] * 1e3:.1f} ms, at most {max(took) * 1e3:.1f} ms")
        assert sorted(took)[10] < 0.05
        await finish(backend, SLOTS)
        await asyncio.gather(*clients)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("tenant_queue_max", "tenant may have 6 requests"),
        ("model_queue_max", "be 6 requests for the model `Test/Model-1B`"),
    ],
)
async def test_a_quota_is_named_with_its_value(own_broker: embedded.Broker, setting: str, said: str) -> None:
    async with two_edges(own_broker, **{setting: 6}) as (backend, worlds):
        for _ in range(2):
            clients = await offer(worlds, 10)
            assert codes(clients) == {"quota_exceeded": 14}
            refused = next(client for client in clients if client.done())
            assert said in refused.result().json()["error"]["message"]
            await finish(backend, 6)
            assert Counter([(await client).status_code for client in clients]) == {200: 6, 429: 14}


async def test_streams_of_a_key_count_as_long_as_their_answer(own_broker: embedded.Broker) -> None:
    async with two_edges(own_broker, streams_per_key_max=2) as (backend, worlds):
        clients = [post(worlds[0], DETACH), post(worlds[1], DETACH)]
        attempts = [await backend.attempt() for _ in clients]
        refused = await post(worlds[0])
        assert refused.json()["error"]["code"] == "quota_exceeded"
        assert "may have 2 answers open" in refused.json()["error"]["message"]
        refused = await read(worlds[0], attempts[0].rid)
        assert refused.status_code == 429, "a second reader is an open answer, too"
        await leave(worlds[0], clients[0])
        await all_told(worlds)
        again = read(worlds[1], attempts[0].rid)
        await readers_at(worlds[1], 2)
        for attempt in attempts:
            await attempt.end(OK)
        assert [(await client).status_code for client in (clients[1], again)] == [200, 200]


async def test_a_look_that_fails_leaves_no_answer_counted(own_broker: embedded.Broker) -> None:
    """However it fails: the broker may refuse to look, too."""
    async with two_edges(own_broker, streams_per_key_max=1) as (backend, worlds):
        world = worlds[0]
        failed = await read(world, "nobody" * 4)
        assert failed.status_code == 404
        looking = world.edge.requests._lookup
        world.edge.requests._lookup = Refusing(looking._js, looking._log)
        assert (await read(world, "nobody" * 4)).status_code == 503
        client = post(world)
        await finish(backend, 1)
        assert (await client).status_code == 200, "nothing else is open"


class Refusing(Lookup):
    async def find(self, tenant: TenantKey, rid: RequestId) -> Found | None:
        raise BrokerRefused("resource limits exceeded for server (10023)")


async def test_a_request_that_runs_on_unread_counts_until_its_end(own_broker: embedded.Broker) -> None:
    async with two_edges(own_broker, tenant_queue_max=1) as (backend, worlds):
        client = post(worlds[0], DETACH)
        attempt = await backend.attempt()
        await leave(worlds[0], client)
        assert (await post(worlds[1])).status_code == 429
        await attempt.end(OK)
        await until_counted(backend, "tenant-public", b"{}")
        again = post(worlds[1])
        await finish(backend, 1)
        assert (await again).status_code == 200


async def test_a_request_that_is_cut_off_while_it_is_stored_counts_until_its_end(
    own_broker: embedded.Broker,
) -> None:
    """As a line of a batch that another edge goes on with: the broker may have it."""
    async with two_edges(own_broker, tenant_queue_max=1) as (backend, worlds):
        edge = worlds[0].edge
        publish, is_stored = edge._generation._publisher.publish, asyncio.Event()

        async def publish_unheard(arrival: Arrival, admitted: Admitted) -> Problem | Found | None:
            await publish(arrival, admitted)
            is_stored.set()
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

        edge._generation._publisher.publish = publish_unheard  # type: ignore[method-assign]
        body = msgspec.json.encode({"model": MODEL, "messages": MESSAGES})
        answer = await edge.generate(CHAT_DIALECT, Call(Caller(), DETACHED, body))
        asking = asyncio.create_task(answer({"type": "http"}, never, never_mind))
        await is_stored.wait()
        asking.cancel()
        await asyncio.wait([asking])
        attempt = await backend.attempt()
        assert (await post(worlds[1])).status_code == 429
        await attempt.end(OK)
        await until_counted(backend, "tenant-public", b"{}")


async def never() -> dict[str, Any]:
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


async def never_mind(message: Any) -> None:
    raise AssertionError(message)


async def test_a_response_in_the_background_counts_until_its_end_and_its_receipt_is_no_open_answer(
    own_broker: embedded.Broker,
) -> None:
    bounds = {"tenant_queue_max": 1, "streams_per_key_max": 1}
    async with two_edges(own_broker, **bounds) as (backend, worlds), worlds[0].http as http:
        body = {"model": MODEL, "input": "a river", "background": True}
        made = await http.post("/v1/responses", json=body)
        assert (made.status_code, made.json()["status"]) == (200, "queued")
        refused = await http.post("/v1/responses", json=body)
        assert refused.status_code == 429
        assert "queued or running" in refused.json()["error"]["message"]
        reading = read(worlds[1], made.json()["id"].removeprefix("resp_"))
        await readers_at(worlds[1], 1)
        stream = await http.get(f"/v1/responses/{made.json()['id']}", params={"stream": "true"})
        assert stream.status_code == 429, "one reader of the same client is there"
        await finish(backend, 1)
        assert (await reading).status_code == 200
        await until_counted(backend, "tenant-public", b"{}")
        streams = [name for name in await counted_keys(backend) if name.startswith("streams")]
        assert len(streams) == 1
        await until_counted(backend, streams[0], b"{}")


async def counted_keys(backend: Backend) -> list[str]:
    return list(await KeyValue(backend.js, COUNTS_BUCKET).items())


async def test_a_request_that_is_cancelled_counts_no_more(own_broker: embedded.Broker) -> None:
    async with two_edges(own_broker, tenant_queue_max=1) as (backend, worlds):
        client = post(worlds[0])
        attempt = await backend.attempt()
        await leave(worlds[0], client)
        assert (await backend.end_of(attempt)).status == "cancelled"
        await until_counted(backend, "tenant-public", b"{}")


async def test_a_refusal_by_a_later_limit_gives_back_what_an_earlier_one_counted(
    own_broker: embedded.Broker,
) -> None:
    async with two_edges(own_broker, tenant_queue_max=5, model_queue_max=1) as (backend, worlds):
        clients = await offer(worlds, 2)
        assert codes(clients) == {"quota_exceeded": 3}
        await until_counted(backend, "tenant-public", b'"edge-?":1')
        await finish(backend, 1)
        await asyncio.gather(*clients)
        await until_counted(backend, "tenant-public", b"{}")


async def test_a_broker_that_stands_still_does_not_keep_clients_for_long(
    own_broker: embedded.Broker,
) -> None:
    async with two_edges(own_broker, tenant_queue_max=5, publish_timeout_s=3) as (backend, worlds):
        client = post(worlds[0])
        await finish(backend, 1)
        assert (await client).status_code == 200
        with paused(own_broker):
            begun = time.monotonic()
            answers = await asyncio.gather(*[post(world) for world in worlds for _ in range(5)])
        assert time.monotonic() - begun < 7.5
        assert {answer.json()["error"]["code"] for answer in answers} == {"broker_away"}
        await until_counted(backend, "tenant-public", b"{}")


async def test_an_edge_that_stops_leaves_nothing_behind(own_broker: embedded.Broker) -> None:
    settings = settings_on(own_broker, tenant_queue_max=3)
    async with backend_on(settings) as backend:
        async with edge_at(settings, backend, "edge-a") as world:
            client = post(world)
            await finish(backend, 1)
            assert (await client).status_code == 200
        assert await counted(backend, "tenant-public") == b"{}"


async def until_counted(backend: Backend, key: str, value: bytes, within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while True:
        found = await counted(backend, key)
        if value in found.replace(b"edge-a", b"edge-?").replace(b"edge-b", b"edge-?"):
            return
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.01)


async def test_the_bucket_is_made_with_all_streams(own_broker: embedded.Broker) -> None:
    settings = settings_on(own_broker)
    async with backend_on(settings) as backend:
        assert await JetStream(backend.bus).exists(counts_stream().name)
