"""What clients are told of the queue: their place while they wait, and when to come back if there is none for them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from infra.broker import Broker
from infra.settings import load_settings
from schemas.dispatch import ModelState
from schemas.output import End, Usage
from tests.integration.edge_under_test import CHAT, MESSAGES, MODEL, STREAMED, World, card, edge_on, until

BODY: dict[str, Any] = {"model": MODEL, "messages": MESSAGES}
GOOD = End(status="ok", n=2, finish_reasons=["stop"], usage=Usage(1, 2), text=["so far"])
QUEUE_MAX = 3
HEAD_WAIT_S = 1.5
"""The place in a head is that of a heartbeat that has counted the request: a busy machine has time for one."""


@pytest.fixture
async def world(own_broker: Broker) -> AsyncIterator[World]:
    settings = {
        "nats_url": own_broker.url,
        "head_wait_s": HEAD_WAIT_S,
        "queue_max": QUEUE_MAX,
        "queue_timeout_s": 20,
    }
    async with edge_on(load_settings(settings)) as world:
        yield world


# Six before a new one; once it is counted among six, five are.


async def hear(world: World, waiting: int, taken: int, *, slots: int = 4, free: int = 0) -> None:
    """The leader tells so, and the edge has heard it."""
    state = ModelState(
        card(),
        1,
        slots,
        free,
        0.0,
        waiting={"standard": waiting} if waiting else {},
        taken={"standard": taken},
    )
    world.backend.models = [state]
    line = world.edge._entrance._door._forecast.line(state.card.key)
    await until(lambda: line._taken["standard"] == taken and line.waiting["standard"] == waiting)
    heard_at = line.heard_at
    await until(lambda: line.heard_at > heard_at)


async def move(world: World, *, per_s: float, seconds: float, waiting: int) -> int:
    """So many are taken per second, with `waiting` in the line; returns how many were."""
    taken = 0
    for taken in range(1, round(per_s * seconds) + 1):
        await hear(world, waiting, taken)
        await asyncio.sleep(max(0.0, 1 / per_s - 0.15))
    return taken


async def test_a_stream_that_waits_is_told_its_place_until_it_runs(world: World) -> None:
    await hear(world, 6, 0)
    lines: list[str] = []

    async def read() -> httpx.Response:
        async with world.http as http, http.stream("POST", CHAT, json=STREAMED) as response:
            async for line in response.aiter_lines():
                lines.append(line)  # noqa: PERF401 - seen as they come
        return response

    reading = asyncio.create_task(read())
    attempt = await world.backend.attempt(lease=False)
    await until(lambda: any(line.startswith(": queued") for line in lines))
    assert set(places(lines)) == {5}
    await hear(world, 6, 2)
    await until(lambda: places(lines)[-1] == 3)
    await hear(world, 1, 5)
    await until(lambda: places(lines)[-1] == 0)
    await attempt.lease()
    await attempt.tok("so", " far")
    await attempt.end(GOOD)
    response = await reading
    assert response.headers["x-queue-position"] == "5", "the place when the head left"
    assert places(lines) == sorted(places(lines), reverse=True)
    assert lines.index(": queued position=0" + eta(lines)) < next(
        number for number, line in enumerate(lines) if '"content":"so"' in line
    )
    assert lines[-2:] == ["data: [DONE]", ""]
    for number, line in enumerate(lines):
        if line.startswith(": queued"):
            assert lines[number + 1], "an empty line after it would be an event"


async def test_what_runs_at_once_has_place_0_and_no_comments(world: World) -> None:
    await hear(world, 0, 0, free=4)
    for stream in (True, False):
        async with world.http as http:
            asking = asyncio.create_task(http.post(CHAT, json={**BODY, "stream": stream}))
            attempt = await world.backend.attempt()
            await attempt.tok("so", " far")
            await attempt.end(GOOD)
            response = await asking
        assert (response.status_code, response.headers["x-queue-position"]) == (200, "0")
        assert ": queued" not in response.text
        await attempt.settle()


async def test_the_official_client_does_not_mind(world: World) -> None:
    await hear(world, 6, 0)
    async with world.openai as client:
        asking = asyncio.create_task(client.chat.completions.create(**BODY, stream=True))
        attempt = await world.backend.attempt(lease=False)
        stream = await asking
        assert stream.response.headers["x-queue-position"] == "5"
        for taken in range(1, 4):
            await hear(world, 6 - taken, taken)
            await asyncio.sleep(1.0)
        await attempt.lease()
        await attempt.tok("so", " far")
        await attempt.end(GOOD)
        texts = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
    assert "".join(text or "" for text in texts) == "so far"


async def test_clients_that_know_no_comments_get_none(world: World) -> None:
    await hear(world, 6, 0)
    async with world.http as http:
        asking = asyncio.create_task(http.post("/v1/messages", json={**STREAMED, "max_tokens": 9}))
        attempt = await world.backend.attempt(lease=False)
        await asyncio.sleep(HEAD_WAIT_S + 1)
        await attempt.lease()
        await attempt.tok("so", " far")
        await attempt.end(GOOD)
        response = await asking
    assert ": queued" not in response.text
    assert response.headers["x-queue-position"] == "5"


async def test_a_deadline_that_cannot_be_made_is_refused_at_the_door(world: World) -> None:
    async with world.http as http:
        taken = await move(world, per_s=5, seconds=2, waiting=30)
        refused = await http.post(CHAT, json=BODY, headers={"x-penstock-deadline": "2"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "deadline_unreachable")
        assert 1 <= float(refused.headers["retry-after"]) <= 120
        assert world.backend.arrivals == 0, "it was not even queued"
        # 100 before it is more than its 20 s in the queue as well.
        await hear(world, 200, taken)
        refused = await http.post(CHAT, json=BODY)
        assert refused.json()["error"]["code"] == "deadline_unreachable"
        await hear(world, 5, taken)
        asking = asyncio.create_task(http.post(CHAT, json=BODY, headers={"x-penstock-deadline": "10"}))
        attempt = await world.backend.attempt()
        await attempt.tok("so", " far")
        await attempt.end(GOOD)
        assert (await asking).status_code == 200


async def test_a_full_queue_tells_each_client_another_time(world: World) -> None:
    await move(world, per_s=5, seconds=2, waiting=2)
    async with world.http as http:
        asking = [asyncio.create_task(http.post(CHAT, json=BODY)) for _ in range(QUEUE_MAX)]
        await until(lambda: world.backend.arrivals == QUEUE_MAX)
        # Told at one time: else each would be told less, by the time since the one before it.
        told_at = asyncio.get_running_loop().time()
        world.edge._entrance._doorkeeper._now = lambda: told_at
        refused = [await http.post(CHAT, json=BODY) for _ in range(4)]
        assert {response.status_code for response in refused} == {429}
        assert {response.json()["error"]["code"] for response in refused} == {"queue_full"}
        waits = [float(response.headers["retry-after-ms"]) for response in refused]
        assert waits == sorted(set(waits)), "one after the other"
        assert world.backend.arrivals == QUEUE_MAX + 1, "only the first of them had to ask the broker"
        for task in asking:
            task.cancel()
    with pytest.raises(openai.RateLimitError) as error:
        async with world.openai as client:
            await client.chat.completions.create(**BODY)
    assert float(error.value.response.headers["retry-after"]) >= 1


def places(lines: list[str]) -> list[int]:
    """The places told so far."""
    found = [re.fullmatch(r": queued position=(\d+)( eta=\d+)?", line) for line in lines]
    return [int(match[1]) for match in found if match]


def eta(lines: list[str]) -> str:
    """What was told with the last place."""
    return next(line for line in reversed(lines) if line.startswith(": queued")).removeprefix(
        ": queued position=0"
    )
