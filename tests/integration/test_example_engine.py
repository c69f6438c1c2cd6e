"""The example engine of docs/engines.md: what the page shows is what runs here, in a worker, across a kill."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from infra.broker import Broker
from infra.bus import Bus
from schemas import streams
from tests.integration.worker_under_test import MODEL, Stage

DOCS = Path(__file__).parents[2] / "docs"
RID = "r" * 26
WORDS = [f"word{i}" for i in range(40)]


@pytest.fixture
async def stage(own_broker: Broker, tmp_path: Path) -> AsyncIterator[Stage]:
    bus = await Bus.connect(own_broker.url, name="test", fail=print)
    stage = Stage(own_broker, bus, tmp_path / "worker.log", program="tests.integration.echo_worker")
    await stage.js.ensure_stream(streams.requests_stream(queue_max=1000, queue_bytes_max=64 << 20))
    await stage.js.ensure_stream(
        streams.output_stream(output_bytes_max=64 << 20, retention_s=60, first_seq=1000)
    )
    for spec in streams.consumers_of(MODEL, ack_wait_s=10, queue_max=1000):
        await stage.js.ensure_consumer(spec)
    yield stage
    await stage.close()
    await bus.close()


def test_the_page_shows_the_file_and_how_it_is_registered() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "engines.md").read_text(), re.DOTALL)
    assert (DOCS / "example_engine.py").read_text() in blocks
    (line,) = [block.strip() for block in blocks if block.startswith("ENGINES[")]
    assert line in (Path(__file__).parent / "echo_worker.py").read_text()


async def test_it_goes_on_after_a_kill_where_the_log_ends(stage: Stage) -> None:
    await stage.start_worker(engine="echo", itl_ms=200)
    await stage.request(RID, msgspec.json.encode({"prompt": " ".join(WORDS), "max_tokens": 30}))

    async with asyncio.timeout(20):
        while len((await stage.read(RID)).ids) < 3:
            await asyncio.sleep(0.01)
    await stage.kill_worker()
    logged = len((await stage.read(RID)).ids)
    assert logged < 30, "it was cut before its end"

    await stage.start_worker(engine="echo", itl_ms=1)
    stage.js.nak(stage.items[-1].ack, 0)
    end = await stage.ended(RID)
    log = await stage.read(RID)
    assert (end.status, end.n, end.attempts) == ("ok", 30, 2)
    assert log.ids == list(range(30))
    assert log.texts == ["".join(f"{word} " for word in WORDS[:30])]
    await stage.until_settled()


async def test_what_it_cannot_read_is_the_client_s_mistake(stage: Stage) -> None:
    await stage.start_worker(engine="echo")
    await stage.request(RID, msgspec.json.encode({"prompt": 5}))
    end = await stage.ended(RID)
    assert (end.status, end.reason) == ("error", "bad_request")
    assert "$.prompt" in end.message
