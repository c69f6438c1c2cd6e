"""A client that leaves frees vLLM: its engine, which runs one request at a time here, takes the next one at once."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cancel import flowing_stream, leave_streams
from bench.result_file import seconds
from bench.system import System
from bench.vllm_server import START_TIMEOUT_S, penstock_flags

pytestmark = pytest.mark.timeout(600)

CANCELS = 20
TOKENS = 900
"""More than a second of work for the engine: a request that it did not drop would keep the next one waiting so long."""

FREE_S_MAX = 0.1


@pytest.fixture(scope="module")
def narrow(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One worker whose vLLM runs one sequence at a time."""
    flags = {**penstock_flags(tiny_model), "max_num_seqs": 1}
    system = System(tmp_path_factory.mktemp("narrow"), START_TIMEOUT_S, workers=1, **flags)
    try:
        yield system
    finally:
        system.stop()


def test_slot_is_free_at_once(narrow: System, tiny_model: Path) -> None:
    freed_s = asyncio.run(
        leave_streams(narrow.url, narrow.nats_url, CANCELS, model=str(tiny_model), slots=1, tokens=TOKENS)
    )
    print(f"slot free after {seconds(freed_s)}")
    assert statistics.median(freed_s) < FREE_S_MAX


def test_engine_is_free_at_once(narrow: System, tiny_model: Path) -> None:
    """vLLM's own scheduler says so: it cannot begin the next request while it still has the one before."""
    calm_s, after_s = asyncio.run(_first_tokens(narrow.url, str(tiny_model)))
    print(f"first token: calm {seconds(calm_s)}; from the close before it {seconds(after_s)}")
    assert statistics.median(after_s) - statistics.median(calm_s) < FREE_S_MAX


async def _first_tokens(url: str, model: str) -> tuple[list[float], list[float]]:
    """Seconds to the first token of a request to the idle engine, and from one client's close to the next one's first
    token."""
    calm_s, after_s = [], []
    for number in range(CANCELS):
        started = time.perf_counter()
        writer = await flowing_stream(url, f"calm {number}", model, TOKENS)
        calm_s.append(time.perf_counter() - started)
        started = time.perf_counter()
        writer.close()
        writer = await flowing_stream(url, f"after {number}", model, TOKENS)
        after_s.append(time.perf_counter() - started)
        writer.close()
        await asyncio.sleep(FREE_S_MAX)
    return calm_s, after_s
