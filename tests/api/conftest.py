"""One whole system that everything here is sent to, and that has to bear it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.system import System

BODY_BYTES_MAX = 1 << 20


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Fast, and out of time soon. At the end the processes must be those of the begin."""
    system = System(
        tmp_path_factory.mktemp("store"),
        ttft_ms=0,
        itl_ms=0,
        request_bytes_max=BODY_BYTES_MAX,
        queue_timeout_s=10,
        request_timeout_s=10,
        request_timeout_max_s=20,
    )
    begun = system.processes()
    yield system
    ended = system.processes()
    assert system.stop() == 0, "an ordered drain ends with 0"
    assert [process.pid for process in ended] == [process.pid for process in begun], "none was started again"
