"""What the leader owes to requests that are cancelled, left alone, suspected, or short of room: on a real broker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from scheduler.watchdog import STUCK_S
from schemas import dispatch, streams, subjects
from schemas.dispatch import Cancel, EdgeBeat, Reader
from schemas.ids import ModelKey
from schemas.log import Entry
from schemas.output import End, Failed, Lease, Tok, decode_ctl, encode
from schemas.requests import FINGERPRINT, GRACE_S, QUEUE_TIMEOUT_S
from schemas.streams import OUTPUT, OUTPUT_HOLD_AT, ConsumerSpec
from tests.integration.scheduler_under_test import (
    ACK_WAIT_S,
    TENANT,
    FakeWorker,
    System,
    rid,
    system_on,
    until,
    until_depth,
)

EDGE_SILENT_S = 3.0
"""Ten heartbeats of an edge here."""


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    async with system_on(tmp_path) as system:
        yield system


class FakeEdge:
    """Says who reads until it is killed."""

    def __init__(self, system: System, name: str) -> None:
        self.readers: dict[str, float | None] = {}
        self._bus = system.bus
        self._name = name
        self._beating = asyncio.create_task(self._beat_on())

    def beat(self) -> None:
        readers = [Reader(TENANT, rid, grace_s) for rid, grace_s in self.readers.items()]
        self._bus.publish(subjects.EDGE, dispatch.encode(EdgeBeat(self._name, readers)))

    def kill(self) -> None:
        self._beating.cancel()

    async def _beat_on(self) -> None:
        while True:
            self.beat()
            await asyncio.sleep(0.3)


async def lease(system: System, worker: FakeWorker, number: int, fingerprint: str = "") -> int:
    record = Lease(worker.name, worker.name, 1, "first", fingerprint=fingerprint)
    return await write(system, number, record)


async def write(system: System, number: int, record: Lease | Failed | Tok) -> int:
    tail = subjects.output_tok if isinstance(record, Tok) else subjects.output_ctl
    ack = await system.js.publish(tail(TENANT, rid(number)), encode(record))
    assert ack.stored
    return ack.seq


async def wish(system: System, number: int) -> End | None:
    reply = await system.bus.request(
        subjects.cancel(TENANT, rid(number)), dispatch.encode(Cancel("not needed", close=True)), timeout_s=5
    )
    if not reply.payload:
        return None
    end = decode_ctl(reply.payload)
    assert isinstance(end, End)
    return end


async def last(system: System, number: int) -> Entry | None:
    return await system.log.last_ctl(TENANT, rid(number))


async def until_end(system: System, number: int, within_s: float = 15.0) -> End:
    deadline = time.monotonic() + within_s
    while True:
        entry = await last(system, number)
        if entry is not None and isinstance(entry.record, End):
            return entry.record
        assert time.monotonic() < deadline, f"request {number} did not end in time"
        await asyncio.sleep(0.02)


# Cancels.


async def test_a_wish_is_granted_in_every_state_and_told_what_is_in_the_log(system: System) -> None:
    await system.scheduler("s1")
    worker = await system.worker("w1", slots=1)
    assert await wish(system, 9) is None, "nobody knows it"
    assert await last(system, 9) is None, "and so nothing was written"
    for number in range(8):
        await system.publish(rid(number), {FINGERPRINT: f"f{number}"})
    await until(lambda: worker.items)
    await lease(system, worker, 0, "f0")
    for number in (0, 2, 7):  # one runs, one is held by the leader, one waits in the queue
        end = await wish(system, number)
        assert end is not None
        assert (end.status, end.reason, end.message) == ("cancelled", "cancelled", "not needed")
        assert end.fingerprint == f"f{number}"
    await until(lambda: rid(1) in worker.items)
    await until_depth(system, 5)
    await worker.finish(system, rid(1))
    finished = await wish(system, 1)
    assert finished is not None
    assert finished.status == "ok", "what is finished stays finished"
    for number in (3, 4, 5, 6):
        await until(lambda number=number: rid(number) in worker.items)  # type: ignore[misc]
        await worker.finish(system, rid(number))
    await until_depth(system, 0)
    assert [item.rid for _, item in worker.offers] == [rid(number) for number in (0, 1, 3, 4, 5, 6)]


async def test_a_running_request_is_freed_within_a_moment_of_the_wish(system: System) -> None:
    await system.scheduler("s1")
    worker = await system.worker("w1")
    took_s = []
    for number in range(1, 6):
        await system.publish(rid(number))
        await until(lambda: worker.items)
        await lease(system, worker, number)
        began = time.monotonic()
        assert await wish(system, number)
        await until(lambda: not worker.items)
        took_s.append(time.monotonic() - began)
    assert min(took_s) < 0.5
    await until_depth(system, 0)


async def test_of_a_thousand_cancelled_in_the_queue_none_is_run(system: System) -> None:
    await system.scheduler("s1")
    worker = await system.worker("w1", slots=1)
    await system.publish(rid(0))
    await until(lambda: worker.items)
    numbers = range(1, 1001)
    for number in numbers:
        await system.publish(rid(number))
    for number in numbers:
        await system.log.close(TENANT, rid(number), End(status="cancelled", reason="cancelled"))
    for number in numbers:
        system.bus.publish(subjects.cancel(TENANT, rid(number)), dispatch.encode(Cancel()))
    await until(lambda: len(worker.hints) >= 1000)
    await worker.finish(system, rid(0))
    await until_depth(system, 0)
    assert len(worker.offers) == 1


# Grace.


async def grace_system(system: System) -> FakeWorker:
    await system.scheduler("s1", edge_interval_s=0.3, edge_silent_s=EDGE_SILENT_S)
    return await system.worker("w1")


async def test_a_dead_edges_request_is_cancelled_after_its_grace(system: System) -> None:
    worker = await grace_system(system)
    first, second = FakeEdge(system, "e1"), FakeEdge(system, "e2")
    first.readers = {rid(1): 0.5, rid(2): 0.5, rid(3): None}
    for number in (1, 2, 3):
        await system.publish(rid(number), {GRACE_S: "0.5"})
    await until(lambda: len(worker.items) == 3)
    for number in (1, 2, 3):
        await lease(system, worker, number)
    await asyncio.sleep(EDGE_SILENT_S + 0.5)
    assert len(worker.items) == 3, "somebody reads"
    first.kill()
    second.readers = {rid(2): 0.5}
    end = await until_end(system, 1)
    assert (end.status, end.message) == ("cancelled", "nobody reads it any more")
    await until(lambda: rid(1) not in worker.items)
    assert rid(2) in worker.items, "its reader went on at another edge"
    second.readers = {}
    assert (await until_end(system, 2)).status == "cancelled"
    await until(lambda: rid(2) not in worker.items)
    assert list(worker.items) == [rid(3)], "its last reader let it run to its end"
    second.kill()


async def test_a_waiting_request_that_nobody_reads_leaves_the_queue(system: System) -> None:
    worker = await grace_system(system)
    await system.publish(rid(0))
    await system.publish(rid(1))
    await system.publish(rid(2))
    await system.publish(rid(3))
    await until(lambda: len(worker.items) == 4)
    await system.publish(rid(9), {GRACE_S: "0"})
    assert (await until_end(system, 9)).status == "cancelled"
    await until_depth(system, 4)


# Suspects.


async def test_a_request_with_a_strike_runs_alone_until_its_first_token(system: System) -> None:
    await system.scheduler("s1", alone_wait_s=60)
    busy = await system.worker("w1", slots=2)
    await system.publish(rid(1))
    await until(lambda: busy.items)
    empty = await system.worker("w2", slots=8)
    await until(lambda: system.newest.models[0].workers == 2)
    suspect = await _fail_once(system, empty, 2)
    assert suspect.items[rid(2)].attempt == 2
    await system.publish(rid(3))
    await until(lambda: rid(3) in busy.items)
    await system.publish(rid(4))
    await asyncio.sleep(0.5)
    assert rid(4) not in suspect.items, "it waits, although there are seven slots"
    empty.tokenless.clear()
    await until(lambda: rid(4) in suspect.items)


async def _fail_once(system: System, worker: FakeWorker, number: int) -> FakeWorker:
    """A request whose engine raises at its first attempt, and that comes back to the worker."""
    worker.tokenless.add(rid(number))
    await system.publish(rid(number))
    await until(lambda: rid(number) in worker.items)
    item = worker.items.pop(rid(number))
    await lease(system, worker, number)
    await write(system, number, Failed(worker.name, "boom"))
    worker.pull()
    system.js.nak(item.ack)
    await until(lambda: rid(number) in worker.items)
    assert worker.items[rid(number)].cause == "engine_error"
    return worker


# A full OUTPUT.

OUTPUT_BYTES = 4 << 20


async def fill(system: System, share: float) -> None:
    """Other requests' logs take up that much of OUTPUT; 1: until nothing fits any more."""
    subject = subjects.output_tok(TENANT, rid(999_999))
    size = 64 << 10
    while (await system.js.usage(OUTPUT)).share < share:
        ack = await system.js.publish(subject, b"x" * size)
        if not ack.stored:
            size //= 2
            if not size:
                return


