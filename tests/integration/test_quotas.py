"""Bounds for those who publish without an edge, with a real broker and a scheduler process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schemas import subjects
from schemas.output import End, Lease, encode
from schemas.requests import EDGE
from tests.integration.scheduler_under_test import System, rid, system_on, until

QUOTA = 100


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    async with system_on(tmp_path) as system:
        yield system


async def publish(system: System, tenant: str, numbers: range, edge: str = "") -> None:
    headers = f"NATS/1.0\r\n{EDGE}: {edge}\r\n\r\n".encode() if edge else b""
    for number in numbers:
        subject = subjects.request("standard", "m", tenant, rid(number))
        assert (await system.js.publish(subject, b"{}", headers=headers)).stored


async def end_of(system: System, tenant: str, number: int) -> End | None:
    last = await system.log.last_ctl(tenant, rid(number))
    return last.record if last is not None and isinstance(last.record, End) else None


async def ended(system: System, tenant: str, numbers: range) -> list[int]:
    return [number for number in numbers if await end_of(system, tenant, number) is not None]


async def until_depth_stays(system: System, depth: int) -> None:
    deadline = time.monotonic() + 30
    while await system.depth() != depth:
        assert time.monotonic() < deadline, await system.depth()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("setting", ["tenant_queue_max", "model_queue_max"])
async def test_direct_publishers_over_a_bound_end_with_an_error_that_names_it(
    system: System, setting: str
) -> None:
    await system.scheduler("s1", **{setting: QUOTA})
    worker = await system.worker("w1", slots=4)
    await publish(system, "public", range(150))
    await until_depth_stays(system, QUOTA)
    assert await ended(system, "public", range(150)) == list(range(QUOTA, 150)), "those that came last"
    for number in range(QUOTA, 150):
        end = await end_of(system, "public", number)
        assert end is not None
        assert (end.status, end.reason) == ("error", "quota_exceeded")
        assert setting in end.message
        assert str(QUOTA) in end.message
    done: set[str] = set()
    while len(done) < QUOTA:
        await until(lambda: worker.items)
        finished = next(iter(worker.items))
        await worker.finish(system, finished)
        done.add(finished)
    assert done == {rid(number) for number in range(QUOTA)}, "all others complete"
    await until_depth_stays(system, 0)


async def test_others_and_what_edges_admitted_are_not_touched(system: System) -> None:
    await system.scheduler("s1", tenant_queue_max=10)
    await system.worker("w1", slots=4)
    await publish(system, "public", range(8))
    await publish(system, "other", range(100, 109))
    await publish(system, "public", range(8, 14), edge="edge-a")
    await publish(system, "public", range(14, 20))
    await until_depth_stays(system, 8 + 9 + 6)
    assert await ended(system, "public", range(20)) == list(range(14, 20))
    assert await ended(system, "other", range(100, 109)) == []


async def test_what_has_been_begun_is_not_ended(system: System) -> None:
    """An urgent class overtakes what was queued before it."""
    await system.scheduler("s1", tenant_queue_max=3)
    worker = await system.worker("w1", slots=1)
    await publish(system, "public", range(3))
    await until(lambda: worker.items)
    held = next(iter(worker.items))
    subject = subjects.request("interactive", "m", "public", rid(3))
    lease = encode(Lease(nonce="w1", worker="w1", attempt=1, cause="first"))
    assert (await system.js.publish(subjects.output_ctl("public", rid(3)), lease)).stored
    assert (await system.js.publish(subject, b"{}")).stored
    await publish(system, "public", range(4, 6))
    await until_depth_stays(system, 4)
    assert held == rid(0)
    assert await ended(system, "public", range(6)) == [4, 5]


async def test_a_look_at_ten_thousand_requests_is_cheap(system: System) -> None:
    await system.scheduler("s1", tenant_queue_max=9_000, queue_max=20_000)
    await asyncio.gather(
        *[publish(system, f"t{part}", range(part * 500, part * 500 + 500)) for part in range(20)]
    )
    took_s = []
    for _ in range(5):
        begun = time.monotonic()
        counts = await system.js.counts_by_subject("REQUESTS", subjects.REQUESTS_ALL)
        took_s.append(time.monotonic() - begun)
        assert len(counts) == 10_000
    print(f"10,000 subjects in {min(took_s) * 1e3:.0f} ms")
    assert min(took_s) < 0.5, "what others took more, the machine added"
