"""SIGTERM of a worker under load: its streams go on elsewhere, exact, without a failure and without a strike."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.system import System
from bench.transcript import assert_whole, stream
from infra.bus import Bus
from infra.jetstream import JetStream
from infra.output_log import OutputLog
from schemas.ids import ANONYMOUS
from schemas.log import Entry, strikes
from schemas.output import Handoff, Lease
from tests.acceptance.conftest import StartSystem

STREAMS = 24
TOKENS = 200
STALL_S_MAX = 1.0
"""An append, a hand-off record, a redelivery, a lease and a read: milliseconds, on a machine that does nothing else."""


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(workers=2, itl_ms=10, ttft_ms=5, drain="handoff")


def test_a_stopping_worker_hands_its_streams_over(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    rids: dict[str, None] = {}
    with ThreadPoolExecutor(STREAMS) as pool:
        prompts = [f"drain {number}" for number in range(STREAMS)]

        def note(rid: str, _pieces: int) -> None:
            rids[rid] = None

        futures = [pool.submit(stream, system.url, prompt, TOKENS, note) for prompt in prompts]
        system.wait_until(lambda: len(rids) == STREAMS, "all streams flow")
        stopped = system.processes("worker")[0]
        os.kill(stopped.pid, signal.SIGTERM)
        transcripts = [future.result() for future in futures]
    for prompt, transcript in zip(prompts, transcripts, strict=True):
        assert_whole(transcript, prompt, TOKENS)
    system.wait_replaced(stopped)

    logs = asyncio.run(_logs(system, list(rids)))
    moved = {rid for rid, log in logs.items() if any(isinstance(entry.record, Handoff) for entry in log)}
    assert moved, "the worker that was stopped ran some of them"
    stalls = [transcript.stall_s for transcript in transcripts if transcript.rid in moved]
    with capsys.disabled():
        print(
            f"\n{len(moved)} of {STREAMS} streams handed over: "
            f"stall p50 {statistics.median(stalls) * 1e3:.0f} ms, max {max(stalls) * 1e3:.0f} ms"
        )
    assert max(stalls) < STALL_S_MAX
    for log in logs.values():
        assert strikes(log) == 0
        causes = [entry.record.cause for entry in log if isinstance(entry.record, Lease)]
        assert causes in (["first"], ["first", "handoff"]), causes


async def _logs(system: System, rids: list[str]) -> dict[str, list[Entry]]:
    bus = await Bus.connect(system.nats_url, name="test", fail=print)
    try:
        log = OutputLog(JetStream(bus))
        return {rid: await log.read(ANONYMOUS, rid) for rid in rids}
    finally:
        await bus.close()
