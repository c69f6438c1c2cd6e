"""The system in containers, as compose.yaml describes it: healthy, streaming, killed, drained, hung."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from bench.transcript import Transcript, assert_whole, stream
from tests.docker.composed import inspected
from tests.docker.conftest import TARGETS, Built, Running, image
from tests.docker.images import BASE, DOCKERFILE

pytestmark = pytest.mark.timeout(300)

TOKENS = 150
STREAMS = 8
WAIT_S = 30.0


class Flow:
    """Streams through the balancer, all of them in full flow when the constructor returns."""

    def __init__(self, url: str, name: str) -> None:
        self._prompts = [f"{name} {number}" for number in range(STREAMS)]
        self._pieces: dict[str, int] = {}
        self._pool = ThreadPoolExecutor(STREAMS)
        self._futures = [self._pool.submit(stream, url, one, TOKENS, self._note) for one in self._prompts]
        deadline = time.monotonic() + WAIT_S
        while len(self._pieces) < STREAMS or min(self._pieces.values()) < 5:
            assert time.monotonic() < deadline, [
                future.exception(0) for future in self._futures if future.done()
            ]
            time.sleep(0.01)
        # A balancer that holds events back would deliver them all at the end.
        assert not [future for future in self._futures if future.done()]

    def _note(self, rid: str, pieces: int) -> None:
        self._pieces[rid] = pieces

    def assert_all_whole(self) -> list[Transcript]:
        whole = [future.result(WAIT_S) for future in self._futures]
        for prompt, transcript in zip(self._prompts, whole, strict=True):
            assert_whole(transcript, prompt, TOKENS)
        self._pool.shutdown()
        return whole


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_nobody_and_gets_signals_itself(built: Built, target: str) -> None:
    config = inspected(built.docker, image(target))
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"][0] in ("penstock", "nats-server"), "no shell between a signal and the process"
    assert config["Healthcheck"]["Test"][0] in ("CMD", "CMD-SHELL")
    identity = built.docker("run", "--rm", "--network", "none", "--entrypoint", "id", image(target), "-u")
    assert identity == "10001"


def test_an_edge_has_neither_a_broker_nor_an_installer(built: Built) -> None:
    looked = built.docker(
        *["run", "--rm", "--network", "none", "--entrypoint", "sh", image("edge"), "-c"],
        "command -v nats-server pip gcc || echo none",
    )
    assert looked == "none"


def test_an_engine_that_is_none_fails_the_build(built: Built) -> None:
    refused = built.docker.run(
        *["build", "--network", "none", "--target", "worker", "--build-arg", f"BASE={BASE}"],
        *["--build-arg", "ENGINE=vlm", "--file", str(built.context / DOCKERFILE), str(built.context)],
    )
    assert refused.returncode != 0
    # In colours, which stand between its words.
    assert "AssertionError" in refused.stdout + refused.stderr


def test_a_killed_worker_and_a_killed_edge(system: Running) -> None:
    flow = Flow(system.balancer_url, "killed worker")
    system.docker("kill", system.workers[0])
    stalls = [transcript.stall_s for transcript in flow.assert_all_whole()]
    assert max(stalls) > 0.2, "nothing ran where the kill was: it proves nothing"
    system.docker("kill", system.edges[0])
    for number in range(STREAMS):
        prompt = f"after the edge {number}"
        assert_whole(stream(system.balancer_url, prompt, 5), prompt, 5)
    assert httpx.get(f"{system.balancer_url}/metrics").status_code == 404


def test_sigterm_drains_and_exits_with_0(system: Running) -> None:
    flow = Flow(system.balancer_url, "drained")
    with ThreadPoolExecutor() as pool:
        stopped = [system.edges[0], system.workers[0], system.schedulers[0]]
        codes = list(pool.map(system.stop, stopped))
    flow.assert_all_whole()
    assert codes == [0, 0, 0], [system.logs(one)[-2000:] for one in stopped]
    rest = [system.edges[1], system.workers[1], system.schedulers[1], system.brokers[0]]
    assert [system.stop(one) for one in rest] == [0, 0, 0, 0]


def test_a_health_check_tells_the_truth(system: Running) -> None:
    # A stopped process keeps its sockets open and its file: only the file's age says it.
    system.docker("kill", "--signal", "STOP", system.workers[0])
    system.docker("kill", "--signal", "KILL", system.brokers[0])
    for edge in system.edges:
        system.wait_for(edge, "unhealthy")
    system.wait_for(system.workers[0], "unhealthy")
    assert system.health(system.workers[1]) == "healthy", "without a broker it waits for one"
    assert httpx.get(f"{system.balancer_url}/readyz").status_code == 503
    system.docker("kill", "--signal", "CONT", system.workers[0])
    system.docker("start", system.brokers[0])
    system.wait_healthy(*system.brokers, *system.edges, *system.workers)
    system.wait_balanced()
    assert_whole(stream(system.balancer_url, "again", 20), "again", 20)
