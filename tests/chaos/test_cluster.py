"""Three brokers as child processes: they elect, store everything three times, and go on without the one that leads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from chaos.real.history import Fault, Lived
from chaos.real.inflict import healed, inflict
from chaos.real.leaders import leader_of, step_down
from chaos.real.nemesis import Step
from chaos.real.proxy import CLEAR
from chaos.real.shape import Shape
from schemas.streams import OUTPUT, REQUESTS
from tests.chaos.conftest import Deploy
from tests.chaos.load import Load

SMALL = Shape(broker="cluster", edges=1, schedulers=2, workers=2)
ELECTED_S = 60.0
"""An election and the way back of whoever was connected take 8 s on an idle machine."""

UNTIL_TOLD_S = 3600.0

# A start, a fault and three elections: a busy machine may take long for each.
pytestmark = pytest.mark.timeout(400)


async def elected(nats_url: str, stream: str, *, but: str = "") -> str:
    """Who leads, once somebody does who is not `but`."""
    deadline = time.monotonic() + ELECTED_S
    while (leader := await leader_of(nats_url, stream)) in (None, but):
        assert time.monotonic() < deadline, f"nobody but {but!r} leads {stream}"
        await asyncio.sleep(0.1)
    assert leader is not None
    return leader


@pytest.mark.parametrize(
    "kind",
    [
        "kill leader",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("isolate leader", "partition leader", "pause leader")
        ),
    ],
)
async def test_requests_go_on_without_the_leader(deploy: Deploy, kind: str) -> None:
    system, history = await deploy(SMALL)
    before = await elected(system.nats_url, OUTPUT)
    load = Load(system.doors)
    run = asyncio.create_task(
        inflict([Step(1, 1.0, kind, OUTPUT, UNTIL_TOLD_S, 0.5)], system, history.append)
    )
    await until(lambda: any(isinstance(line, Fault) for line in history))
    others = ",".join(node.url for name, node in system.nodes.items() if name != before)
    after = await elected(others, OUTPUT, but=before)
    meanwhile = load.whole
    await until(lambda: load.whole > meanwhile)
    assert not run.done(), "served while the fault lasted"
    run.cancel()  # that ends the fault
    with pytest.raises(asyncio.CancelledError):
        await run
    begun = next(line for line in history if isinstance(line, Fault))
    assert (begun.detail, begun.phase) == (before, "begin")
    assert after != before
    assert await healed(system) == []
    assert await load.finish() > meanwhile


async def test_a_leader_that_is_asked_steps_down(deploy: Deploy) -> None:
    system, _ = await deploy(SMALL)
    before = await elected(system.nats_url, REQUESTS)
    deadline = time.monotonic() + ELECTED_S
    while not await step_down(system.nats_url, REQUESTS):  # nobody could be asked
        assert time.monotonic() < deadline
    assert await elected(system.nats_url, REQUESTS, but=before) != before


async def test_what_takes_the_majority_away_gives_it_back(deploy: Deploy) -> None:
    system, history = await deploy(SMALL)
    load = Load(system.doors)
    steps = [
        Step(1, 1.0, "partition all brokers", "all", 3.0, 0.5),
        Step(2, 16.0, "lose majority", "all but broker-2", 3.0, 0.5),
    ]
    await inflict(steps, system, history.append)
    assert await healed(system) == []
    killed = [line.process for line in history if isinstance(line, Lived) and line.code == -9]
    assert sorted(killed) == ["broker-1", "broker-3"]
    assert {link.weather for link in system.routes.values()} == {CLEAR}
    assert await load.finish() > 20


async def until(condition: Callable[[], bool]) -> None:
    """Polls."""
    deadline = time.monotonic() + ELECTED_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
