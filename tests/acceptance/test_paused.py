"""SIGSTOP of the leader, of an edge, of a worker, and SIGCONT when what they hold has been given to others."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from bench.roles import paused
from bench.scheduler_failover import leader_of
from bench.system import Process, System
from bench.transcript import assert_whole, stream
from tests.acceptance.conftest import StartSystem
from tests.acceptance.streams import Streams
from tests.acceptance.tap import assert_clean

ITL_MS = 20
SLOTS = 12
STREAMS = 20
WAITING = 8
"""Both workers' slots are less than all of them, so that the leader holds deliveries; and more than the streams, so
that some of a paused worker's requests go on elsewhere while the others wait for it."""

IMPATIENT = {"ack_wait_s": 1.5, "worker_silent_s": 0.8, "leader_ttl_s": 1, "leader_interval_s": 0.2}


@pytest.fixture(
    scope="module",
    params=[("short", 2.5, IMPATIENT), pytest.param(("15 s", 15.0, {}), marks=pytest.mark.slow)],
    ids=lambda param: param[0],
)
def pause(request: pytest.FixtureRequest, start_system: StartSystem) -> tuple[System, float]:
    """The system, and how long its processes are paused: longer than every clock that gives up on them."""
    _, pause_s, settings = request.param
    system = start_system(edges=2, schedulers=2, workers=2, slots=SLOTS, itl_ms=ITL_MS, ttft_ms=5, **settings)
    return system, pause_s


def stop_and_continue(
    system: System, process: Process, pause_s: float, until: Callable[[], object] = lambda: True
) -> list[str]:
    """Pauses `process` for that long and until `until` holds, under streams, some of which wait; all must be exact.
    The rids of everything that ran."""
    name = f"pause {process.id}"
    tokens = int((pause_s + 1) * 1000 / ITL_MS)
    streams = Streams(system, name, count=STREAMS, tokens=tokens)
    waiting = Streams(system, f"{name} waiting", count=WAITING, tokens=20, flowing=False)
    with paused(process.pid):
        time.sleep(pause_s)  # what is tested is that this long a pause does no harm
        system.wait_until(until, "what the pause leads to")
    transcripts = streams.assert_all_whole() + waiting.assert_all_whole()
    after = stream(system.url, "after the pause", 20)
    assert_whole(after, "after the pause", 20)
    print(
        f"{process.role} paused for {pause_s:g} s: longest silence {max(t.stall_s for t in transcripts):.1f} s"
    )
    return [*streams.rids, *waiting.rids, after.rid]


def check(system: System, rids: list[str]) -> None:
    logs = assert_clean(system.nats_url, rids)
    assert {log.status for log in logs.values()} == {"ok"}
    assert {log.strikes for log in logs.values()} == {0}


@pytest.mark.timeout(180)
def test_a_paused_leader(pause: tuple[System, float]) -> None:
    system, pause_s = pause
    leader = leader_of(system)
    # Seen during the pause: on a busy machine the leadership may come back after it.
    rids = stop_and_continue(system, leader, pause_s, lambda: leader_of(system).id != leader.id)
    check(system, rids)


@pytest.mark.timeout(180)
def test_a_paused_worker(pause: tuple[System, float]) -> None:
    system, pause_s = pause
    worker = system.processes("worker")[0]
    rids = stop_and_continue(system, worker, pause_s)
    check(system, rids)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_paused_edge(pause: tuple[System, float]) -> None:
    """Its own clients wait and then get the rest; those of the other edge notice nothing."""
    system, pause_s = pause
    edge = system.processes("edge")[0]
    rids = stop_and_continue(system, edge, pause_s)
    check(system, rids)
