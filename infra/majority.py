"""Leaving a broker that the majority of its cluster cannot hear.

A broker that is cut off from the others keeps its clients: their connections are fine, and nothing that they publish is
stored until the cut heals. So each role asks it for something that only the leader of a stream can answer, and goes to
another broker when that stays unanswered for longer than an election takes.
"""

from __future__ import annotations

import asyncio

from infra.bus import Bus
from infra.jetstream import JetStream
from infra.logs import get_logger
from schemas import subjects
from schemas.errors import BrokerAway, BrokerRefused
from schemas.ids import ANONYMOUS
from schemas.streams import OUTPUT

ASK_EVERY_S = 1.0
ASK_TIMEOUT_S = 2.0
SILENT_MAX_S = 6.0
"""As long as a connection may be silent (`infra.bus`). An election takes 2 to 5 s on an idle machine; one that takes
longer costs a change of broker and nothing else."""

_NOTHING = subjects.output_ctl(ANONYMOUS, "0" * 20)
"""Nobody's log: all that is wanted is that a leader says so."""

_log = get_logger("majority")


class Patience:
    """Whether to stay at the broker that this process is connected to. Times are of one clock, in seconds."""

    def __init__(self, now: float) -> None:
        self._heard_at = now

    def heard(self, now: float) -> None:
        """The leader of a stream answered, or there is nowhere else to go."""
        self._heard_at = max(self._heard_at, now)

    def is_over(self, now: float, connected_since: float) -> bool:
        """Whether nothing was heard for too long over this connection."""
        return now - max(self._heard_at, connected_since) > SILENT_MAX_S


async def stay_with_majority(bus: Bus) -> None:
    """Watches until cancelled."""
    js = JetStream(bus, timeout_s=ASK_TIMEOUT_S)
    clock = asyncio.get_running_loop().time
    patience = Patience(clock())
    while True:
        await asyncio.sleep(ASK_EVERY_S)
        connected_since = bus.connected_since
        if connected_since is None or bus.brokers < 2:
            patience.heard(clock())
            continue
        try:
            await js.last(OUTPUT, _NOTHING)
            patience.heard(clock())
        except BrokerRefused:
            patience.heard(clock())
        except BrokerAway:
            if patience.is_over(clock(), connected_since):
                _log.warning("this broker reaches no leader: trying another", silent_s=SILENT_MAX_S)
                await bus.leave()