async def empty(system: System) -> None:
    body = msgspec.json.encode({"filter": subjects.output_tok(TENANT, rid(999_999))})
    await system.bus.request(subjects.js_stream("PURGE", OUTPUT), body, timeout_s=5)


async def test_a_nearly_full_output_holds_up_what_is_new(system: System) -> None:
    await system.scheduler("s1", output_bytes_max=OUTPUT_BYTES)
    worker = await system.worker("w1")
    await system.publish(rid(1))
    await until(lambda: worker.items)
    await lease(system, worker, 1)
    await fill(system, OUTPUT_HOLD_AT)
    await until(lambda: system.newest.output_used >= OUTPUT_HOLD_AT)
    await system.publish(rid(2))
    await system.publish(rid(3), {QUEUE_TIMEOUT_S: "0.5"})
    item = worker.items.pop(rid(1))
    system.js.nak(item.ack)
    await until(lambda: rid(1) in worker.items)
    assert (await until_end(system, 3)).reason == "queue_timeout"
    assert list(worker.items) == [rid(1)], "what has a lease goes on, what is new waits"
    await empty(system)
    await until(lambda: rid(2) in worker.items)


async def test_a_full_output_refuses_ends_quietly_and_recovers(system: System, tmp_path: Path) -> None:
    await system.scheduler("s1", output_bytes_max=OUTPUT_BYTES)
    worker = await system.worker("w1", slots=1)
    await system.publish(rid(0))
    await until(lambda: worker.items)
    await fill(system, 1.0)
    for number in range(1, 6):
        await system.publish(rid(number), {QUEUE_TIMEOUT_S: "0.2"})
    log = tmp_path / "s1.log"
    await until(lambda: "OUTPUT is full" in log.read_text())
    await asyncio.sleep(3)
    assert log.read_text().count("OUTPUT is full") == 1
    assert await system.depth() == 6
    await empty(system)
    await until_depth(system, 1, within_s=ACK_WAIT_S + 10)
    assert "OUTPUT takes records again" in log.read_text()


