"""Nothing grows with uptime: results expire, and after a load every process is as large as before it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from bench.system import System
from bench.transcript import MODEL, assert_whole, expected, stream
from tests.acceptance.conftest import StartSystem
from tests.acceptance.tap import assert_clean, stream_messages

CHAT = "/v1/chat/completions"
REQUESTS = 2000
TOKENS = 12
CLIENTS = 16
SETTLE_TIMEOUT_S = 40.0
POLL_S = 0.05
GROWTH_MAX = 0.05
GROWTH_MAX_KB = 2048
"""A short load also moves the allocator's high-water mark by a page run or two."""

SHORT_LIVED = {"queue_timeout_s": 4, "request_timeout_s": 4, "request_timeout_max_s": 4, "result_ttl_s": 1}
"""A log is kept for the two last together: long enough to be read once the last of a few has ended."""


def test_a_result_can_be_read_for_its_time_and_is_gone_after_it(start_system: StartSystem) -> None:
    system = start_system(itl_ms=1, ttft_ms=1, **SHORT_LIVED)
    transcripts = [stream(system.url, f"short-lived {number}", TOKENS) for number in range(5)]
    for number, transcript in enumerate(transcripts):
        assert_whole(transcript, f"short-lived {number}", TOKENS)
    ended = time.monotonic()
    logs = assert_clean(system.nats_url, [transcript.rid for transcript in transcripts])
    assert logs[transcripts[-1].rid].text[0] == transcripts[-1].text
    while stream_messages(system.nats_url, "OUTPUT"):
        assert time.monotonic() - ended < SETTLE_TIMEOUT_S, "the logs are kept for longer than they should"
        time.sleep(POLL_S)
    assert time.monotonic() - ended > SHORT_LIVED["result_ttl_s"], "they were there for as long as promised"


class Footprint(NamedTuple):
    """What could grow. Memory in KB and open files by process name (the broker's own come and go with its blocks and
    its collector); the rest are counts, by the broker."""

    rss_kb: dict[str, int]
    files: dict[str, int]
    subscriptions: int
    connections: int
    consumers: int
    streams: int


def footprint(system: System) -> Footprint:
    rss_kb, files = {}, {}
    for process in system.processes():
        if process.role == "broker":
            continue
        status = Path(f"/proc/{process.pid}/status").read_text()
        rss_kb[process.name] = int(status.partition("VmRSS:")[2].split()[0])
        files[process.name] = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
    jetstream = httpx.get(f"{system.monitor_url}/jsz").json()
    server = httpx.get(f"{system.monitor_url}/varz").json()
    return Footprint(
        rss_kb,
        files,
        server["subscriptions"],
        server["connections"],
        jetstream["consumers"],
        jetstream["streams"],
    )


def run_load(system: System, name: str, requests: int) -> None:
    """Short chats, half of them streamed; each is checked. Every tenth client leaves in mid-stream first."""

    async def one(http: httpx.AsyncClient, number: int) -> None:
        prompt = f"{name} {number}"
        body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
        if number % 10 == 0:
            async with http.stream(
                "POST", CHAT, json={**body, "max_tokens": 3000, "stream": True}
            ) as leaving:
                await anext(leaving.aiter_lines())
        streams = number % 2 == 0
        answer = await http.post(CHAT, json={**body, "max_tokens": TOKENS, "stream": streams})
        assert answer.status_code == 200, answer.text
        if streams:
            assert answer.text.endswith("data: [DONE]\n\n")
        else:
            assert answer.json()["choices"][0]["message"]["content"] == expected(prompt, TOKENS)

    async def client(http: httpx.AsyncClient, numbers: list[int]) -> None:
        for number in numbers:
            await one(http, number)

    async def everything() -> None:
        async with httpx.AsyncClient(base_url=system.url, timeout=60) as http, asyncio.TaskGroup() as clients:
            for first in range(CLIENTS):
                clients.create_task(client(http, list(range(first, requests, CLIENTS))))

    asyncio.run(everything())


def settled(system: System) -> Footprint:
    """The footprint once the queue, the output logs and the connections of the load are gone: what was closed last is
    counted for a moment still, so two looks have to see the same."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while any(stream_messages(system.nats_url, stream) for stream in ("REQUESTS", "OUTPUT")):
        assert time.monotonic() < deadline, "requests or logs stay behind"
        time.sleep(POLL_S)
    before, now = None, footprint(system)
    while before is None or before[1:] != now[1:]:
        assert time.monotonic() < deadline, f"{now} does not come to rest"
        time.sleep(10 * POLL_S)
        before, now = now, footprint(system)
    return now


@pytest.mark.timeout(180)
@pytest.mark.slow
def test_a_second_load_leaves_everything_as_the_first_left_it(
    start_system: StartSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    system = start_system(itl_ms=1, ttft_ms=1, **SHORT_LIVED)
    run_load(system, "warm up", 100)
    run_load(system, "first", REQUESTS)
    first = settled(system)
    run_load(system, "second", REQUESTS)
    second = settled(system)
    with capsys.disabled():
        print(f"\nafter {REQUESTS} requests  {first}\nafter {REQUESTS} more  {second}")
    assert second.streams == first.streams
    assert second.consumers == first.consumers
    assert second.connections == first.connections
    assert second.subscriptions == first.subscriptions
    assert second.files == first.files
    for name, before_kb in first.rss_kb.items():
        growth_kb = second.rss_kb[name] - before_kb
        assert growth_kb <= before_kb * GROWTH_MAX + GROWTH_MAX_KB, f"{name} grew by {growth_kb} KB"
