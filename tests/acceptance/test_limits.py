"""What clients meet at the bounds: a full queue, a client that leaves, a drain."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import httpx
import pytest

from bench.system import System
from bench.transcript import MODEL, assert_whole, expected, stream
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.output_log import OutputLog
from schemas.ids import ANONYMOUS
from schemas.output import End, Lease
from tests.acceptance.conftest import StartSystem

QUEUE_MAX = 4


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    """One slot, so that it is easy to keep busy."""
    return start_system(slots=1, queue_max=QUEUE_MAX, itl_ms=20, ttft_ms=0)


def body(prompt: str, tokens: int, **fields: object) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": MODEL, "messages": messages, "max_tokens": tokens, **fields}


def read(system: System, what: Callable[[JetStream], Any]) -> Any:
    """What `what(js)` finds on the broker."""

    async def connected() -> Any:
        bus = await Bus.connect(system.nats_url, name="test", fail=print)
        try:
            return await what(JetStream(bus))
        finally:
            await bus.close()

    return asyncio.run(connected())


def free_slots(system: System) -> int:
    return int(httpx.get(f"{system.url}/health").json()["models"][0]["free"])


def wait_queued(system: System, count: int) -> None:
    def are_queued() -> bool:
        return bool(read(system, lambda js: js.queue_depth("REQUESTS")) == count)

    system.wait_until(are_queued, f"{count} are queued or run")


@contextmanager
def occupied(system: System, prompt: str) -> Iterator[str]:
    """Somebody has the only slot, and goes at the end of the block; the rid."""
    system.wait_until(lambda: free_slots(system) == 1, "the slot is free before")
    wait_queued(system, 0)
    request = body(prompt, 3000, stream=True)
    with httpx.stream("POST", f"{system.url}/v1/chat/completions", json=request, timeout=60) as response:
        assert response.status_code == 200, response.read()
        system.wait_until(lambda: free_slots(system) == 0, "the slot is taken")
        yield response.headers["x-request-id"]


@contextmanager
def asked(system: System, prompt: str) -> Iterator[None]:
    """A request whose whole answer is waited for in the block; then its client goes."""
    url = httpx.URL(system.url)
    with closing(http.client.HTTPConnection(url.host, url.port or 80, timeout=60)) as connection:
        told = json.dumps(body(prompt, 3000)).encode()
        connection.request("POST", "/v1/chat/completions", told, {"Content-Type": "application/json"})
        yield


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_cancels_its_request_and_frees_the_slot(system: System, streams: bool) -> None:
    rids: list[str] = []
    if streams:
        with occupied(system, "leaving") as rid:
            rids.append(rid)
    else:
        system.wait_until(lambda: free_slots(system) == 1, "the slot is free before")
        with asked(system, "leaving"):
            system.wait_until(lambda: free_slots(system) == 0, "the slot is taken")
    system.wait_until(lambda: free_slots(system) == 1, "the slot is free again", within_s=10)
    if rids:
        entry = read(system, lambda js: OutputLog(js).last_ctl(ANONYMOUS, rids[0]))
        assert isinstance(entry.record, End)
        assert entry.record.status == "cancelled"
    wait_queued(system, 0)


def test_a_client_that_leaves_while_it_waits_is_never_run(system: System) -> None:
    with occupied(system, "running") as rid:
        with asked(system, "never"):
            wait_queued(system, 2)
        wait_queued(system, 1)
        entry = read(system, lambda js: OutputLog(js).last_ctl(ANONYMOUS, rid))
        assert isinstance(entry.record, Lease), "the other one goes on"


def test_a_full_queue_is_429_and_what_was_accepted_completes(system: System) -> None:
    """The last one in this system: whom it turns away it expects back, and keeps places for."""
    url = f"{system.url}/v1/chat/completions"

    def post(number: int) -> tuple[int, str]:
        response = httpx.post(url, json=body(f"burst {number}", 20), timeout=60)
        if response.status_code == 429:
            assert float(response.headers["retry-after"]) > 0
            assert response.json()["error"]["code"] == "queue_full"
            return 429, ""
        return response.status_code, str(response.json()["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(12) as pool:
        with occupied(system, "first"):
            posts = [pool.submit(post, number) for number in range(12)]
            system.wait_until(
                lambda: sum(one.done() for one in posts) > 12 - QUEUE_MAX,
                "all know whether they were accepted",
            )
        answers = [one.result() for one in posts]
    counts = Counter(status for status, _ in answers)
    assert counts == {200: QUEUE_MAX - 1, 429: 12 - (QUEUE_MAX - 1)}, (
        "one has the slot, the others wait for it"
    )
    for number, (status, text) in enumerate(answers):
        if status == 200:
            assert text == expected(f"burst {number}", 20)


def test_a_body_over_the_limit_is_413(start_system: StartSystem) -> None:
    small = start_system(request_bytes_max=10_000)
    url = f"{small.url}/v1/chat/completions"
    raw = json.dumps(body("x" * 20_000, 1)).encode()
    whole = httpx.post(url, content=raw)
    assert whole.status_code == 413
    assert "10000" in whole.json()["error"]["message"]

    def chunks() -> Any:
        for start in range(0, len(raw), 1000):
            yield raw[start : start + 1000]

    assert httpx.post(url, content=chunks()).status_code == 413, "also when the length is not told"


def test_a_drain_lets_streams_finish(start_system: StartSystem) -> None:
    leaving = start_system(itl_ms=10, ttft_ms=0)
    started: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(stream, leaving.url, "drain", 150, lambda rid, _pieces: started.append(rid))
        leaving.wait_until(lambda: started, "the stream flows")
        assert leaving.stop() == 0
        assert_whole(future.result(), "drain", 150)
