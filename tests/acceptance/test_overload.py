"""Ten times more than can be run, at two edges: every request is accepted or refused, nothing waits beyond the bound,
and whatever was accepted completes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import httpx

from bench.system import System
from bench.transcript import MODEL, expected
from infra.bus import Bus
from infra.jetstream import JetStream
from schemas import subjects
from schemas.dispatch import decode_pull
from schemas.streams import REQUESTS
from tests.acceptance.conftest import StartSystem
from tests.acceptance.tap import stream_messages

SLOTS = 8
ITL_MS = 25
TOKENS = 20
CAPACITY_PER_S = SLOTS / (TOKENS * ITL_MS / 1e3)
OFFERED_PER_S = 10 * CAPACITY_PER_S
OFFER_S = 4.0
BURST_TOKENS = 140
"""They run until all of a burst have been answered, on a busy machine too."""

SAMPLE_S = 0.005


class Got(NamedTuple):
    """What one client got: its status, the error's code, the text."""

    status: int
    code: str
    text: str


@dataclass
class Seen:
    """What was seen beside the clients: messages in REQUESTS, and requests that the engine's worker had at a time."""

    depths: list[int] = field(default_factory=list)
    running: list[int] = field(default_factory=list)


async def ask(http: httpx.AsyncClient, prompt: str, tokens: int, *, stream: bool) -> Got:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "stream": stream,
    }
    answer = await http.post("/v1/chat/completions", json=body)
    if answer.status_code != 200:
        assert answer.headers["retry-after"]
        return Got(answer.status_code, answer.json()["error"]["code"], "")
    if not stream:
        return Got(200, "", answer.json()["choices"][0]["message"]["content"])
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert not [chunk for chunk in chunks if "error" in chunk]
    return Got(200, "", "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks))


def prompt_of(name: str, number: int) -> str:
    return f"{name} {number}"


async def offer(system: System, name: str, count: int, every_s: float, tokens: int) -> tuple[list[Got], Seen]:
    """Clients that do not wait for each other, each on a connection of its own, so that both edges get them."""
    seen = Seen()
    bus = await Bus.connect(system.nats_url, name="watch", fail=print)
    bus.subscribe(subjects.PULL, lambda _s, _r, _h, payload: seen.running.append(running_of(payload)))
    watching = asyncio.create_task(watch(JetStream(bus), seen))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    try:
        async with httpx.AsyncClient(base_url=system.url, timeout=60, limits=limits) as http:
            clients = []
            begun = asyncio.get_running_loop().time()
            for number in range(count):
                prompt = prompt_of(name, number)
                asked = ask(http, prompt, tokens, stream=number % 2 == 0)
                clients.append(asyncio.create_task(asked))
                due = begun + (number + 1) * every_s
                await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            return await asyncio.gather(*clients), seen
    finally:
        watching.cancel()
        await bus.close()


async def watch(js: JetStream, seen: Seen) -> None:
    while True:
        seen.depths.append(await js.queue_depth(REQUESTS))
        await asyncio.sleep(SAMPLE_S)


def running_of(payload: bytes) -> int:
    pull = decode_pull(payload)
    return pull.slots - pull.free


def overload(system: System, name: str) -> tuple[list[Got], Seen]:
    count = int(OFFERED_PER_S * OFFER_S)
    got, seen = asyncio.run(offer(system, name, count, 1 / OFFERED_PER_S, TOKENS))
    assert_accounted(name, got, TOKENS)
    assert max(seen.running) <= SLOTS
    assert len(seen.depths) > 100, "looked at often"
    accepted = sum(one.status == 200 for one in got)
    assert accepted >= CAPACITY_PER_S * OFFER_S / 2, "what can be run is run"
    assert edges_of(system) == {process.id for process in system.processes("edge")}
    print(f"{name}: {Counter((one.status, one.code) for one in got)}, depth at most {max(seen.depths)}")
    return got, seen


def assert_accounted(name: str, got: list[Got], tokens: int) -> None:
    """Accepted and refused are all that were offered, and what was accepted is right to the last byte."""
    statuses = Counter(one.status for one in got)
    assert statuses[200] + statuses[429] + statuses[503] == len(got)
    wrong = [
        number
        for number, one in enumerate(got)
        if one.status == 200 and one.text != expected(prompt_of(name, number), tokens)
    ]
    assert not wrong


def codes(got: list[Got]) -> set[str]:
    return {one.code for one in got if one.status != 200}


def edges_of(system: System) -> set[str]:
    """Those that answered a request."""
    lines = [json.loads(line) for line in system.log_path.read_text().splitlines() if line.startswith("{")]
    return {line["id"] for line in lines if line["event"] == "request"}


def test_a_small_queue(start_system: StartSystem) -> None:
    queue_max = 3 * SLOTS
    system = start_system(edges=2, slots=SLOTS, itl_ms=ITL_MS, ttft_ms=0, queue_max=queue_max)
    got, seen = overload(system, "queue")
    assert codes(got) == {"queue_full"}
    assert max(seen.depths) == queue_max


def test_a_bound_of_the_tenant(start_system: StartSystem) -> None:
    bound = 3 * SLOTS
    system = start_system(edges=2, slots=SLOTS, itl_ms=ITL_MS, ttft_ms=0, tenant_queue_max=bound)
    got, seen = overload(system, "tenant")
    assert codes(got) == {"quota_exceeded"}
    # A request that has its END is not counted any more, while its message leaves the queue with the worker's ack.
    assert bound <= max(seen.depths) <= bound + SLOTS


def test_without_a_queue_exactly_the_slots_are_used(start_system: StartSystem) -> None:
    system = start_system(edges=2, slots=SLOTS, itl_ms=ITL_MS, ttft_ms=0, queue_mode="reject")
    for round_ in range(3):
        name, tokens = f"burst {round_}", BURST_TOKENS
        # A worker acks after its clients have their ends.
        system.wait_until(lambda: not stream_messages(system.nats_url, REQUESTS), "nothing is queued")
        got, seen = asyncio.run(offer(system, name, 10 * SLOTS, 0.0, tokens))
        assert_accounted(name, got, tokens)
        assert Counter((one.status, one.code) for one in got) == {
            (200, ""): SLOTS,
            (429, "no_slot"): 9 * SLOTS,
        }
        assert max(seen.running) == SLOTS
        assert max(seen.depths) == SLOTS
    got, seen = overload(system, "reject")
    assert codes(got) == {"no_slot"}
    assert max(seen.depths) <= 2 * SLOTS
