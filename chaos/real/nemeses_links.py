"""What can happen to the links between processes and brokers."""

from __future__ import annotations

import asyncio
import contextlib
from abc import abstractmethod

from chaos.real.nemesis import ALL, CLIENT_ROLES, Nemesis, all_links, link_of
from chaos.real.proxy import BOTH, CLEAR, Link, Way, Weather
from chaos.real.shape import Shape

STORM_INTERVAL_S = 0.7
"""Between two resets of everything: time enough to connect again and to begin something."""


class LinkFault(Nemesis):
    """Weather on the links of one process."""

    duration_s = (0.3, 15.0)

    @classmethod
    def targets(cls, shape: Shape) -> list[str]:
        return shape.names(*CLIENT_ROLES)

    @classmethod
    def touches(cls, target: str, shape: Shape) -> frozenset[str]:
        return frozenset({link_of(target)})

    @property
    def links(self) -> list[Link]:
        return list(self.system.links[self.step.target].values())

    @abstractmethod
    def weather(self) -> Weather: ...

    async def begin(self) -> None:
        for link in self.links:
            await link.set(self.weather())

    async def end(self) -> str:
        for link in self.links:
            await link.set(CLEAR)
        return ""


class CutOff(LinkFault):
    """Nothing comes through, and arrives when it is over."""

    kind = "cut off"

    def weather(self) -> Weather:
        return Weather(hold=BOTH)


class BlackHole(LinkFault):
    """What is sent is lost, and nobody is told before it is over."""

    kind = "black hole"

    def weather(self) -> Weather:
        return Weather(swallow=BOTH)


class OneWay(LinkFault):
    """One direction alone: it hears and is not heard, or is heard and does not hear."""

    kind = "one way"

    async def aim(self) -> str:
        return f"{self._lost} is lost"

    def weather(self) -> Weather:
        return Weather(hold=frozenset({self._lost}))

    @property
    def _lost(self) -> Way:
        return "up" if self.step.strength < 0.5 else "down"


class HalfOpen(LinkFault):
    """The broker has lost the connection, the process is not told."""

    kind = "half-open"

    def weather(self) -> Weather:
        return Weather(half_open=True)

    async def begin(self) -> None:
        await super().begin()
        for link in self.links:
            link.drop_far()


class Refused(LinkFault):
    """Its connection is reset, and for a while it gets no other."""

    kind = "refused"
    duration_s = (0.3, 8.0)

    def weather(self) -> Weather:
        return Weather(refuse=True)

    async def begin(self) -> None:
        await super().begin()
        for link in self.links:
            link.reset()


class Slow(LinkFault):
    """Everything is late by up to half a second, more or less."""

    kind = "slow"

    @classmethod
    def disables(cls, target: str, shape: Shape) -> frozenset[str]:
        return frozenset()

    def weather(self) -> Weather:
        delay_s = 0.01 + 0.4 * self.step.strength
        return Weather(delay_s=delay_s, jitter_s=delay_s / 2)


class Narrow(LinkFault):
    """Few bytes come through in a second."""

    kind = "narrow"

    @classmethod
    def disables(cls, target: str, shape: Shape) -> frozenset[str]:
        return frozenset()

    def weather(self) -> Weather:
        return Weather(bytes_per_s=5_000 + 100_000 * self.step.strength)


class Reset(LinkFault):
    """RST to both ends; it may connect again at once."""

    kind = "reset"
    duration_s = (0.01, 0.02)

    def weather(self) -> Weather:
        return CLEAR

    async def begin(self) -> None:
        for link in self.links:
            link.reset()


class AllLinks(LinkFault):
    """Weather on all links of processes to brokers."""

    duration_s = (0.3, 8.0)

    @classmethod
    def targets(cls, shape: Shape) -> list[str]:
        return [ALL]

    @classmethod
    def touches(cls, target: str, shape: Shape) -> frozenset[str]:
        return all_links(shape)

    @classmethod
    def disables(cls, target: str, shape: Shape) -> frozenset[str]:
        return frozenset()

    @property
    def links(self) -> list[Link]:
        return self.system.all_links


class AllCutOff(AllLinks):
    """The network between processes and brokers is away."""

    kind = "all cut off"

    @classmethod
    def is_outage(cls, shape: Shape) -> bool:
        return True

    def weather(self) -> Weather:
        return Weather(hold=BOTH)


class AllSlow(AllLinks):
    """The whole network is slow."""

    kind = "all slow"

    def weather(self) -> Weather:
        return Weather(delay_s=0.005 + 0.1 * self.step.strength, jitter_s=0.05 * self.step.strength)


class DisconnectStorm(AllLinks):
    """Everybody's connection is reset, again and again."""

    kind = "disconnect storm"
    _raging: asyncio.Task[None] | None = None

    @classmethod
    def is_outage(cls, shape: Shape) -> bool:
        return True

    def weather(self) -> Weather:
        return CLEAR

    async def begin(self) -> None:
        self._raging = asyncio.create_task(self._rage())

    async def end(self) -> str:
        if self._raging is not None:
            self._raging.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._raging
        return ""

    async def _rage(self) -> None:
        while True:
            for link in self.links:
                link.reset()
            await asyncio.sleep(STORM_INTERVAL_S)


ON_LINKS = (
    CutOff,
    BlackHole,
    OneWay,
    HalfOpen,
    Refused,
    Slow,
    Narrow,
    Reset,
    AllCutOff,
    AllSlow,
    DisconnectStorm,
)
