"""A client that leaves in mid-stream: its slot is free again at once."""

from __future__ import annotations

import asyncio

import pytest

from bench.cancel import SLOTS, leave_streams
from bench.result_file import percentile, seconds
from tests.acceptance.conftest import StartSystem
from tests.acceptance.tap import assert_clean

CANCELS = 20
FREED_P50_MAX_S = 0.1


def test_the_slot_of_a_client_that_left_is_free_at_once(
    start_system: StartSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    system = start_system(slots=SLOTS, itl_ms=5, ttft_ms=5)
    freed_s = asyncio.run(leave_streams(system.url, system.nats_url, CANCELS))
    with capsys.disabled():
        print(f"\n{CANCELS} clients left: slot free after {seconds(freed_s)}")
    assert percentile(freed_s, 50) < FREED_P50_MAX_S
    logs = assert_clean(system.nats_url, [])
    assert [log.status for log in logs.values()] == ["cancelled"] * CANCELS
