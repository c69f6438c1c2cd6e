"""Leaving a broker that the majority of its cluster cannot hear.

A broker that is cut off from the others keeps its clients: their connections are fine, and nothing that they publish is
stored until the cut heals. So each role asks it for something that only the leader of a stream can answer; when that
stays unanswered it asks the other brokers, and leaves for them once one of them has an answer.
"""

from __future__ import annotations

import asyncio
import contextlib

from infra.bus import Bus
from infra.jetstream import JetStream
from infra.logs import get_logger
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused
from schemas.ids import ANONYMOUS
from schemas.streams import OUTPUT

ASK_EVERY_S = 1.0
ASK_TIMEOUT_S = 1.0
VISIT_TIMEOUT_S = 2.0
SILENT_MAX_S = 4.0
"""An election takes 2 to 5 s on an idle machine, and as long as it takes nobody else has an answer either."""

_NOTHING = subjects.output_ctl(ANONYMOUS, "0" * 20)
"""Nobody's log: all that is wanted is that a leader says so."""

_log = get_logger("majority")


class Patience:
    """Whether to stay at the broker that this process is connected to. Times are of one clock, in seconds."""

    def __init__(self, now: float) -> None:
        self._heard_at = now

    def heard(self, now: float) -> None:
        """The leader of a stream answered, or there is nowhere else to go."""
        self._heard_at = now

    def is_over(self, now: float, connected_since: float) -> bool:
        """Whether nothing was heard for too long over this connection."""
        return now - max(self._heard_at, connected_since) > SILENT_MAX_S


async def stay_with_majority(bus: Bus) -> None:
    """Watches until cancelled."""
    clock = asyncio.get_running_loop().time
    patience = Patience(clock())
    while True:
        await asyncio.sleep(ASK_EVERY_S)
        connected_since = bus.connected_since
        if connected_since is None or not bus.others or await _answers(bus):
            patience.heard(clock())
        elif patience.is_over(clock(), connected_since) and await _answers_only_elsewhere(bus):
            _log.warning("this broker reaches no leader, another one does: changing over")
            await bus.leave()


async def _answers(bus: Bus) -> bool:
    """Whether the leader of a stream can be reached."""
    try:
        await JetStream(bus, timeout_s=ASK_TIMEOUT_S).last(OUTPUT, _NOTHING)
    except BrokerAway:
        return False
    except BrokerRefused:
        return True
    return True


async def _answers_only_elsewhere(bus: Bus) -> bool:
    """Whether it is worth while to leave: when nobody leads, every broker is as good as this one."""

    async def answers_at(url: str) -> bool:
        with contextlib.suppress(TimeoutError, BrokerAway):
            async with asyncio.timeout(VISIT_TIMEOUT_S), bus.visit(url) as other:
                return await _answers(other)
        return False

    # Asked here again: a leader may have been elected since the last time.
    return any(await asyncio.gather(*map(answers_at, bus.others))) and not await _answers(bus)
