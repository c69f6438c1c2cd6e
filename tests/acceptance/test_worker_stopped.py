"""SIGSTOP of a worker for longer than ack_wait: its streams go on elsewhere, and it harms nobody when it wakes up."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.system import System
from bench.transcript import assert_whole, stream
from tests.acceptance.conftest import StartSystem

STREAMS = 8
TOKENS = 700
ACK_WAIT_S = 4.0
STOPPED_S = ACK_WAIT_S + 3


@pytest.fixture(scope="module")
def system(start_system: StartSystem) -> System:
    return start_system(workers=2, itl_ms=20, ttft_ms=5, ack_wait_s=ACK_WAIT_S, step_s_max=3)


def test_a_stopped_worker_wakes_up_harmless_and_alive(system: System) -> None:
    rids: dict[str, None] = {}
    with ThreadPoolExecutor(STREAMS) as pool:
        prompts = [f"stop {number}" for number in range(STREAMS)]

        def note(rid: str, _pieces: int) -> None:
            rids[rid] = None

        futures = [pool.submit(stream, system.url, prompt, TOKENS, note) for prompt in prompts]
        system.wait_until(lambda: len(rids) == STREAMS, "all streams flow")
        stopped = system.processes("worker")[0]
        os.kill(stopped.pid, signal.SIGSTOP)
        wake_at = time.monotonic() + STOPPED_S
        system.wait_until(lambda: time.monotonic() >= wake_at, "it has been stopped for long enough")
        os.kill(stopped.pid, signal.SIGCONT)
        transcripts = [future.result() for future in futures]
    for prompt, transcript in zip(prompts, transcripts, strict=True):
        assert_whole(transcript, prompt, TOKENS)
    system.wait_until(
        lambda: any(p.pid == stopped.pid and p.ready for p in system.processes("worker")),
        "it is the same process: having been stopped is not having hung",
    )
    assert_whole(stream(system.url, "after", 20), "after", 20)
