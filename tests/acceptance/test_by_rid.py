"""Requests cancelled and left by their rid, through real processes: in each state, at whichever of two edges."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from bench.transcript import MODEL, expected
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.output_log import OutputLog
from schemas import subjects
from schemas.dispatch import decode_pull
from schemas.ids import ANONYMOUS
from schemas.output import End
from schemas.streams import REQUESTS
from tests.acceptance.conftest import StartSystem

COMPLETIONS = "/v1/completions"
QUEUED = 20
"""More than the scheduler holds beyond one slot: some of them were never delivered to anybody."""

LONG_TOKENS = 20_000
DELETES = 5
FREED_P50_MAX_S = 0.1


@asynccontextmanager
async def broker_of(nats_url: str) -> AsyncIterator[JetStream]:
    bus = await Bus.connect(nats_url, name="test", fail=print)
    try:
        yield JetStream(bus)
    finally:
        await bus.close()


async def until(condition: Callable[[], Any], within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while not await condition():
            await asyncio.sleep(0.002)


async def rid_of_long_stream(http: httpx.AsyncClient, prompt: str) -> tuple[str, asyncio.Task[str]]:
    """A stream that flows, and the task that reads it to its end."""
    flowing: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def read() -> str:
        body = {"model": MODEL, "prompt": prompt, "max_tokens": LONG_TOKENS, "stream": True}
        async with http.stream("POST", COMPLETIONS, json=body) as response:
            text = ""
            async for line in response.aiter_lines():
                if line.startswith("data: ") and not flowing.done():
                    flowing.set_result(response.headers["x-request-id"])
                text += line + "\n"
            return text

    reading = asyncio.create_task(read())
    return await flowing, reading


class Slot:
    """The only one there is, as the worker's newest pull tells of it."""

    def __init__(self, bus: Bus) -> None:
        self._is_free = False
        bus.subscribe(subjects.PULL, self._on_pull)

    async def is_free(self) -> bool:
        return self._is_free

    async def is_taken(self) -> bool:
        return not self._is_free

    def _on_pull(self, _subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        self._is_free = decode_pull(payload).free > 0


async def delete(http: httpx.AsyncClient, slot: Slot, rid: str, reading: asyncio.Task[str]) -> float:
    """Seconds from the DELETE of a stream that flows to the free slot."""
    await until(slot.is_taken)
    begun = time.monotonic()
    page = (await http.delete(f"/v1/requests/{rid}")).json()
    await until(slot.is_free)
    took_s = time.monotonic() - begun
    assert page["status"] == "cancelled"
    assert page["usage"]["completion_tokens"] > 0
    assert '"code":"cancelled"' in await reading
    return took_s


async def test_delete_of_what_runs_waits_or_was_never_delivered(start_system: StartSystem) -> None:
    system = start_system(edges=2, slots=1, itl_ms=5, ttft_ms=5)
    async with (
        broker_of(system.nats_url) as js,
        httpx.AsyncClient(base_url=system.url, timeout=30) as http,
    ):
        log = OutputLog(js)
        slot = Slot(js.bus)
        running, reading = await rid_of_long_stream(http, "runs")
        body = {"model": MODEL, "prompt": "waits", "max_tokens": 5}
        waiting = [asyncio.create_task(http.post(COMPLETIONS, json=body)) for _ in range(QUEUED)]

        async def queued(count: int) -> bool:
            return await js.queue_depth(REQUESTS) == count

        await until(lambda: queued(1 + QUEUED))
        stored = await js.read(REQUESTS, subjects.REQUESTS_ALL)
        rids: list[str] = [
            parsed.rid for one in stored if (parsed := subjects.parse_request(one.subject)) is not None
        ]
        rids.remove(running)
        for rid in rids:
            assert (await http.get(f"/v1/requests/{rid}")).json()["status"] == "queued"
            assert (await http.delete(f"/v1/requests/{rid}")).json()["status"] == "cancelled"
        for answer in await asyncio.gather(*waiting):
            assert (answer.status_code, answer.json()["error"]["code"]) == (499, "cancelled")
        await until(lambda: queued(1))
        freed_s = [await delete(http, slot, running, reading)]
        for number in range(1, DELETES):
            again, reading = await rid_of_long_stream(http, f"runs {number}")
            freed_s.append(await delete(http, slot, again, reading))
        assert statistics.median(freed_s) < FREED_P50_MAX_S
        await until(lambda: queued(0))
        done = await http.post(COMPLETIONS, json=body)
        done_rid = done.headers["x-request-id"]
        page = (await http.delete(f"/v1/requests/{done_rid}")).json()
        assert (page["status"], page["response"]) == ("completed", done.json())
        for rid in rids:
            [only] = await log.read(ANONYMOUS, rid)
            assert isinstance(only.record, End), "it never cost a lease"
        entries = await log.read(ANONYMOUS, running)
        assert isinstance(entries[-1].record, End)


async def test_a_detached_request_is_there_for_whoever_asks_later(start_system: StartSystem) -> None:
    system = start_system(edges=2, itl_ms=5, ttft_ms=5)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "left"}], "max_tokens": 60}
    async with httpx.AsyncClient(base_url=system.url, timeout=30) as http:
        headers = {"x-penstock-on-disconnect": "detach"}
        path = "/v1/chat/completions"
        async with http.stream("POST", path, json={**body, "stream": True}, headers=headers) as response:
            rid = response.headers["x-request-id"]
            async for line in response.aiter_lines():
                if line.startswith("id: 1-"):
                    break

        async def is_over() -> bool:
            return (await http.get(f"/v1/requests/{rid}")).json()["status"] not in ("queued", "running")

        await until(is_over)
        page = (await http.get(f"/v1/requests/{rid}")).json()
        assert page["status"] == "completed"
        assert page["response"]["choices"][0]["message"]["content"] == expected("left", 60)
