"""A whole worker on a scripted upstream: what becomes of requests when the upstream has a bad day."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from infra.broker import Broker
from infra.bus import Bus
from infra.settings import load_settings
from schemas import streams, subjects
from schemas.ids import ANONYMOUS
from schemas.output import End, Failed, Lease
from tests.integration.scripted_upstream import (
    Answer,
    Asked,
    ScriptedUpstream,
    saying,
    scripted_upstream,
    telling,
    words_of,
)
from tests.integration.worker_under_test import MODEL, Stage, until

RID = "r0000000000000000000000001"
KEY = "sk-a-secret"


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream() as upstream:
        yield upstream


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    settings = load_settings({"store_dir": tmp_path / "store", "broker_port": 0, "broker_monitor_port": 0})
    with Broker(settings) as broker:
        bus = await Bus.connect(broker.url, name="test", fail=print)
        stage = Stage(broker, bus, tmp_path / "worker.log")
        await stage.js.ensure_stream(streams.requests_stream(queue_max=1000, queue_bytes_max=64 << 20))
        first_seq = int(time.time() * 1000) * 1000
        await stage.js.ensure_stream(
            streams.output_stream(output_bytes_max=64 << 20, retention_s=60, first_seq=first_seq)
        )
        await stage.js.ensure_stream(streams.dead_stream(dead_bytes_max=64 << 20, dead_ttl_s=60))
        for spec in streams.consumers_of(MODEL, ack_wait_s=10, queue_max=1000):
            await stage.js.ensure_consumer(spec)
        yield stage
        await stage.close()
        await bus.close()


async def start(stage: Stage, upstream: ScriptedUpstream, **settings: object) -> None:
    named = {"engine": "openai", "upstream": upstream.url, "model": MODEL, "upstream_api_key": KEY}
    await stage.start_worker(**(named | settings))


async def ask(stage: Stage, **fields: Any) -> End:
    """One request to its END."""
    await stage.request(RID, json.dumps({"messages": [{"role": "user", "content": "hi"}], **fields}).encode())
    return await stage.ended(RID, within_s=60)


async def failures(stage: Stage) -> list[str]:
    """What the log says of attempts that failed."""
    entries = await stage.log.read(ANONYMOUS, RID)
    return [entry.record.error for entry in entries if isinstance(entry.record, Failed)]


async def attempts(stage: Stage) -> int:
    entries = await stage.log.read(ANONYMOUS, RID)
    return sum(isinstance(entry.record, Lease) for entry in entries)


async def text(stage: Stage) -> str:
    return "".join((await stage.read(RID)).texts)


async def test_not_now_is_no_failure(stage: Stage, upstream: ScriptedUpstream) -> None:
    upstream.script = [saying(429, retry_after_ms="200"), saying(503), saying(502)]
    await start(stage, upstream)
    end = await ask(stage, max_tokens=12)
    assert (end.status, end.finish_reasons) == ("ok", ["length"])
    assert end.usage is not None
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (3, 12)
    assert await text(stage) == "".join(words_of(upstream.asked[-1].fields))
    assert await attempts(stage) == 1
    assert upstream.asked[1].at - upstream.asked[0].at >= 0.2
    assert await failures(stage) == []


async def test_503_until_the_request_is_over_is_expired_and_not_failed(
    stage: Stage, upstream: ScriptedUpstream
) -> None:
    upstream.then = saying(503, "overloaded")
    await start(stage, upstream, request_timeout_s=3)
    end = await ask(stage)
    assert (end.status, end.reason) == ("expired", "request_timeout")
    assert len(upstream.asked) >= 3
    assert await failures(stage) == []
    asked = len(upstream.asked)
    upstream.then = telling()
    await stage.until_settled()
    await until(lambda: stage.pulls[-1].free == stage.pulls[-1].slots)
    assert len(upstream.asked) == asked, "a request that is over is not asked again"


async def test_a_cut_stream_is_made_again_and_goes_on_exactly(
    stage: Stage, upstream: ScriptedUpstream
) -> None:
    upstream.script = [telling(itl_s=0.01, cut_at=17), telling(itl_s=0.002, cut_at=23)]
    await start(stage, upstream)
    end = await ask(stage, max_tokens=40)
    assert end.status == "ok"
    assert await text(stage) == "".join(words_of(upstream.asked[-1].fields))
    assert len(upstream.asked) == 3
    assert len({asked.fields["seed"] for asked in upstream.asked}) == 1, "the seed is the request's"
    assert end.usage is not None
    assert end.usage.completion_tokens == 40, "each token counts once"
    assert len(await failures(stage)) == 2


async def test_an_upstream_that_says_something_else_ends_the_request(
    stage: Stage, upstream: ScriptedUpstream
) -> None:
    upstream.script = [telling(itl_s=0.01, cut_at=17)]
    upstream.then = telling(itl_s=0.01, salt="another model")
    await start(stage, upstream)
    end = await ask(stage, max_tokens=40)
    assert (end.status, end.reason) == ("error", "not_continuable")
    assert "did not repeat" in end.message
    words = words_of(upstream.asked[0].fields)
    assert "".join(words[:17]).startswith(await text(stage)), "nothing of the second answer is in the log"


async def test_an_upstream_without_seeds_cannot_repeat_what_it_sampled(
    stage: Stage, upstream: ScriptedUpstream
) -> None:
    upstream.script = [saying(400, "unknown field: seed"), telling(itl_s=0.01, cut_at=5)]
    await start(stage, upstream)
    end = await ask(stage)
    assert (end.status, end.reason) == ("error", "not_continuable")
    assert "takes no seed" in end.message
    assert len(upstream.asked) == 2


async def test_cancel_closes_the_stream(stage: Stage, upstream: ScriptedUpstream) -> None:
    gone: list[float] = []

    async def endless(asked: Asked) -> None:
        await asked.open()
        await asked.event(delta={"content": "word "})
        gone.append(await asked.gone())

    upstream.then = endless
    await start(stage, upstream, slots=1)
    took_s = []
    for number in range(3):
        rid = f"{RID[:-1]}{number}"
        await stage.request(rid, b'{"prompt":"x"}')
        async with asyncio.timeout(20):
            while not (await stage.read(rid)).ids:
                await asyncio.sleep(0.01)
        await stage.log.close(ANONYMOUS, rid, End(status="cancelled", reason="cancelled"))
        hinted_at = time.monotonic()
        stage.bus.publish(subjects.cancel(ANONYMOUS, rid))
        await until(lambda number=number: len(gone) > number)  # type: ignore[misc]
        took_s.append(gone[number] - hinted_at)
        await stage.until_settled()
        await until(lambda: stage.pulls[-1].free == 1)
    assert min(took_s) < 1, took_s


async def test_a_refused_key_is_the_operators_mistake(stage: Stage, upstream: ScriptedUpstream) -> None:
    upstream.then = saying(401, f"Incorrect API key provided: {KEY}")
    await start(stage, upstream)
    end = await ask(stage)
    assert (end.status, end.reason) == ("error", "poison")
    errors = await failures(stage)
    assert len(errors) == 3
    assert all("upstream_api_key" in error for error in errors)
    assert upstream.asked[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in stage.log_path.read_text() + "".join(errors)


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        (saying(400, "temperature must be at most 2"), "bad_request", "temperature must be at most 2"),
        (saying(400, "maximum context length is 64 tokens"), "context_length", "64 tokens"),
        (saying(404, "The model `m` does not exist"), "model_not_found", "does not exist"),
    ],
)
async def test_the_clients_mistakes_are_told_to_it(
    stage: Stage, upstream: ScriptedUpstream, answer: Answer, reason: str, words: str
) -> None:
    upstream.then = answer
    await start(stage, upstream)
    end = await ask(stage)
    assert (end.status, end.reason) == ("error", reason)
    assert words in end.message
    assert await attempts(stage) == 1


async def _malformed(asked: Asked) -> None:
    await asked.open()
    await asked.send(b'data: {"choices":[{"delta":{"content":"never \xff\xfe"}}]}\n\ndata: [DONE]\n\n')


async def _closed_too_early(asked: Asked) -> None:
    await asked.open()


async def _without_lines(asked: Asked) -> None:
    await asked.open()
    while True:
        await asked.send(b"x" * 65536)


@pytest.mark.parametrize("answer", [_malformed, _closed_too_early, _without_lines])
async def test_what_is_no_answer_is_asked_for_again(
    stage: Stage, upstream: ScriptedUpstream, answer: Answer
) -> None:
    upstream.script = [answer, answer]
    await start(stage, upstream)
    end = await ask(stage)
    assert end.status == "ok"
    assert await text(stage) == "".join(words_of(upstream.asked[-1].fields))
    assert len(await failures(stage)) == 2


async def test_a_slow_upstream_is_no_hung_engine(stage: Stage, upstream: ScriptedUpstream) -> None:
    async def slow(asked: Asked) -> None:
        await asyncio.sleep(4)
        await telling()(asked)

    upstream.then = slow
    await start(stage, upstream, step_s_max=1)
    end = await ask(stage)
    assert (end.status, end.attempts) == ("ok", 1)
