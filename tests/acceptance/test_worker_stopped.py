"""SIGSTOP of a worker for longer than it waits for a step of its engine: it wakes up, and goes on living."""

from __future__ import annotations

import time

import pytest

from bench.roles import paused
from bench.system import System
from bench.transcript import assert_whole, stream
from tests.acceptance.conftest import StartSystem
from tests.acceptance.streams import Streams

STEP_S_MAX = 2
STOPPED_S = STEP_S_MAX + 3


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(workers=1, itl_ms=20, ttft_ms=5, ack_wait_s=4, step_s_max=STEP_S_MAX)


@pytest.mark.timeout(120)
def test_having_been_stopped_is_not_having_hung(system: System) -> None:
    """Its requests come back to the only worker there is, which still runs them; the same process finishes them."""
    streams = Streams(system, "stop", count=4, tokens=400)
    stopped = system.processes("worker")[0]
    with paused(stopped.pid):
        time.sleep(STOPPED_S)  # what is tested is that this long a stop does no harm
    streams.assert_all_whole()
    assert [process.pid for process in system.processes("worker")] == [stopped.pid]
    assert_whole(stream(system.url, "after", 20), "after", 20)
