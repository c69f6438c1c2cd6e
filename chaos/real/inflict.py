"""A plan being carried out: every fault that was begun is ended and told of, whatever happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from chaos.real.history import Fault
from chaos.real.nemesis import Nemesis, Step
from chaos.real.schedule import NEMESES
from chaos.real.shape import Record
from chaos.real.system import Deployment

HEAL_READY_S = 60.0
"""Each process may take this long to serve again once the last fault is over: a cluster's election, and a start."""


async def inflict(steps: Sequence[Step], system: Deployment, record: Record) -> None:
    """Carries out the plan, from now on; returns when the last fault is over. Cancelled, it ends those that last."""
    began = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as tasks:
        for step in steps:
            nemesis = NEMESES[step.kind](system, step)
            tasks.create_task(_one(nemesis, began + step.at_s, record), name=f"{step.id} {step.kind}")


async def healed(system: Deployment, within_s: float = HEAL_READY_S) -> list[str]:
    """The processes that do not serve within that time: none, if all is well."""
    members = list(system.members.values())
    ready = await asyncio.gather(*(member.wait_ready(within_s) for member in members))
    return [member.name for member, is_ready in zip(members, ready, strict=True) if not is_ready]


async def _one(nemesis: Nemesis, at: float, record: Record) -> None:
    loop, step = asyncio.get_running_loop(), nemesis.step
    await asyncio.sleep(at - loop.time())
    aimed = await nemesis.aim()
    record(Fault(time.time(), step.id, step.kind, step.target, "begin", aimed))
    told = ""
    try:
        await nemesis.begin()
        await asyncio.sleep(step.duration_s)
    finally:
        try:
            told = await nemesis.end()
        finally:
            record(Fault(time.time(), step.id, step.kind, step.target, "end", told))
