"""The same request stored once more after its run is over, through real processes: it costs an ack and nothing else.

It happens when a run ends between an edge's look for it and that edge's publish, and nobody remembers the message's id.
"""

from __future__ import annotations

import asyncio
import os

from infra.bus import Bus
from infra.jetstream import JetStream
from infra.output_log import OutputLog
from schemas import subjects
from schemas.ids import ANONYMOUS, model_key, request_id
from schemas.output import End
from schemas.streams import REQUESTS
from tests.acceptance.conftest import StartSystem

BODY = b'{"prompt":"rivers","max_tokens":20}'
COPIES = 20


async def test_a_second_message_of_a_finished_request_is_only_acked(start_system: StartSystem) -> None:
    system = start_system(ttft_ms=1, itl_ms=1)
    bus = await Bus.connect(system.nats_url, name="test", fail=print)
    js = JetStream(bus)
    log = OutputLog(js)
    rid = request_id(os.urandom(16))
    subject = subjects.request("standard", model_key("penstock-sim"), ANONYMOUS, rid)

    async def store() -> None:
        assert (await js.publish(subject, BODY)).stored
        async with asyncio.timeout(15):
            while await js.queue_depth(REQUESTS):
                await asyncio.sleep(0.01)

    await store()
    once = await log.read(ANONYMOUS, rid)
    assert isinstance(once[-1].record, End)
    assert once[-1].record.status == "ok"
    for _ in range(COPIES):
        await store()
    assert await log.read(ANONYMOUS, rid) == once, "not one record more"
    await bus.close()
