"""The worker as a process, alone on a real broker: full streams, letters that cannot be stored."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from infra.broker import Broker
from infra.bus import Bus
from infra.settings import load_settings
from schemas import streams, subjects
from schemas.ids import ANONYMOUS
from tests.integration.worker_under_test import MODEL, Stage, until
from workers.engines.simulator import reference_text

OUTPUT_BYTES_MAX = 512 << 10
RETENTION_S = 4.0


@pytest.fixture
async def stage(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    """Its parameter is how long OUTPUT keeps what it has."""
    settings = load_settings({"store_dir": tmp_path / "store", "broker_port": 0, "broker_monitor_port": 0})
    with Broker(settings) as broker:
        bus = await Bus.connect(broker.url, name="test", fail=print)
        stage = Stage(broker, bus, tmp_path / "worker.log")
        await stage.js.ensure_stream(streams.requests_stream(queue_max=1000, queue_bytes_max=64 << 20))
        await stage.js.ensure_stream(
            streams.output_stream(
                output_bytes_max=OUTPUT_BYTES_MAX,
                retention_s=getattr(request, "param", RETENTION_S),
                first_seq=int(time.time() * 1000) * 1000,
            )
        )
        for spec in streams.consumers_of(MODEL, ack_wait_s=10, queue_max=1000):
            await stage.js.ensure_consumer(spec)
        yield stage
        await stage.close()
        await bus.close()


def rid(i: int) -> str:
    return f"r{i:025d}"


def body(prompt: str, tokens: int, **more: object) -> bytes:
    return msgspec.json.encode({"prompt": prompt, "max_tokens": tokens, **more})


def lines(stage: Stage, event: str) -> list[dict[str, object]]:
    """What the worker logged under `event`."""
    parsed = [json.loads(line) for line in stage.log_path.read_text().splitlines()]
    return [line for line in parsed if line["event"] == event]


async def _used(stage: Stage) -> float:
    info = await stage.bus.request(subjects.js_stream("INFO", streams.OUTPUT), timeout_s=5)
    return float(msgspec.json.decode(info.payload)["state"]["bytes"]) / OUTPUT_BYTES_MAX


async def fill(stage: Stage, share: float) -> None:
    """Another request's log takes up that much of OUTPUT."""
    while await _used(stage) < share:
        ack = await stage.js.publish(subjects.output_tok(ANONYMOUS, rid(999)), b"x" * 4096)
        assert ack.stored


async def expire(stage: Stage) -> None:
    """That log is there no longer."""
    body = msgspec.json.encode({"filter": subjects.output_tok(ANONYMOUS, rid(999))})
    await stage.bus.request(subjects.js_stream("PURGE", streams.OUTPUT), body, timeout_s=5)


@pytest.mark.parametrize(
    ("stage", "is_told"),
    [(600.0, True), (RETENTION_S, False)],
    indirect=["stage"],
    ids=["the leader tells", "nobody tells"],
)
async def test_a_full_output_ends_what_runs_and_recovers_by_itself(stage: Stage, is_told: bool) -> None:
    count, tokens, used = 12, 1000, 0.0

    async def measure() -> None:
        nonlocal used
        while True:
            used = await _used(stage)
            await asyncio.sleep(0.01)

    measuring = asyncio.create_task(measure())
    if is_told:
        stage.output_used = lambda: used
        await fill(stage, 0.7)
    # Who is told stops at a twentieth of the stream before its end: that is to take longer than a word of it takes, and
    # than a busy machine pauses.
    await stage.start_worker(
        slots=count, itl_ms=150 if is_told else 2, log_level="debug", append_timeout_s=0.5
    )
    for i in range(count):
        await stage.request(rid(i), body(f"fills {i}", tokens))
    first = [await stage.ended(rid(i), within_s=60) for i in range(count)] if is_told else []
    await stage.until_settled(within_s=60)
    if is_told:
        assert {end.reason for end in first} == {"output_full"}, "ended while there was room for END"
    else:
        settled = lines(stage, "settled")
        assert len({line["rid"] for line in settled if line["outcome"] == "ended"}) == count
    refused = [line for line in lines(stage, "publish refused") if line["err_code"] == 10077]
    assert bool(refused) != is_told, "told in time, nothing is refused; untold, something is"
    assert len(refused) < count * 60 / 2, "a refusal is no reason to hurry"

    if is_told:
        await expire(stage)
    async with asyncio.timeout(60):
        while await _used(stage) > 0.5:
            await asyncio.sleep(0.05)
    await until(lambda: stage.pulls[-1].free == count)
    await stage.request(rid(100), body("after", 20))
    assert (await stage.ended(rid(100))).status == "ok"
    assert (await stage.read(rid(100))).texts == [reference_text("after", 0, 20)]
    await stage.until_settled()
    measuring.cancel()


async def _poisoned(stage: Stage, request: bytes) -> None:
    await stage.request(rid(1), request)
    end = await stage.ended(rid(1))
    assert (end.status, end.reason) == ("error", "poison")
    await stage.until_settled()


async def test_a_poisoned_request_is_copied_to_dead_once(stage: Stage) -> None:
    await stage.js.ensure_stream(streams.dead_stream(dead_bytes_max=64 << 20, dead_ttl_s=60))
    await stage.start_worker()
    request = body("raises", 8, penstock_fault={"raise_at_token": 0})
    await _poisoned(stage, request)
    (copy,) = await stage.js.read(streams.DEAD, subjects.DEAD_ALL)
    assert copy.subject == subjects.dead(MODEL, ANONYMOUS, rid(1))
    assert copy.payload == request


async def test_without_dead_a_poisoned_request_ends_all_the_same_and_the_log_says_so(stage: Stage) -> None:
    await stage.start_worker(append_timeout_s=0.3)
    await _poisoned(stage, body("raises", 8, penstock_fault={"raise_at_token": 0}))
    (line,) = lines(stage, "a poisoned request ends without a copy in DEAD: it cannot be redriven")
    assert (line["level"], line["rid"], line["tries"], line["err_code"]) == ("error", rid(1), 10, 503)


async def test_a_letter_that_the_broker_cannot_take_costs_nobody_the_connection(stage: Stage) -> None:
    """Its body fits a batch, but not with the headers of a letter: larger messages close the connection for good."""
    await stage.js.ensure_stream(streams.dead_stream(dead_bytes_max=64 << 20, dead_ttl_s=60))
    await stage.start_worker()
    empty = body("raises", 8, penstock_fault={"raise_at_token": 0}, pad="")
    pad = stage.bus.max_payload - 700 - len(empty)
    await _poisoned(stage, body("raises", 8, penstock_fault={"raise_at_token": 0}, pad="x" * pad))
    (line,) = lines(stage, "a poisoned request ends without a copy in DEAD: it cannot be redriven")
    assert (line["tries"], line["err_code"]) == (1, 10054)
    await stage.request(rid(2), body("after", 5))
    assert (await stage.ended(rid(2))).status == "ok"
    assert not lines(stage, "disconnected from the broker")
