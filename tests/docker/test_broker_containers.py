"""The three brokers in Docker: they elect, serve a stream stored three times, and go on without their leader."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.real.history import Fault, Line
from chaos.real.inflict import healed, inflict
from chaos.real.nemesis import Step
from chaos.real.shape import Shape
from chaos.real.system import Deployment
from schemas.streams import OUTPUT
from tests.chaos.load import Load
from tests.docker.daemon import NoDocker, a_docker

SHAPE = Shape(broker="containers", edges=1, schedulers=1, workers=2)
RUN_S = 200.0

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def docker_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every Docker client of this process finds the daemon: the one that runs, or one of our own."""
    with tempfile.TemporaryDirectory(prefix="penstock-docker-", ignore_cleanup_errors=True) as directory:
        try:
            with a_docker(Path(directory)):
                own = Path(directory) / "docker.sock"
                if own.exists():
                    monkeypatch.setenv("DOCKER_HOST", f"unix://{own}")
                yield
        except NoDocker as why:
            pytest.skip(f"THE DOCKER TIER DID NOT RUN: {why}")


@pytest.mark.usefixtures("docker_environment")
async def test_requests_go_on_without_the_leader_s_container(tmp_path: Path) -> None:
    history: list[Line] = []
    system = Deployment(SHAPE, tmp_path, history.append)
    await system.start()
    try:
        load = Load(system.doors)
        steps = [
            Step(1, 1.0, "leader leaves the network", OUTPUT, 12.0, 0.5),
            Step(2, 20.0, "kill leader", OUTPUT, 5.0, 0.5),
        ]
        async with asyncio.timeout(RUN_S):
            await inflict(steps, system, history.append)
            assert await healed(system) == []
            assert await load.finish() > 20
        begun = [line.detail for line in history if isinstance(line, Fault) and line.phase == "begin"]
        assert begun[0] in system.nodes
        assert begun[1] in system.nodes
        assert begun[0] != begun[1], "another one leads"
    finally:
        await system.stop()
