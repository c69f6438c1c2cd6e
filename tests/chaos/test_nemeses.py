"""Each fault on real processes begins, is told of, and leaves nothing broken when it is over."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from chaos.real.disks import can_mount
from chaos.real.history import Fault, Line, Lived
from chaos.real.inflict import healed, inflict
from chaos.real.nemesis import Step
from chaos.real.proxy import CLEAR
from chaos.real.schedule import NEMESES, kinds_for, plan_of
from chaos.real.shape import Shape
from chaos.real.system import Deployment
from tests.chaos.conftest import Deploy
from tests.chaos.load import Load

DISK_BYTES = 1 << 28
SHORT_S = 1.0

# Dozens of faults, and after them whoever was hit has a minute to serve again.
pytestmark = pytest.mark.timeout(400)


def steps_of_each_kind(shape: Shape) -> list[Step]:
    """One of each, one after the other, none longer than a second."""
    steps: list[Step] = []
    for number, kind in enumerate(kinds_for(shape), 1):
        target = NEMESES[kind].targets(shape)[0]
        steps.append(Step(number, 1.5 * number, kind, target, min(SHORT_S, NEMESES[kind].duration_s[1]), 0.5))
    return steps


async def assert_healed(system: Deployment, history: list[Line]) -> None:
    assert await healed(system) == []
    assert {link.weather for link in [*system.all_links, *system.routes.values()]} == {CLEAR}
    told = Counter((line.id, line.phase) for line in history if isinstance(line, Fault))
    assert set(told.values()) == {1}
    assert {id_ for id_, phase in told if phase == "begin"} == {id_ for id_, phase in told if phase == "end"}
    assert not [line for line in history if isinstance(line, Fault) and "not ready" in line.detail]


async def test_every_kind_on_one_broker_heals(deploy: Deploy) -> None:
    shape = Shape(disk_bytes=DISK_BYTES if await can_mount() else 0)
    system, history = await deploy(shape)
    load = Load(system.doors)
    await inflict(steps_of_each_kind(shape), system, history.append)
    await assert_healed(system, history)
    assert await load.finish() > 50
    lived = [line for line in history if isinstance(line, Lived)]
    killed = {line.process.partition("-")[0] for line in lived if line.code == -9}
    assert killed == {"worker", "scheduler", "edge", "broker"}
    assert {line.code for line in lived if line.what == "ended"} <= {0, -9}, "nobody crashed of it"


async def test_faults_are_ended_also_when_the_run_is_broken_off(deploy: Deploy) -> None:
    shape = Shape(edges=1, schedulers=1, workers=1)
    system, history = await deploy(shape)
    names = ("pause worker", "kill scheduler", "cut off", "all slow")
    steps = [
        Step(number, 0.0, kind, NEMESES[kind].targets(shape)[0], 60.0, 0.5)
        for number, kind in enumerate(names, 1)
    ]
    run = asyncio.create_task(inflict(steps, system, history.append))
    deadline = time.monotonic() + 60
    while sum(isinstance(line, Fault) for line in history) < len(steps):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await assert_healed(system, history)


async def test_a_plan_of_overlapping_faults_heals(deploy: Deploy) -> None:
    shape = Shape()
    system, history = await deploy(shape)
    load = Load(system.doors)
    steps = plan_of(5, shape, duration_s=20, interval_s=1)
    await inflict(steps, system, history.append)
    await assert_healed(system, history)
    assert await load.finish() > 20
