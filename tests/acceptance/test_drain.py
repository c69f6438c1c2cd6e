"""SIGTERM of a worker under load: its streams go on elsewhere, exact, without a failure and without a strike."""

from __future__ import annotations

import statistics

import pytest

from bench.system import System
from tests.acceptance.conftest import StartSystem
from tests.acceptance.streams import Streams, wait_known
from tests.acceptance.tap import assert_clean

STREAMS = 24
STALL_S_MAX = 1.0
"""An append, a hand-off record, a redelivery, a lease and a read: milliseconds, on a machine that does nothing else.
What else it does, the streams tell that stay where they are."""


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(workers=2, itl_ms=10, ttft_ms=5, drain="handoff")


def test_a_stopping_worker_hands_its_streams_over(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    wait_known(system, workers=2)
    streams = Streams(system, "drain", count=STREAMS, tokens=300)
    stopped = system.processes("worker")[0]
    system.terminate(stopped)
    transcripts = streams.assert_all_whole()
    system.wait_replaced(stopped)

    logs = assert_clean(system.nats_url, streams.rids)
    assert {log.strikes for log in logs.values()} == {0}
    moved = [rid for rid, log in logs.items() if log.causes == ["first", "handoff"]]
    assert moved, "the worker that was stopped ran some of them"
    assert all(logs[rid].causes == ["first"] for rid in logs if rid not in moved)
    stalls = [transcript.stall_s for transcript in transcripts if transcript.rid in moved]
    others = [transcript.stall_s for transcript in transcripts if transcript.rid not in moved]
    with capsys.disabled():
        print(
            f"\n{len(moved)} of {STREAMS} streams handed over: "
            f"stall p50 {statistics.median(stalls) * 1e3:.0f} ms, max {max(stalls) * 1e3:.0f} ms; "
            f"of the others max {max(others, default=0) * 1e3:.0f} ms"
        )
    assert max(stalls) < STALL_S_MAX + max(others, default=0)
