"""Who leads a replicated stream, and asking it to step down."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from infra.bus import Bus
from schemas import subjects
from schemas.errors import BrokerAway

TIMEOUT_S = 3.0


async def leader_of(nats_url: str, stream: str) -> str | None:
    """The node's name; None: nobody leads, or nobody can be asked."""
    answer = await _ask(nats_url, subjects.js_stream("INFO", stream))
    return (answer.get("cluster") or {}).get("leader") or None


async def step_down(nats_url: str, stream: str) -> bool:
    """Another node leads from now on. False: nobody could be asked, or there is nobody else."""
    answer = await _ask(nats_url, subjects.js_stream("LEADER.STEPDOWN", stream))
    return bool(answer.get("success"))


async def _ask(nats_url: str, subject: str) -> dict[str, Any]:
    """One call over a connection of its own, which no fault of an earlier one has left in a bad state."""
    broken: list[Exception] = []
    try:
        async with asyncio.timeout(TIMEOUT_S):
            bus = await Bus.connect(nats_url, name="chaos", fail=broken.append)
            try:
                reply = await bus.request(subject, timeout_s=TIMEOUT_S)
            finally:
                await bus.close()
    except (BrokerAway, TimeoutError):
        return {}
    return dict(msgspec.json.decode(reply.payload)) if reply.payload else {}
