"""What a stranger with nats-py sees of the broker: every record of OUTPUT, and how much the streams hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import nats
from nats.js.api import DeliverPolicy

from bench.audit import Log, Stored, logs_of, offences
from schemas import subjects

READ_TIMEOUT_S = 30.0
SETTLE_TIMEOUT_S = 20.0
"""An ack that was lost is made up for at the next delivery, after the ack wait."""

POLL_S = 0.05


def stream_messages(nats_url: str, stream: str) -> int:
    """Messages a stream holds now."""

    async def ask() -> int:
        client = await nats.connect(nats_url)
        try:
            return int((await client.jetstream().stream_info(stream)).state.messages)
        finally:
            await client.close()

    return asyncio.run(ask())


def output_records(nats_url: str) -> list[Stored]:
    """Every record in OUTPUT, in stream order."""
    return asyncio.run(_read_output(nats_url))


def output_logs(nats_url: str) -> dict[str, Log]:
    """Every log in OUTPUT, by rid, read in stream order by an ordered consumer."""
    return logs_of(output_records(nats_url))


def assert_clean(nats_url: str, rids: Iterable[str]) -> dict[str, Log]:
    """The invariants that a log shows (I1-I5, I7): nothing is queued, and every rid's log ended once and in order."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while stream_messages(nats_url, "REQUESTS"):
        assert time.monotonic() < deadline, "I2: what has ended does not leave the queue"
        time.sleep(POLL_S)
    logs = output_logs(nats_url)
    missing = [rid for rid in rids if rid not in logs]
    assert not missing, f"requests without a log: {missing}"
    assert not offences(logs)
    return logs


async def _read_output(nats_url: str) -> list[Stored]:
    client = await nats.connect(nats_url)
    try:
        js = client.jetstream()
        count = (await js.stream_info("OUTPUT")).state.messages
        if not count:
            return []
        subscription = await js.subscribe(
            subjects.OUTPUT_ALL, ordered_consumer=True, deliver_policy=DeliverPolicy.ALL
        )
        records: list[Stored] = []
        async with asyncio.timeout(READ_TIMEOUT_S):
            async for message in subscription.messages:
                records.append(Stored(message.metadata.sequence.stream, message.subject, message.data))
                if message.metadata.num_pending == 0:
                    break
        return records
    finally:
        await client.close()
