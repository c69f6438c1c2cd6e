"""What can happen to processes: killed, paused, restarted one by one, out of disk."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from chaos.real.members import Member
from chaos.real.nemesis import CLIENT_ROLES, Nemesis
from chaos.real.shape import Shape

READY_S = 45.0
"""How long the end of a rolling restart waits for each of them: longer than a drain is allowed to take, and a start."""


class Kill(Nemesis):
    """SIGKILL; it is started again at the end."""

    role: ClassVar[str]
    duration_s = (0.1, 4.0)

    @classmethod
    def targets(cls, shape: Shape) -> list[str]:
        return shape.names(cls.role)

    @property
    def member(self) -> Member:
        return self.system.members[self.step.target]

    async def begin(self) -> None:
        self.member.hold()
        self.member.kill()

    async def end(self) -> str:
        self.member.release()
        return ""


class KillWorker(Kill):
    kind = "kill worker"
    role = "worker"


class KillScheduler(Kill):
    kind = "kill scheduler"
    role = "scheduler"


class KillEdge(Kill):
    kind = "kill edge"
    role = "edge"


class KillBroker(Kill):
    """kill -9: without the only broker everything waits, of three the others go on."""

    kind = "kill broker"
    role = "broker"
    duration_s = (0.1, 8.0)

    @classmethod
    def is_outage(cls, shape: Shape) -> bool:
        return shape.nodes == 1


class Pause(Nemesis):
    """SIGSTOP, SIGCONT at the end: it comes back believing that no time has passed."""

    role: ClassVar[str]
    duration_s = (0.3, 15.0)

    @classmethod
    def targets(cls, shape: Shape) -> list[str]:
        return shape.names(cls.role)

    async def begin(self) -> None:
        self.system.members[self.step.target].pause()

    async def end(self) -> str:
        self.system.members[self.step.target].resume()
        return ""


class PauseWorker(Pause):
    kind = "pause worker"
    role = "worker"


class PauseScheduler(Pause):
    kind = "pause scheduler"
    role = "scheduler"


class PauseEdge(Pause):
    kind = "pause edge"
    role = "edge"


class PauseBroker(Pause):
    kind = "pause broker"
    role = "broker"
    duration_s = (0.3, 10.0)

    @classmethod
    def is_outage(cls, shape: Shape) -> bool:
        return shape.nodes == 1


class RollingRestart(Nemesis):
    """SIGTERM to each process of a role, the next when the one before it serves again. The end waits for the last."""

    kind = "rolling restart"
    duration_s = (1.0, 2.0)
    _rolling: asyncio.Task[list[str]] | None = None

    @classmethod
    def targets(cls, shape: Shape) -> list[str]:
        return [role for role in (*CLIENT_ROLES, "broker") if shape.roles[role] > 1]

    @classmethod
    def touches(cls, target: str, shape: Shape) -> frozenset[str]:
        return frozenset(shape.names(target))

    @classmethod
    def disables(cls, target: str, shape: Shape) -> frozenset[str]:
        # One at a time: others of the role may be cut off by somebody else, but not be all of what is left.
        return frozenset(shape.names(target)[:1])

    async def begin(self) -> None:
        self._rolling = asyncio.create_task(self._roll())

    async def end(self) -> str:
        late = await self._rolling if self._rolling is not None else []
        return f"not ready within {READY_S:g} s: {', '.join(late)}" if late else ""

    async def _roll(self) -> list[str]:
        late = []
        for member in self.system.of(self.step.target):
            before = member.readied
            member.terminate()
            if not await member.wait_ready(READY_S, after=before):
                late.append(member.name)
        return late


class DiskFull(Nemesis):
    """No room on a broker's disk. A stream that could not write stays closed when there is room again, and is opened by
    a start of its broker: so the end is both, as whoever is on call would do it."""

    kind = "disk full"
    duration_s = (1.0, 6.0)
    _full = False

    @classmethod
    def targets(cls, shape: Shape) -> list[str]:
        return shape.names("broker") if shape.disk_bytes else []

    @classmethod
    def is_outage(cls, shape: Shape) -> bool:
        return shape.nodes == 1

    async def begin(self) -> None:
        self._full = True
        await self.system.disks[self.step.target].fill()

    async def end(self) -> str:
        if not self._full:
            return ""
        await self.system.disks[self.step.target].free()
        self._full = False
        member = self.system.members[self.step.target]
        before = member.readied
        member.terminate()
        return "" if await member.wait_ready(READY_S, after=before) else f"not ready within {READY_S:g} s"


ON_PROCESSES = (
    KillWorker,
    KillScheduler,
    KillEdge,
    KillBroker,
    PauseWorker,
    PauseScheduler,
    PauseEdge,
    PauseBroker,
    RollingRestart,
    DiskFull,
)
