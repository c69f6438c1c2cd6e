"""One system for all clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.system import System


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Two edges and two workers, slow enough to be met in the middle of an answer."""
    system = System(
        tmp_path_factory.mktemp("store"), edges=2, workers=2, itl_ms=10, ttft_ms=5, drain_timeout_s=2
    )
    yield system
    assert system.stop() == 0
