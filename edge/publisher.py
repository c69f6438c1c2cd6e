"""Gets a request stored in the queue exactly once, or finds out why not."""

from __future__ import annotations

import asyncio

from edge.errors import Problem
from infra.bus import Bus
from infra.jetstream import FULL, IN_PROCESS, SERVICE_UNAVAILABLE, JetStream
from infra.output_log import OutputLog
from schemas.errors import BrokerAway, BrokerRefused
from schemas.ids import RequestId, TenantKey
from schemas.streams import REQUESTS

TRY_TIMEOUT_S = 1.0
"""A PubAck takes 1 ms; after this the same id is sent again."""

RETRY_WAIT_S = 0.1


class Publisher:
    """`timeout_s` bounds all tries of one request."""

    def __init__(self, bus: Bus, js: JetStream, log: OutputLog, *, timeout_s: float) -> None:
        self._bus = bus
        self._js = js
        self._log = log
        self._timeout_s = timeout_s

    async def publish(
        self, tenant: TenantKey, rid: RequestId, subject: str, raw: bytes, headers: bytes
    ) -> Problem | None:
        """None: it is stored. `outcome_unknown`: it may be. Raises BrokerRefused for an answer nobody foresaw."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        unanswered = False
        while (left_s := deadline - loop.time()) > 0:
            if not self._bus.connected:
                await asyncio.sleep(min(left_s, RETRY_WAIT_S))
                continue
            try:
                ack = await self._js.publish(
                    subject, raw, headers=headers, timeout_s=min(left_s, TRY_TIMEOUT_S)
                )
                if ack.stored:
                    return None
                if ack.err_code == FULL:
                    return await self._is_it_there(tenant, rid, subject, unanswered)
                if ack.err_code not in (IN_PROCESS, SERVICE_UNAVAILABLE):
                    raise BrokerRefused(f"{subject} was not stored: {ack.description} ({ack.err_code})")
            except BrokerAway:
                unanswered = True
            await asyncio.sleep(RETRY_WAIT_S)
        if unanswered:
            return Problem(
                "outcome_unknown",
                f"the broker did not confirm the request: outcome: unknown, request id {rid}; "
                "it is cancelled if it was stored",
            )
        return Problem("broker_away", "the broker is away; the request was not sent")

    async def _is_it_there(
        self, tenant: TenantKey, rid: RequestId, subject: str, unanswered: bool
    ) -> Problem | None:
        """A full queue and a request that is in it already get one answer; only the stream knows which it was."""
        if await self._js.last(REQUESTS, subject) is not None:
            return None
        # An earlier try may have been stored and run to its end meanwhile.
        if unanswered and await self._log.last_ctl(tenant, rid) is not None:
            return None
        return Problem("queue_full", "the queue is full: try again later")
