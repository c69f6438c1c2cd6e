"""What new requests pass on their way in, made out of the settings: the gate, its limits, and what these know."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from edge.access.classes import Classes
from edge.admission import Admitted
from edge.call import Caller
from edge.counts.leftover import Leftovers
from edge.counts.limits import StreamsLimit, limits
from edge.counts.service import SharedCounts
from edge.errors import Problem
from edge.forecast.door import Door, DoorLimits
from edge.forecast.doorkeeper import Doorkeeper, Prospect
from edge.gate import Entering, Gate, Permit
from edge.lookup import Lookup
from edge.rates.counted import Knock
from edge.rates.limit import Rates
from edge.registry import Registry
from infra.bus import Bus
from infra.settings import Settings
from schemas.dispatch import EdgeBeat, Leader


class Entrance:
    """That of the edge `name`; `fail` ends the process."""

    def __init__(
        self,
        settings: Settings,
        bus: Bus,
        name: str,
        *,
        lookup: Lookup,
        registry: Registry,
        fail: Callable[[Exception], None],
    ) -> None:
        self._now = asyncio.get_running_loop().time
        self._door = Door(
            name, DoorLimits(settings.queue_max, settings.queue_timeout_s, settings.edge_interval_s)
        )
        self._doorkeeper = Doorkeeper(self._door, self._now)
        self._counts = SharedCounts(settings, bus, name, fail)
        self._leftovers = Leftovers(bus, lookup, fail)
        self._streams = StreamsLimit(self._counts)
        counted = limits(settings, self._counts, self._leftovers, registry)
        self._rates = Rates(bus)
        self._gate = Gate([Classes(), self._rates, self._doorkeeper, self._streams, *counted])

    async def knock(self, caller: Caller) -> Knock | Problem:
        """Counts a request before it is known whether it is a new one. Whoever asks says when that is over."""
        return await self._rates.knock(caller)

    async def enter(self, entering: Entering) -> Permit | Problem:
        """A permit, or why not, with the time at which to try again."""
        said = await self._gate.enter(entering)
        if isinstance(said, Problem):
            return self._doorkeeper.refused(said, entering.admitted, entering.headers)
        return said

    def let_in(self, admitted: Admitted, headers: Mapping[str, str]) -> Prospect:
        """A request is published now."""
        return self._doorkeeper.let_in(admitted, headers)

    async def open_answer(self, caller: Caller) -> Permit | Problem:
        """Counts in an answer to a request that is there already; that of a new one passes the gate."""
        said = await self._streams.open(caller)
        return said if isinstance(said, Problem) else Permit([*said.headers], [said.settle])

    def leader_heard(self, leader: Leader) -> None:
        """The leader's heartbeat."""
        self._door.leader_heard(leader, self._now())

    def edge_heard(self, beat: EdgeBeat) -> None:
        """An edge's heartbeat, this one's own too."""
        self._door.edge_heard(beat, self._now())
        self._counts.heard(beat.edge)

    async def stop_watching(self) -> None:
        """Watches no request any more that runs on without a reader."""
        await self._leftovers.close()

    async def close(self, timeout_s: float) -> None:
        """Tells the other edges what is still counted here."""
        await self._counts.close(timeout_s)
