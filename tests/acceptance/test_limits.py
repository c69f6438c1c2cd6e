"""What clients meet at the bounds: a full queue, a client that leaves, a drain."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from bench.system import System
from bench.transcript import MODEL, assert_whole, expected, stream
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.output_log import OutputLog
from schemas.ids import ANONYMOUS
from schemas.output import End
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


def test_a_full_queue_is_429_and_what_was_accepted_completes(system: System) -> None:
    url = f"{system.url}/v1/chat/completions"

    def post(number: int) -> tuple[int, str]:
        response = httpx.post(url, json=body(f"burst {number}", 20), timeout=60)
        if response.status_code == 429:
            assert float(response.headers["retry-after"]) > 0
            assert response.json()["error"]["code"] == "queue_full"
            return 429, ""
        return response.status_code, str(response.json()["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(post, range(12)))
    counts = Counter(status for status, _ in answers)
    assert set(counts) == {200, 429}
    assert counts[200] >= QUEUE_MAX
    for number, (status, text) in enumerate(answers):
        if status == 200:
            assert text == expected(f"burst {number}", 20)


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_cancels_its_request_and_frees_the_slot(system: System, streams: bool) -> None:
    system.wait_until(lambda: free_slots(system) == 1, "the slot is free before")
    url = f"{system.url}/v1/chat/completions"
    rids: list[str] = []
    if streams:
        with httpx.stream("POST", url, json=body("leaving", 3000, stream=True)) as response:
            rids.append(response.headers["x-request-id"])
            next(response.iter_lines())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=body("leaving", 3000), timeout=0.3)
    system.wait_until(lambda: free_slots(system) == 1, "the slot is free again", within_s=10)
    if rids:
        entry = read(system, lambda js: OutputLog(js).last_ctl(ANONYMOUS, rids[0]))
        assert isinstance(entry.record, End)
        assert entry.record.status == "cancelled"
    assert read(system, lambda js: js.queue_depth("REQUESTS")) == 0


def test_a_client_that_leaves_while_it_waits_is_never_run(system: System) -> None:
    url = f"{system.url}/v1/chat/completions"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(stream, system.url, "running", 100)
        system.wait_until(lambda: free_slots(system) == 0, "the slot is taken")
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=body("never", 3000), timeout=0.3)
        system.wait_until(
            lambda: read(system, lambda js: js.queue_depth("REQUESTS")) == 1, "it left the queue", within_s=10
        )
        assert_whole(running.result(), "running", 100)


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
