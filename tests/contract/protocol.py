"""The protocol's publishes, by hand, and what the contract tests share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from infra.bus import Bus
from infra.jetstream import JetStream, PubAck, expect_headers, fence_headers
from infra.output_log import OutputLog
from schemas import subjects
from schemas.output import CtlRecord, Delta, Lease, Tok, encode
from schemas.streams import output_stream, requests_stream

QUEUE_MAX = 3
OUTPUT_BYTES_MAX = 256 << 10


class Contract:
    """One connection and the publishes that edges and workers make, one at a time."""

    tenant = "public"
    model = "m"

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.js = JetStream(bus)
        self.log = OutputLog(self.js)

    async def streams(self) -> None:
        await self.js.ensure_stream(requests_stream(queue_max=QUEUE_MAX, queue_bytes_max=1 << 20))
        await self.js.ensure_stream(
            output_stream(
                output_bytes_max=OUTPUT_BYTES_MAX, retention_s=60, first_seq=int(time.time() * 1000) * 1000
            )
        )

    async def request(self, rid: str, body: bytes = b"{}", *, headers: bytes = b"") -> PubAck:
        subject = subjects.request("standard", self.model, self.tenant, rid)
        return await self.js.publish(subject, body, headers=headers)

    async def ctl(self, rid: str, record: CtlRecord, expected: int) -> PubAck:
        subject = subjects.output_ctl(self.tenant, rid)
        return await self.js.publish(subject, encode(record), headers=expect_headers(expected))

    async def tok(self, rid: str, lease_seq: int, off: int, text: str = "x") -> PubAck:
        record = Tok(lease=lease_seq, off=off, ids=[off], deltas=[Delta(text)])
        fence = fence_headers(lease_seq, subjects.output_ctl(self.tenant, rid))
        return await self.js.publish(subjects.output_tok(self.tenant, rid), encode(record), headers=fence)


def lease(nonce: str = "a", attempt: int = 1) -> Lease:
    """A lease record with nothing special about it."""
    return Lease(nonce=nonce, worker="w1", attempt=attempt, cause="first")


async def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Waits for `condition` to hold; fails loudly when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)
