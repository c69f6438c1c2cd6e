"""kill -9 of the worker in mid-stream: the same stream goes on and ends with exactly the reference text."""

from __future__ import annotations

import pytest

from bench.worker_kill import kill_workers, summary
from tests.acceptance.conftest import StartSystem


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("workers", [2, 1])
def test_the_stream_goes_on(
    workers: int, kills: int, start_system: StartSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    stalls = kill_workers(start_system(workers=workers, itl_ms=5, ttft_ms=5), kills)
    with capsys.disabled():
        print(f"\n{kills} kills, {workers} worker(s): {summary(stalls)}")
    assert max(stalls) < 10, "recovery is a matter of seconds"
