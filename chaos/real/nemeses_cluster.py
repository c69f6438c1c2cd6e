"""What can happen to three brokers that replicate: to one that leads a stream, between them, and to most of them."""

from __future__ import annotations

import asyncio
import contextlib

from chaos.real.leaders import leader_of, step_down
from chaos.real.nemesis import ALL, Nemesis, all_links
from chaos.real.proxy import BOTH, CLEAR, Link, Weather
from chaos.real.shape import Shape
from schemas.streams import OUTPUT, REQUESTS

ROUTES = "routes"
"""How `touches` calls what is between the brokers."""


class OnLeader(Nemesis):
    """Hits the broker that leads the target, a stream; while nobody leads it, any."""

    _node = ""

    @classmethod
    def targets(cls, shape: Shape) -> list[str]:
        return [REQUESTS, OUTPUT] if shape.nodes > 1 else []

    @classmethod
    def touches(cls, target: str, shape: Shape) -> frozenset[str]:
        return frozenset({ROUTES, *shape.names("broker")})

    @classmethod
    def disables(cls, target: str, shape: Shape) -> frozenset[str]:
        return frozenset(shape.names("broker")[:1])

    async def aim(self) -> str:
        leader = await leader_of(self.system.nats_url, self.step.target)
        nodes = list(self.system.nodes)
        self._node = leader or nodes[int(self.step.strength * len(nodes)) % len(nodes)]
        return self._node if leader else f"{self._node}, nobody leads"


class KillLeader(OnLeader):
    """kill -9, and a start at the end."""

    kind = "kill leader"
    duration_s = (0.1, 12.0)
    _held = False

    async def begin(self) -> None:
        self._held = True
        self.system.members[self._node].hold()
        self.system.members[self._node].kill()

    async def end(self) -> str:
        if self._held:
            self._held = False
            self.system.members[self._node].release()
        return ""


class PauseLeader(OnLeader):
    """SIGSTOP: the others elect, and it comes back believing that it leads."""

    kind = "pause leader"
    duration_s = (0.5, 15.0)

    async def begin(self) -> None:
        self.system.members[self._node].pause()

    async def end(self) -> str:
        if self._node:
            self.system.members[self._node].resume()
        return ""


class CutRoutes(OnLeader):
    """Nothing comes through between it and the other brokers. Its clients still reach it."""

    kind = "partition leader"
    duration_s = (1.0, 15.0)

    @classmethod
    def targets(cls, shape: Shape) -> list[str]:
        return super().targets(shape) if shape.broker == "cluster" else []

    @property
    def links(self) -> list[Link]:
        return [link for pair, link in self.system.routes.items() if self._node in pair]

    async def begin(self) -> None:
        for link in self.links:
            await link.set(Weather(hold=BOTH))

    async def end(self) -> str:
        for link in self.links:
            await link.set(CLEAR)
        return ""


class Isolate(CutRoutes):
    """Nothing comes through between it and anybody, clients neither."""

    kind = "isolate leader"

    @classmethod
    def touches(cls, target: str, shape: Shape) -> frozenset[str]:
        return super().touches(target, shape) | all_links(shape)

    @property
    def links(self) -> list[Link]:
        return [*super().links, *(of[self._node] for of in self.system.links.values() if self._node)]


class OneWayRoutes(CutRoutes):
    """It hears the other brokers and is not heard, or the other way round."""

    kind = "one-way partition of leader"

    async def begin(self) -> None:
        for (dialler, _), link in self.system.routes.items():
            if link not in self.links:
                continue
            towards_it = "down" if dialler == self._node else "up"
            from_it = "up" if dialler == self._node else "down"
            lost = towards_it if self.step.strength < 0.5 else from_it
            await link.set(Weather(hold=frozenset({lost})))  # type: ignore[arg-type]


class StepDown(OnLeader):
    """Another broker leads the stream, every two seconds or so."""

    kind = "leader steps down"
    duration_s = (2.0, 12.0)
    _stepping: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        self._stepping = asyncio.create_task(self._step())

    async def end(self) -> str:
        if self._stepping is not None:
            self._stepping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._stepping
        return ""

    async def _step(self) -> None:
        while True:
            await step_down(self.system.nats_url, self.step.target)
            await asyncio.sleep(1.0 + 2.0 * self.step.strength)


class LeaveNetwork(OnLeader):
    """Its container is in no network: neither brokers nor clients reach it."""

    kind = "leader leaves the network"
    duration_s = (1.0, 15.0)

    @classmethod
    def targets(cls, shape: Shape) -> list[str]:
        return super().targets(shape) if shape.broker == "containers" else []

    async def begin(self) -> None:
        assert self.system.containers is not None
        await self.system.containers.cut_off(self._node)

    async def end(self) -> str:
        assert self.system.containers is not None
        await self.system.containers.join(self._node)
        return ""


class LoseMajority(Nemesis):
    """kill -9 of all brokers but one."""

    kind = "lose majority"
    duration_s = (0.5, 8.0)
    _held: tuple[str, ...] = ()

    @classmethod
    def targets(cls, shape: Shape) -> list[str]:
        return [f"all but {name}" for name in shape.names("broker")] if shape.nodes > 1 else []

    @classmethod
    def touches(cls, target: str, shape: Shape) -> frozenset[str]:
        return frozenset({ROUTES, *shape.names("broker")})

    @classmethod
    def is_outage(cls, shape: Shape) -> bool:
        return True

    async def begin(self) -> None:
        left = self.step.target.rpartition(" ")[2]
        self._held = tuple(name for name in self.system.nodes if name != left)
        for name in self._held:
            self.system.members[name].hold()
            self.system.members[name].kill()

    async def end(self) -> str:
        for name in self._held:
            self.system.members[name].release()
        self._held = ()
        return ""


class CutAllRoutes(Nemesis):
    """Each broker is alone: none has a majority."""

    kind = "partition all brokers"
    duration_s = (0.5, 8.0)

    @classmethod
    def targets(cls, shape: Shape) -> list[str]:
        return [ALL] if shape.broker == "cluster" else []

    @classmethod
    def touches(cls, target: str, shape: Shape) -> frozenset[str]:
        return frozenset({ROUTES, *shape.names("broker")})

    @classmethod
    def is_outage(cls, shape: Shape) -> bool:
        return True

    async def begin(self) -> None:
        for link in self.system.routes.values():
            await link.set(Weather(hold=BOTH))

    async def end(self) -> str:
        for link in self.system.routes.values():
            await link.set(CLEAR)
        return ""


ON_CLUSTER = (
    KillLeader,
    PauseLeader,
    CutRoutes,
    Isolate,
    OneWayRoutes,
    StepDown,
    LeaveNetwork,
    LoseMajority,
    CutAllRoutes,
)
