"""Deadlines: wherever a request is when its time is over, its engine is stopped and its slot free in the same call."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from schemas.log import Entry
from schemas.output import Delta, End, Tok
from tests.unit.workers.world import RID, Harness, all_of, item, lease, one, record
from workers.engines.base import EngineFailed
from workers.events import Ack, Action, LogRead, Nak, Publish, SendPull, StartEngine, StopEngine, Tick

TIMEOUT_S = 5.0


def _harness() -> Harness:
    harness = Harness(slots=1, request_timeout_s=TIMEOUT_S, append_timeout_s=100, ack_wait_s=60)
    harness.do(Tick())
    return harness


def _end(publish: Publish) -> End:
    end = record(publish)
    assert isinstance(end, End)
    return end


def _at_the_deadline(harness: Harness) -> list[Action]:
    """What the tick of the deadline does, and only that."""
    harness.now = 100.0 + TIMEOUT_S
    return harness.do(Tick())


def _leasing(harness: Harness) -> None:
    harness.offer(item())


def _running(harness: Harness) -> None:
    harness.offer(item())
    harness.stored(10)


def _appending(harness: Harness) -> None:
    _running(harness)
    harness.output((1, "a"))


def _running_without_a_reader(harness: Harness) -> None:
    harness.offer(item(meta={"stream": False}))
    harness.stored(10)
    harness.output((1, "a"))


@pytest.mark.parametrize("place", [_leasing, _running, _appending, _running_without_a_reader])
def test_the_engine_is_stopped_and_the_slot_free_in_the_same_call(place: Callable[[Harness], None]) -> None:
    harness = _harness()
    place(harness)
    actions = _at_the_deadline(harness)
    assert one(actions, StopEngine)
    assert one(actions, SendPull).pull.free == 1
    for seq in range(20, 23):
        if harness.publish is not None and harness.publish.kind != "end":
            harness.stored(seq)
    assert harness.publish is not None
    end = _end(harness.publish)
    assert (end.status, end.reason) == ("expired", "request_timeout")
    assert one(harness.stored(30), Ack)


def test_while_it_reads_the_slot_is_free_and_the_engine_never_starts() -> None:
    harness = _harness()
    harness.offer(item(attempt=2, ctl_seq=10))
    harness.stored(20)
    read = harness.read
    assert one(_at_the_deadline(harness), SendPull).pull.free == 1
    assert read is not None
    entries = [Entry(10, lease("old")), Entry(11, Tok(10, 0, [1], [Delta("a")])), Entry(20, lease("w1.1", 2))]
    actions = harness.do(LogRead(read.key, read.op, entries))
    assert all_of(actions, StartEngine) == []
    end = _end(one(actions, Publish))
    assert (end.reason, end.n) == ("request_timeout", 1)


def test_what_is_finishing_already_ends_as_it_was_to() -> None:
    harness = _harness()
    _running(harness)
    assert _end(one(harness.finish((1, "a")), Publish)).status == "ok"
    assert all_of(_at_the_deadline(harness), Publish) == []
    assert one(harness.stored(11), Ack).ack == f"ack.{RID}.1"


def test_what_has_failed_is_given_back_and_expires_at_its_next_offer() -> None:
    harness = _harness()
    _running(harness)
    assert harness.request is not None
    harness.do(EngineFailed(harness.request.key, harness.request.run, "x"))
    assert all_of(_at_the_deadline(harness), Publish) == []
    assert one(harness.stored(11), Nak)
    publish = one(harness.offer(item(attempt=2, ctl_seq=11, age_s=TIMEOUT_S + 0.2)), Publish)
    assert (publish.expect, _end(publish).reason) == (11, "request_timeout")
