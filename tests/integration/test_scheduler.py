"""The scheduler as a process, alone against a real broker; workers and edges are played by hand."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schemas import dispatch, subjects
from schemas.output import End, Lease, encode
from schemas.requests import MAX_TOKENS, QUEUE_TIMEOUT_S
from tests.integration.scheduler_under_test import (
    ACK_WAIT_S,
    TENANT,
    System,
    rid,
    system_on,
    until,
    until_depth,
)


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    async with system_on(tmp_path) as system:
        yield system


async def test_a_request_goes_to_a_worker_and_leaves_the_queue_with_its_end(system: System) -> None:
    await system.scheduler("s1")
    worker = await system.worker("w1")
    await system.publish(rid(1), {MAX_TOKENS: "12"}, b'{"prompt":"a"}')
    await until(lambda: worker.items)
    item = worker.items[rid(1)]
    assert (item.tenant, item.body, item.meta.max_tokens) == (TENANT, b'{"prompt":"a"}', 12)
    assert (item.attempt, item.ctl_seq, item.cause) == (1, 0, "first")
    assert 0 <= item.age_s < 5
    assert await system.depth() == 1
    await worker.finish(system, rid(1))
    await until_depth(system, 0)


async def test_requests_wait_for_slots_and_none_is_lost(system: System) -> None:
    await system.scheduler("s1")
    worker = await system.worker("w1", slots=3)
    for number in range(12):
        await system.publish(rid(number))
    done: set[str] = set()
    while len(done) < 12:
        await until(lambda: worker.items)
        assert len(worker.items) <= 3
        finished = next(iter(worker.items))
        await worker.finish(system, finished)
        done.add(finished)
    await until_depth(system, 0)
    assert len(worker.offers) == 12, "nobody was offered anything twice"


async def test_what_a_killed_worker_ran_is_elsewhere_within_two_seconds(system: System) -> None:
    await system.scheduler("s1")
    ready_at = time.monotonic()
    runs = await system.worker("w0")
    took_s = []
    for round_ in range(3):
        numbers = range(3 * round_, 3 * round_ + 3)
        for number in numbers:
            await system.publish(rid(number))
        await until(lambda runs=runs: len(runs.items) == 3)  # type: ignore[misc]
        for number in numbers:
            lease = encode(Lease(nonce="a", worker=runs.name, attempt=1, cause="first"))
            assert (await system.js.publish(subjects.output_ctl(TENANT, rid(number)), lease)).stored
        other = await system.worker(f"w{round_ + 1}")
        await until(lambda: system.newest.models[0].workers == 2)
        # Evidence against a worker counts only once the scheduler has been connected for two seconds.
        await until(lambda: time.monotonic() - ready_at > 2)
        killed_at = time.monotonic()
        await runs.kill()
        await until(lambda other=other: len(other.items) == 3)  # type: ignore[misc]
        took_s.append(max(at for at, _ in other.offers) - killed_at)
        for item in list(other.items.values()):
            last = await system.log.last_ctl(TENANT, item.rid)
            assert last is not None
            assert (item.attempt, item.cause, item.ctl_seq) == (2, "worker_dead", last.seq)
            await other.finish(system, item.rid)
        await until_depth(system, 0)
        runs = other
    assert min(took_s) < 2, took_s


async def test_a_worker_that_does_not_answer_is_passed_over(system: System) -> None:
    await system.scheduler("s1", offer_timeout_s=0.2)
    deaf = await system.worker("w1", slots=8)
    deaf.is_deaf = True
    other = await system.worker("w2", slots=1)
    await until(lambda: system.newest.models[0].workers == 2)
    await system.publish(rid(1))
    await until(lambda: other.items)
    await other.finish(system, rid(1))
    await until_depth(system, 0)


async def test_a_request_nobody_takes_ends_as_expired(system: System) -> None:
    await system.scheduler("s1")
    worker = await system.worker("w1", slots=1)
    await system.publish(rid(1))
    await until(lambda: worker.items)
    await system.publish(rid(2), {QUEUE_TIMEOUT_S: "0.5"})
    await until_depth(system, 1)
    last = await system.log.last_ctl(TENANT, rid(2))
    assert last is not None
    assert isinstance(last.record, End)
    assert (last.record.status, last.record.reason) == ("expired", "queue_timeout")


async def test_a_direct_publishers_nonsense_ends_as_an_error(system: System) -> None:
    await system.scheduler("s1")
    await system.worker("w1")
    await system.publish(rid(1), {MAX_TOKENS: "many"})
    await until_depth(system, 0)
    last = await system.log.last_ctl(TENANT, rid(1))
    assert last is not None
    assert isinstance(last.record, End)
    assert last.record.reason == "bad_request"


async def test_a_cancelled_request_leaves_the_queue(system: System) -> None:
    await system.scheduler("s1")
    worker = await system.worker("w1", slots=1)
    for number in range(30):
        await system.publish(rid(number))
    await until(lambda: worker.items)
    # 5 waits in the scheduler's window, 29 in the stream.
    for number in (5, 29):
        await system.log.close(TENANT, rid(number), End(status="cancelled", reason="cancelled"))
        system.bus.publish(subjects.cancel(TENANT, rid(number)), dispatch.encode(dispatch.Cancel()))
    await until_depth(system, 28)
    # Not cancelled, whatever a hint says: nothing may happen to it.
    system.bus.publish(subjects.cancel(TENANT, rid(28)), dispatch.encode(dispatch.Cancel()))
    for number in range(29):
        if number != 5:
            await until(lambda number=number: rid(number) in worker.items)  # type: ignore[misc]
            await worker.finish(system, rid(number))
    await until_depth(system, 0)


async def test_a_killed_leader_is_followed_by_the_standby(system: System) -> None:
    ack_wait_s = 6.0
    names = ("s1", "s2")
    schedulers = {
        name: await system.scheduler(name, ack_wait_s=ack_wait_s, leader_ttl_s=1.5) for name in names
    }
    worker = await system.worker("w1", slots=1)
    for number in range(4):
        await system.publish(rid(number))
    await until(lambda: worker.items)
    killed, term = system.newest.scheduler, system.newest.term
    schedulers[killed].kill()
    await until(lambda: system.newest.scheduler not in ("", killed))
    assert system.newest.term > term
    for _ in range(4):
        await until(lambda: worker.items, within_s=ack_wait_s + 10)
        await worker.finish(system, next(iter(worker.items)))
    await until_depth(system, 0)


async def test_a_stopped_leader_hands_over_at_once(system: System) -> None:
    names = ["s1", "s2", "s3", "s4"]
    schedulers = {name: await system.scheduler(name, leader_ttl_s=60) for name in names}
    worker = await system.worker("w1", slots=1)
    for number in range(4):
        await system.publish(rid(number))
    await until(lambda: worker.items)
    taken_after_s = []
    for _ in range(3):
        leader = system.newest.scheduler
        stopped_at = time.monotonic()
        schedulers[leader].send_signal(signal.SIGTERM)
        await until(lambda leader=leader: system.newest.scheduler != leader)  # type: ignore[misc]
        taken_after_s.append(time.monotonic() - stopped_at)
        assert await schedulers[leader].wait() == 0
    print(f"handed over in {[round(after_s * 1e3) for after_s in taken_after_s]} ms")
    # A standby without word of it tries every ten seconds. The first of them is as quick as it is, and most are.
    assert min(taken_after_s) < 0.2
    assert sorted(taken_after_s)[1] < 1
    for _ in range(4):
        await until(lambda: worker.items)
        await worker.finish(system, next(iter(worker.items)))
    await until_depth(system, 0)
    assert time.monotonic() - stopped_at < ACK_WAIT_S / 2, "what was held came back at once"
