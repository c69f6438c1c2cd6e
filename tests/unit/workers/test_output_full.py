"""OUTPUT without room: running work ends, what cannot be stored waits, and nothing is sent again and again."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.output import Delta, End, Tail, Tok
from schemas.streams import OUTPUT_END_AT
from tests.unit.workers.world import KEY, RID, Harness, all_of, item, one, record
from workers.attempt import NO_ROOM_NAK_S
from workers.engines.base import EngineFailed
from workers.events import (
    Ack,
    HandOff,
    LeaderSeen,
    Nak,
    Publish,
    Reply,
    SendPull,
    Settled,
    StopEngine,
)
from workers.outbox import FULL, FULL_RETRY_S

LIMITED: dict[str, Any] = {"request_timeout_s": 100, "ack_wait_s": 12, "append_timeout_s": 1}


def _end(publish: Publish) -> End:
    end = record(publish)
    assert isinstance(end, End)
    return end


def _is_cut_off(publish: Publish) -> bool:
    """An END that says why, and tells nothing of a text that it may not know."""
    end = _end(publish)
    return (end.status, end.reason, end.n, end.sha256, end.tail, end.text) == (
        "error",
        "output_full",
        None,
        "",
        None,
        None,
    )


def test_a_refused_append_ends_the_request_at_once() -> None:
    harness = Harness()
    harness.running()
    harness.output((1, "a"))
    harness.stored(11)
    harness.output((2, "b"))
    harness.output((3, "c"))
    actions = harness.refused(FULL)
    assert one(actions, StopEngine).key == KEY
    publish = one(actions, Publish)
    assert (publish.kind, publish.expect) == ("end", 10)
    assert _is_cut_off(publish)
    assert one(harness.stored(12), Ack)


def test_what_runs_ends_when_the_leader_says_that_output_is_full() -> None:
    harness = Harness(slots=2)
    harness.running()
    harness.output((1, "a"))
    harness.stored(11)
    assert all_of(harness.do(LeaderSeen(1, OUTPUT_END_AT - 0.01)), StopEngine) == []
    actions = harness.do(LeaderSeen(1, OUTPUT_END_AT))
    assert one(actions, StopEngine)
    end = _end(one(actions, Publish))
    assert (end.reason, end.n) == ("output_full", 1), "nothing was dropped, so the text is known"


def test_an_append_in_flight_is_settled_first_and_nothing_follows_it() -> None:
    harness = Harness()
    harness.running()
    harness.output((1, "a"))
    harness.output((2, "b"))
    actions = harness.do(LeaderSeen(1, 1.0))
    assert one(actions, StopEngine), "the slot is free at once"
    assert all_of(actions, Publish) == []
    assert _is_cut_off(one(harness.stored(11), Publish))


def test_a_lease_in_flight_is_settled_first() -> None:
    harness = Harness()
    harness.offer(item())
    assert one(harness.do(LeaderSeen(1, 1.0)), StopEngine)
    assert _end(one(harness.stored(10), Publish)).reason == "output_full"


def test_what_is_complete_may_still_end_well() -> None:
    """Its last tokens travel inside END, for which there is room; the text is not told twice."""
    harness = Harness(append_interval_s=0)
    harness.running(meta={"stream": False})
    harness.output((1, "a"))
    harness.finish((2, "b"))
    harness.do(LeaderSeen(1, 1.0))
    end = _end(one(harness.stored(11), Publish))
    assert (end.status, end.n, end.tail, end.text) == ("ok", 2, Tail(1, [2], [Delta("b")]), None)


def test_what_is_complete_but_too_long_for_end_is_cut_off() -> None:
    harness = Harness(append_bytes_max=100)
    harness.running()
    harness.output((0, ""))
    for i in range(1, 4):
        harness.output((i, "x" * 40))
    harness.finish()
    harness.do(LeaderSeen(1, 1.0))
    assert _is_cut_off(one(harness.stored(11), Publish))


def test_a_full_worker_takes_nothing_and_says_so_and_takes_again_later() -> None:
    harness = Harness(slots=4)
    harness.do(LeaderSeen(1))
    assert one(harness.do(LeaderSeen(1, 0.96)), SendPull).pull.free == 0
    assert one(harness.offer(item()), Reply).answers == ["full"]
    assert all_of(harness.do(LeaderSeen(1, 0.96)), SendPull) == []
    assert one(harness.do(LeaderSeen(1, 0.5)), SendPull).pull.free == 4
    assert one(harness.offer(item()), Reply).answers == ["accepted"]


@pytest.mark.parametrize("ctl_seq", [0, 10])
def test_a_refused_lease_gives_the_delivery_back_with_a_delay(ctl_seq: int) -> None:
    harness = Harness()
    harness.offer(item(attempt=2, ctl_seq=ctl_seq))
    actions = harness.refused(FULL)
    assert one(actions, Nak) == Nak(f"ack.{RID}.2", NO_ROOM_NAK_S)
    assert one(actions, Settled).outcome == "no_room"
    assert len(all_of(actions, StopEngine)) == (ctl_seq == 0)
    assert all_of(harness.later(60), Publish) == []


def test_a_refused_end_is_sent_again_slowly_until_it_is_given_up() -> None:
    harness = Harness(**LIMITED)
    harness.running()
    end = one(harness.finish((1, "a")), Publish)
    for _ in range(3):
        assert harness.refused(FULL) == []
        assert all_of(harness.later(FULL_RETRY_S - 0.1), Publish) == []
        assert all_of(harness.later(0.2), Publish) == [end]
    settled: list[Settled] = []
    publishes = 0
    while not settled:
        harness.refused(FULL)
        actions = harness.later(FULL_RETRY_S + 0.1)
        publishes += len(all_of(actions, Publish))
        settled += all_of(actions, Settled)
        assert all_of(actions, Ack) == []
    assert settled[0].outcome == "gave_up"
    assert harness.now - 100 <= LIMITED["request_timeout_s"] + LIMITED["ack_wait_s"] + FULL_RETRY_S + 1
    assert publishes <= 112 / FULL_RETRY_S


def test_a_refused_end_is_stored_when_there_is_room_again() -> None:
    harness = Harness()
    harness.running()
    harness.finish((1, "a"))
    harness.refused(FULL)
    harness.later(FULL_RETRY_S + 0.1)
    assert one(harness.stored(11), Ack)


def test_a_failed_record_without_room_gives_the_delivery_back() -> None:
    harness = Harness()
    harness.running()
    assert harness.request is not None
    harness.do(EngineFailed(KEY, harness.request.run, "x"))
    assert one(harness.refused(FULL), Nak) == Nak(f"ack.{RID}.1", NO_ROOM_NAK_S)


def test_a_hand_off_without_room_gives_the_delivery_back() -> None:
    harness = Harness()
    harness.running()
    harness.output((1, "a"))
    harness.output((2, "b"))
    harness.do(HandOff())
    publish = one(harness.refused(FULL), Publish)
    assert publish.kind == "handoff"
    assert one(harness.refused(FULL), Nak) == Nak(f"ack.{RID}.1", NO_ROOM_NAK_S)
    assert harness.core.drained


def test_an_expired_request_whose_append_has_no_room_ends_as_expired() -> None:
    harness = Harness(request_timeout_s=5, append_timeout_s=100)
    harness.running()
    harness.output((1, "a"))
    harness.later(5.1)
    end = _end(one(harness.refused(FULL), Publish))
    assert (end.status, end.reason, end.n) == ("expired", "request_timeout", None)


def test_an_append_that_an_unanswered_try_stored_does_not_make_end_lie() -> None:
    """The first try is in the log, its answer was lost, and the second one is refused: END cannot count it."""
    harness = Harness(append_timeout_s=1)
    harness.running()
    append = one(harness.output((1, "a")), Publish)
    assert record(append) == Tok(10, 0, [1], [Delta("a")])
    assert all_of(harness.later(1.1), Publish) == [append]
    assert _is_cut_off(one(harness.refused(FULL), Publish))
