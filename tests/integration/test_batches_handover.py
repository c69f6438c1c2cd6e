"""Batches that change hands, or that nobody takes: they come to an end, and no line runs twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from edge.batches.runner import Run
from edge.batches.runners import DELIVERIES_MAX
from infra.broker import Broker
from infra.settings import load_settings
from schemas import subjects
from schemas.ids import TenantKey
from schemas.streams import BATCHES, batches_consumer
from tests.integration.batches_under_test import (
    LINES,
    answer,
    jsonl,
    make,
    over,
    results,
    serve,
    worlds_on,
)
from tests.integration.edge_under_test import World, edge_at


@pytest.fixture
async def world(own_broker: Broker) -> AsyncIterator[World]:
    async with worlds_on(load_settings({"nats_url": own_broker.url})) as (one,):
        yield one


async def test_an_edge_that_stops_hands_its_batches_over_at_once(
    own_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever waits for this instead of for the hand-over fails.
    monkeypatch.setattr("schemas.streams.BATCH_ACK_WAIT_S", 60.0)
    async with worlds_on(load_settings({"nats_url": own_broker.url}), 2, run=False) as (first, second):
        first.edge.batches.start()
        async with second.http as http:
            batch = await make(http)
            attempts = [await first.backend.attempt() for _ in range(LINES)]
            for attempt in attempts[:2]:
                await answer(attempt)
            second.edge.batches.start()
            await first.edge.batches.close()
            for attempt in attempts[2:]:
                await answer(attempt)
            batch = await over(http, batch)
            assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
            assert len(await results(http, batch["output_file_id"])) == LINES
            assert first.backend.arrivals == LINES, "what ran already is read, not run again"


async def test_two_runners_at_once_come_to_one_result_for_each_line(own_broker: Broker) -> None:
    settings = load_settings({"nats_url": own_broker.url})
    async with worlds_on(settings, 2, run=False) as worlds, worlds[0].http as http:
        made = await make(http)
        runs = []
        for number, world in enumerate(worlds):
            means = world.edge.batches._runners._means
            record = await means.batches.get(TenantKey("public"), made["id"])
            assert record is not None
            runs.append(asyncio.create_task(Run(means, record, f"run-{number}").run()))
        await serve(worlds[0].backend, LINES)
        ended = await asyncio.gather(*runs)
        assert sorted(ended) in ([False, True], [True, True])
        assert any(ended)
        batch = await over(http, made)
        assert len(await results(http, batch["output_file_id"])) == LINES
        assert worlds[0].backend.arrivals == LINES


async def test_a_batch_that_edges_die_of_comes_to_an_end(own_broker: Broker) -> None:
    async with (
        worlds_on(load_settings({"nats_url": own_broker.url}), run=False) as (world,),
        world.http as http,
    ):
        batch = await make(http, jsonl(1))
        spec, js, acks = batches_consumer(), world.backend.js, asyncio.Queue[str]()
        consumer = js.consume(spec, lambda delivered: acks.put_nowait(delivered.ack), lambda _unused: None)
        for _ in range(DELIVERIES_MAX):
            consumer.fetch(1, 15)
            async with asyncio.timeout(15):
                js.nak(await acks.get())
        consumer.close()
        world.edge.batches.start()
        batch = await over(http, batch)
        assert batch["status"] == "failed"
        assert batch["errors"]["data"][0]["code"] == "too_many_runs"
        assert world.backend.arrivals == 0


async def test_what_is_no_batch_is_dropped_from_the_queue(world: World) -> None:
    js = world.backend.js
    assert (await js.publish(subjects.batch("public", "batch_x"), b"nonsense")).stored
    async with asyncio.timeout(10):
        while await js.queue_depth(BATCHES):
            await asyncio.sleep(0.05)
    async with world.http as http:
        await make(http, jsonl(1))
        await world.backend.attempt()


async def test_a_batch_nobody_runs_yet_is_cancelled_at_once_and_without_its_input_fails(
    own_broker: Broker,
) -> None:
    async with (
        worlds_on(load_settings({"nats_url": own_broker.url}), run=False) as (world,),
        world.http as http,
    ):
        cancelled, orphan = await make(http), await make(http)
        shown = await http.post(f"/v1/batches/{cancelled['id']}/cancel")
        assert shown.json()["status"] == "cancelled"
        assert (await http.delete(f"/v1/files/{orphan['input_file_id']}")).json()["deleted"]
        world.edge.batches.start()
        orphan = await over(http, orphan)
        assert orphan["status"] == "failed"
        assert orphan["errors"]["data"][0]["code"] == "input_file_missing"
        js = world.backend.js
        async with asyncio.timeout(10):
            while await js.queue_depth(BATCHES):
                await asyncio.sleep(0.05)
        assert world.backend.arrivals == 0


async def test_a_file_that_other_settings_would_not_have_taken_fails_its_batch(own_broker: Broker) -> None:
    settings = load_settings({"nats_url": own_broker.url, "batch_inflight_max": 1})
    async with worlds_on(settings) as (world,), world.http as http:
        batch = await make(http)
        first = await world.backend.attempt()
        await world.edge.batches.close()
        smaller = settings.model_copy(update={"request_bytes_max": 100})
        async with edge_at(smaller, world.backend, "edge-small") as other:
            other.edge.batches.start()
            batch = await over(http, batch)
            await other.edge.batches.close()
        await answer(first)
        assert batch["status"] == "failed"
        assert [fault["code"] for fault in batch["errors"]["data"]] == ["line_too_long"]