# Consumers.


def consumer() -> ConsumerSpec:
    return streams.requests_consumer("standard", ModelKey("m"), ack_wait_s=ACK_WAIT_S, queue_max=1)


async def test_a_consumer_that_was_deleted_is_made_at_once(system: System) -> None:
    await system.scheduler("s1")
    worker = await system.worker("w1")
    await system.publish(rid(1))
    await until(lambda: worker.items)
    await lease(system, worker, 1)
    await system.js.delete_consumer(consumer())
    await system.publish(rid(2))
    await until(lambda: rid(2) in worker.items, within_s=STUCK_S * 0.8)  # before anybody would find it stuck
    await until(lambda: len(worker.offers) == 3)
    again = [item for _, item in worker.offers if item.rid == rid(1)]
    assert [(item.attempt, item.cause) for item in again] == [(1, "first"), (1, "redelivered")]
    assert again[1].ctl_seq > 0, "it counts from one again, and is not taken for new"
    await worker.finish(system, rid(2))
    await until_depth(system, 1)


@pytest.mark.slow
async def test_a_consumer_that_is_stuck_is_made_anew(system: System, tmp_path: Path) -> None:
    await system.scheduler("s1")
    worker = await system.worker("w1")
    pause = msgspec.json.encode({"pause_until": "2999-01-01T00:00:00Z"})
    spec = consumer()
    paused = await system.bus.request(
        subjects.js_consumer("PAUSE", spec.stream, spec.name), pause, timeout_s=5
    )
    assert b'"paused":true' in paused.payload.replace(b" ", b"")
    await asyncio.sleep(2.5)  # until the fetches from before are over
    await system.publish(rid(1))
    log = tmp_path / "s1.log"
    await until(lambda: '"remedy":"reopen"' in log.read_text().replace(" ", ""), within_s=20)
    assert not worker.items
    await until(lambda: worker.items, within_s=20)
    assert '"remedy":"remake"' in log.read_text().replace(" ", "")
