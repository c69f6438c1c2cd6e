"""An engine that takes long for a first token is not taken for one that hangs."""

from __future__ import annotations

import time
from typing import Any

import pytest

from bench.transcript import assert_whole, stream
from tests.acceptance.conftest import StartSystem
from tests.acceptance.tap import assert_clean


@pytest.mark.parametrize(
    ("slow", "prompt", "wait_s"),
    [
        pytest.param({"ttft_ms": 4000, "step_s_max": 2}, "compiles", 4, id="a first compile, short"),
        pytest.param({"ttft_ms": 16_000}, "compiles", 16, id="16 s compile", marks=pytest.mark.slow),
        pytest.param({"prefill_tps": 100}, "word " * 1600, 16, id="16 s prefill", marks=pytest.mark.slow),
    ],
)
def test_a_long_wait_for_the_first_token_is_not_taken_for_a_hang(
    slow: dict[str, Any], prompt: str, wait_s: float, start_system: StartSystem
) -> None:
    system = start_system(workers=1, itl_ms=5, **slow)
    workers_before = [process.id for process in system.processes("worker")]
    started = time.monotonic()
    transcript = stream(system.url, prompt, 20)
    assert_whole(transcript, prompt, 20)
    assert time.monotonic() - started > wait_s
    assert [process.id for process in system.processes("worker")] == workers_before
    log = assert_clean(system.nats_url, [transcript.rid])[transcript.rid]
    assert log.causes == ["first"]
